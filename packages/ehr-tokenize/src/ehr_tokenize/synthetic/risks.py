"""Labels with the risk behind them: the true one, and the best that the record allows.

`labels/<task>/labels.parquet` are MEDS labels; `risks/<task>.parquet` has, for the rows of some
splits, the outcome beside

    true_risk   P(positive | latent state at the prediction time, the row is labelled)
    best_risk   P(positive | record up to the prediction time, the row is labelled)

The first is exact for tasks predicted in a stay, and the mean over `true_draws` futures for the
others. The second averages the same over states drawn by `posterior`.
"""

from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from ehr_tokenize.synthetic.block import BLOCK, ENTRY_DAYS, LAST_DAY, Block, draw_block
from ehr_tokenize.synthetic.conditions import LABS
from ehr_tokenize.synthetic.config import SynthConfig
from ehr_tokenize.synthetic.course import DAYS, Aftermath, instability
from ehr_tokenize.synthetic.disease import NAMES, Bools, Floats, Ints, Latent
from ehr_tokenize.synthetic.evidence import YEAR, Evidence, first_day_age, read_evidence
from ehr_tokenize.synthetic.future import (
    Share,
    State,
    after_discharge,
    death_in_stay,
    next_measurement,
    stays_long,
)
from ehr_tokenize.synthetic.labelled import Tables, labelled, write_labelled
from ehr_tokenize.synthetic.pool import over, splits_of
from ehr_tokenize.synthetic.posterior import Chains, Draws
from ehr_tokenize.synthetic.tasks import LAB, TaskRows, Visits, label, read_visits
from ehr_tokenize.synthetic.views import Query

CHUNK = 256
"""Subjects whose risks one process works out at a time."""
AT_ONCE = 100_000
"""Futures that are drawn together."""
IN_STAY = {"in_hospital_mortality": death_in_stay, "long_stay": stays_long}
NEXT_VISIT = "abnormal_lab_next_visit"
RELEVANT = [NAMES.index(x) for x in LABS[LAB].loads]


def write_risks(directory: Path, config: SynthConfig, *, workers: int = 1) -> None:
    """Write `labels/` and `risks/` of a cohort into its directory.

    Args:
        directory: The data set's.
        config: From which it was drawn.
        workers: Processes.
    """
    chunks = [(first // BLOCK, first % BLOCK) for first in range(0, config.num_patients, CHUNK)]
    write_labelled(directory, over(partial(chunk_risks, config), chunks, workers, "risks"))


def chunk_risks(config: SynthConfig, number: int, first: int) -> Tables:
    """Labels of some subjects of a block, and the risks of those in the wanted splits.

    Args:
        config: Of the cohort.
        number: Of the block.
        first: Row of the first of `CHUNK` subjects in the block.
    """
    block = draw_block(config, number)
    visits = read_visits(block.rows)
    mine = (visits.subject >= first) & (visits.subject < first + CHUNK)
    wanted = np.isin(splits_of(block.ids, config.seed), config.risks.splits)
    labelled = label(block, visits)
    tasks = {t: _kept(rows, mine[rows.visit]) for t, rows in labelled.items()}
    asked = {t: _kept(rows, wanted[visits.subject[rows.visit]]) for t, rows in tasks.items()}
    rng = np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(number, 2, first)))
    evidence = read_evidence(block, visits)
    with threadpool_limits(1):  # threads only slow down products of such small matrices
        true = _true_risks(rng, block, visits, evidence, asked, config)
        best = _best_risks(rng, block, visits, evidence, asked, config)
    return {
        task: (
            _table(block, visits, tasks[task], {}),
            _table(block, visits, rows, {"true_risk": true[task], "best_risk": best[task]}),
        )
        for task, rows in asked.items()
    }


def _kept(rows: TaskRows, which: Bools) -> TaskRows:
    return TaskRows(rows.visit[which], rows.minute[which], rows.label[which])


def _table(block: Block, visits: Visits, rows: TaskRows, risks: Mapping[str, Floats]) -> pa.Table:
    return labelled(block.ids[visits.subject[rows.visit]], rows.minute, rows.label, risks)


def _last_stay(visits: Visits) -> Ints:
    """[E], the latest stay of the same subject up to and with each encounter; -1: none."""
    index = np.where(visits.stay, np.arange(len(visits.stay)), -1)
    latest = np.maximum.accumulate(index) if len(index) else index
    first = np.searchsorted(visits.subject, visits.subject)
    return np.where(latest >= first, latest, -1)


def _states(block: Block, visits: Visits, evidence: Evidence, at: Ints) -> State:
    """The latent state as it was when some encounters ended."""
    subject = visits.subject[at]
    last = _last_stay(visits)[at]
    return State(
        latent=block.latent.take(subject),
        male=block.male[subject],
        age=evidence.end[at],
        closing=(LAST_DAY - block.birth[subject]) / YEAR,
        before=_aftermath(evidence, last, block.encounters.acute[last]),
        usual=block.usual[subject, LAB],
        known=_known(evidence, at),
    )


def _aftermath(evidence: Evidence, last: Ints, acute: Floats) -> Aftermath:
    return Aftermath(
        np.where(last >= 0, evidence.end[last], -np.inf),
        np.where(last >= 0, instability(acute), 0.0),
    )


def _known(evidence: Evidence, at: Ints) -> Bools:
    """Whether what a measurement is ordered for has been coded up to the end of an encounter."""
    known: Bools = np.any((evidence.known | (evidence.stage >= 0))[at][:, RELEVANT], axis=1)
    return known


def _ratio(total: Share) -> Floats:
    """Of a row that no future made count, its being one says that the outcome came."""
    positive, counts = total
    return np.where(counts > 0, positive / np.where(counts > 0, counts, 1), 1.0)


def _futures(
    rng: np.random.Generator, states: State, draws: int, config: SynthConfig, *, discharge: bool
) -> dict[str, Share]:
    """Sums over futures of each state."""
    n = len(states.age)
    sums: dict[str, Share] = defaultdict(lambda: (np.zeros(n), np.zeros(n)))
    step = max(AT_ONCE // draws, 1)
    for low in range(0, n, step):
        which = np.repeat(np.arange(low, min(low + step, n)), draws)
        state = states.take(which)
        if discharge:
            shares = after_discharge(rng, state, config)
        else:
            shares = {NEXT_VISIT: next_measurement(rng, state, config)}
        for task, share in shares.items():
            for total, part in zip(sums[task], share, strict=True):
                total[:] += np.bincount(which, part, minlength=n)
    return sums


def _moments(asked: Mapping[str, TaskRows]) -> tuple[Ints, Ints]:
    """Encounters at whose end something is predicted: discharges, and those of the next visit."""
    skipped = {*IN_STAY, NEXT_VISIT}
    discharges = [rows.visit for task, rows in asked.items() if task not in skipped]
    return np.unique(np.concatenate(discharges)), asked[NEXT_VISIT].visit


def _true_risks(
    rng: np.random.Generator,
    block: Block,
    visits: Visits,
    evidence: Evidence,
    asked: Mapping[str, TaskRows],
    config: SynthConfig,
) -> dict[str, Floats]:
    draws = config.risks.true_draws
    risks = {t: f(block.encounters.acute[asked[t].visit]) for t, f in IN_STAY.items()}
    for at, discharge in zip(_moments(asked), (True, False), strict=True):
        states = _states(block, visits, evidence, at)
        for task, sums in _futures(rng, states, draws, config, discharge=discharge).items():
            risks[task] = _ratio(sums)[np.searchsorted(at, asked[task].visit)]
    return {task: risks.get(task, np.zeros(0)) for task in asked}


def _best_risks(
    rng: np.random.Generator,
    block: Block,
    visits: Visits,
    evidence: Evidence,
    asked: Mapping[str, TaskRows],
    config: SynthConfig,
) -> dict[str, Floats]:
    discharges, ends = (set(x.tolist()) for x in _moments(asked))
    running = set(np.concatenate([asked[t].visit for t in IN_STAY]).tolist())
    moments = sorted({(e, 0) for e in running} | {(e, 1) for e in discharges | ends})
    risk: dict[tuple[str, int], float] = {}
    for subject in np.unique(visits.subject[[e for e, _ in moments]] if moments else []):
        low, high = np.searchsorted(visits.subject, [subject, subject + 1])
        mine = [(e, whole) for e, whole in moments if low <= e < high]
        earliest = float(first_day_age(block)[subject])
        window = (earliest, earliest + ENTRY_DAYS / DAYS)
        record = evidence.take(slice(low, high))
        chains = Chains(rng, record, bool(block.male[subject]), window, config)
        queries = [Query(e - low, not whole) for e, whole in mine]
        for (e, whole), draws in zip(mine, chains.sample(queries), strict=True):
            if not whole:
                for task, f in IN_STAY.items():
                    risk[task, e] = float(f(draws.acute).mean())
                continue
            state = _drawn(draws, block, visits, evidence, e)
            kinds = [True] * (e in discharges) + [False] * (e in ends)
            for discharge in kinds:
                shares = _futures(rng, state, config.risks.futures, config, discharge=discharge)
                for task, share in shares.items():
                    total = tuple(np.array([x.sum()]) for x in share)
                    risk[task, e] = float(_ratio((total[0], total[1]))[0])
    return {
        task: np.array([risk[task, e] for e in rows.visit.tolist()], float)
        for task, rows in asked.items()
    }


def _drawn(draws: Draws, block: Block, visits: Visits, evidence: Evidence, at: int) -> State:
    """States of the sampler at the end of an encounter."""
    n = len(draws.frailty)
    subject = visits.subject[at]
    everywhere = np.full(n, at)
    return State(
        latent=Latent(draws.frailty, draws.onset, draws.rate, draws.propensity),
        male=np.full(n, block.male[subject]),
        age=evidence.end[everywhere],
        closing=np.full(n, (LAST_DAY - block.birth[subject]) / YEAR),
        before=_aftermath(evidence, _last_stay(visits)[everywhere], draws.acute),
        usual=draws.usual[:, LAB],
        known=_known(evidence, everywhere),
    )
