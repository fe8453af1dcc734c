"""Candidates for the course of each condition of one subject, and what they imply.

The posterior of a condition's (onset, progression) is taken over a finite pool of candidates with
importance weights: drawn from a broad proposal, then resampled towards those that explain the codes
and drugs of the record (a third stays as drawn). The last candidate, number M, is "not begun".

Shapes: `C` conditions, `M` candidates, `E` encounters, `G` nodes of time outside stays.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ehr_tokenize.synthetic.conditions import CONDITIONS
from ehr_tokenize.synthetic.config import SynthConfig
from ehr_tokenize.synthetic.disease import BURDEN, NAMES, Bools, Floats, Ints
from ehr_tokenize.synthetic.evidence import Evidence
from ehr_tokenize.synthetic.records import DIALYSED, DIALYSIS_FROM, GIVEN, coding_chance

RAW = 4096
SPREAD = 0.65
"""Deviation of the logarithm of the progression in the proposal."""
SOFT = 0.02
"""A candidate whose severity misses the coded stage by d has the likelihood exp(-(d / SOFT)² / 2):
0 but for rounding, and never 0 for all."""
RAW_SHARE = 0.3
BOUNDS = np.array([0.0, 1 / 3, 2 / 3, 1.0])
KIDNEY = NAMES.index("kidney_disease")


@dataclass(frozen=True, slots=True)
class Nodes:
    """Quadrature over the time outside stays: midpoints."""

    age: Floats
    """[G]."""
    years: Floats
    """[G], width."""
    gap: Ints
    """[G], the encounter that ends the gap."""
    last: Ints
    """[G], the last stay before, -1 where there is none."""
    entering: int
    """How many of the first nodes may lie before the subject's entry."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The candidates of one subject."""

    onset: Floats
    """[C, M + 1], infinite for the last."""
    log_rate: Floats
    """[C, M + 1]."""
    log_weight: Floats
    """[C, M + 1], of the pool: minus the log density of the proposal."""
    encounter: Floats
    """[C, M + 1, E], severity when each encounter starts."""
    rates: tuple[Floats, Floats, Floats]
    """[C, M + 1, G], factor on the rate of visits, stays and deaths at the nodes."""
    seen: Floats
    """[C, M + 1, E + 1], log likelihood of what whole encounters before each say."""
    running: Floats
    """[C, M + 1, E], the same of each encounter while it still runs."""


def nodes(evidence: Evidence, earliest: float, latest: float) -> Nodes:
    """Cut the time outside stays into pieces that are short after a discharge.

    Args:
        evidence: Of one subject.
        earliest: Age at which the subject can have entered.
        latest: Age up to which it must have.
    """
    edges, gap, last = [], [], []
    stop = min(latest, float(evidence.start[0]))
    cuts = np.linspace(earliest, stop, 9)
    edges += list(pairwise(cuts.tolist()))
    begin, stay = stop, -1
    gap, last = [0] * len(edges), [-1] * len(edges)
    for e in range(len(evidence.start)):
        at = begin
        while at < evidence.start[e] - 1e-9:
            since = at - evidence.end[stay] if stay >= 0 else 9.0
            to = min(float(evidence.start[e]), at + float(np.clip(0.04 + 0.5 * since, 0.04, 0.5)))
            edges.append((at, to))
            gap.append(e)
            last.append(stay)
            at = to
        begin = float(evidence.end[e])
        stay = e if evidence.stay[e] else stay
    low, high = np.array(edges).T
    return Nodes((low + high) / 2, high - low, np.array(gap), np.array(last), len(cuts) - 1)


def draw_candidates(
    rng: np.random.Generator, evidence: Evidence, grid: Nodes, size: int, config: SynthConfig
) -> Candidates:
    """Draw the pool of one subject.

    Args:
        rng: Source of all randomness.
        evidence: Of one subject.
        grid: Its time outside stays.
        size: Candidates a condition.
        config: Effects.
    """
    shape = (len(CONDITIONS), size + 1)
    onset, log_rate = np.full(shape, np.inf), np.zeros(shape)
    weight = np.zeros(shape)
    count = len(evidence.start)
    seen, running = np.zeros((*shape, count + 1)), np.zeros((*shape, count))
    encounter = np.zeros((*shape, count))
    for c in range(len(CONDITIONS)):
        o, r, log_density = _propose(rng, c, float(evidence.end[-1]))
        severity = severities(o, r, evidence.start)
        whole, part = _says(c, severity, evidence, config)
        chosen, log_chance = _choose(rng, np.cumsum(whole, axis=1), size)
        onset[c, :size], log_rate[c, :size] = o[chosen], r[chosen]
        weight[c, :size] = -log_density[chosen] - log_chance - np.log(size * RAW)
        encounter[c, :size] = severity[chosen]
        seen[c, :size, 1:] = np.cumsum(whole[chosen], axis=1)
        running[c, :size] = part[chosen]
        absent = _says(c, np.zeros((1, count)), evidence, config)
        seen[c, size, 1:], running[c, size] = np.cumsum(absent[0][0]), absent[1][0]
    at_nodes = np.stack(
        [severities(onset[c], log_rate[c], grid.age) for c in range(len(CONDITIONS))]
    )
    at_nodes *= BURDEN[:, None, None]
    effects = (config.burden_outpatient, config.burden_admission, config.burden_death)
    a, b, d = (np.exp(effect * at_nodes) for effect in effects)
    return Candidates(onset, log_rate, weight, encounter, (a, b, d), seen, running)


def severities(onset: Floats, log_rate: Floats, age: Floats) -> Floats:
    """[M, T], severity of each candidate at each age; 0 before its onset."""
    years = np.maximum(age[None, :] - onset[:, None], 0.0)
    s: Floats = -np.expm1(-np.exp(log_rate)[:, None] * years)
    return s


def _propose(rng: np.random.Generator, c: int, oldest: float) -> tuple[Floats, Floats, Floats]:
    """Onsets with density as the baseline hazard up to an age, and log-normal progressions.

    Low-discrepancy points (Roberts' R2 sequence, shifted at random).
    """
    condition = CONDITIONS[c]
    k: Floats = np.arange(RAW, dtype=np.float64)
    u: Floats = (rng.random() + 0.7548776662466927 * k) % 1
    v: Floats = (rng.random() + 0.5698402909980532 * k) % 1
    onset = oldest * (1 - u) ** (1 / condition.shape)
    z = _normal_quantile(v)
    log_rate = np.log(condition.rate) + 0.15 * len(condition.causes) + SPREAD * z
    log_density = (
        np.log(condition.shape / oldest)
        + (condition.shape - 1) * np.log(onset / oldest)
        - 0.5 * z**2
        - np.log(SPREAD * np.sqrt(2 * np.pi))
    )
    return onset, log_rate, log_density


def _normal_quantile(p: Floats) -> Floats:
    grid = np.linspace(-5, 5, 4001)
    density = np.exp(-0.5 * grid**2)
    total = np.cumsum(density) - density / 2
    quantile: Floats = np.interp(p, total / density.sum(), grid)
    return quantile


def _choose(rng: np.random.Generator, seen: Floats, size: int) -> tuple[Ints, Floats]:
    """Resample raw candidates; the chance of each, by what a third, two thirds and all say."""
    chance = np.full(RAW, RAW_SHARE / RAW)
    count = seen.shape[1]
    for e in {max(count // 3, 1), max(2 * count // 3, 1), count}:
        tempered = 0.5 * seen[:, e - 1]
        share = np.exp(tempered - tempered.max())
        chance += (1 - RAW_SHARE) / 3 * share / share.sum()
    chance /= chance.sum()
    points = (rng.random() + np.arange(size)) / size
    chosen = np.minimum(np.searchsorted(np.cumsum(chance), points), RAW - 1)
    return chosen, np.log(chance[chosen])


def _says(c: int, s: Floats, evidence: Evidence, config: SynthConfig) -> tuple[Floats, Floats]:
    """[M, E] twice: log likelihood of a condition's codes, drugs and pull on encounters.

    The second holds what is known of a stay one day after it began.
    """
    early = _drugs(c, s, evidence)
    if c == KIDNEY:
        treated = evidence.stay & evidence.known[:, c]
        chance = np.where(s > DIALYSIS_FROM, DIALYSED, 1e-6)
        early += np.where(evidence.dialysed, np.log(chance), np.log1p(-chance)) * treated
    effect = np.where(evidence.stay, config.burden_admission, config.burden_outpatient)
    early += effect * BURDEN[c] * s
    stage = evidence.stage[:, c]
    chance = np.where(s > 0, coding_chance(s, evidence.stay), 1e-9)
    miss = np.maximum(BOUNDS[stage] - s, 0) + np.maximum(s - BOUNDS[stage + 1], 0)
    coded = np.log(chance) - 0.5 * (miss / SOFT) ** 2
    return early + np.where(stage >= 0, coded, np.log1p(-chance)), early


def _drugs(c: int, s: Floats, evidence: Evidence) -> Floats:
    total = np.zeros_like(s)
    for line in range(3):
        told = evidence.known[:, c] & ~_shared(c, line, evidence.known)
        due = s >= BOUNDS[line]
        soft = np.exp(-0.5 * (np.maximum(BOUNDS[line] - s, 0) / SOFT) ** 2)
        given = np.log(np.maximum(GIVEN[line] * soft, 1e-12))
        withheld = np.where(due, np.log1p(-GIVEN[line]), 0.0)
        total += told * np.where(evidence.drug[:, c, line], given, withheld)
    return total


def _shared(c: int, line: int, known: Bools) -> Bools:
    """[E], whether another known condition may be why this drug was given: it tells nothing then."""
    drug = CONDITIONS[c].drugs[line]
    others = [j for j, x in enumerate(CONDITIONS) if j != c and drug in x.drugs]
    shared: Bools = np.any(known[:, others], axis=1)
    return shared
