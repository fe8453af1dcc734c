"""What of a subject's course is written down: codes and values with their times.

The record shows the latent state only through noise and habit: a condition is coded at some visits,
in a code that follows its severity; drugs follow the first coded diagnosis; a test is ordered more
often where a relevant condition is known, and its value is the latent level plus noise.

Shapes: `E` encounters, `C` conditions, `D` days on which a panel is drawn.
"""

import numpy as np

from ehr_tokenize.synthetic import codes
from ehr_tokenize.synthetic.conditions import (
    CAUSES,
    CLINIC_DRUGS,
    COMPLAINTS,
    CONDITIONS,
    KNOWN_BONUS,
    LABS,
    WARD_DRUGS,
    Lab,
)
from ehr_tokenize.synthetic.config import SynthConfig
from ehr_tokenize.synthetic.course import Encounters
from ehr_tokenize.synthetic.disease import NAMES, Bools, Floats, Ints, Latent
from ehr_tokenize.synthetic.rows import (
    CLOSE,
    DAY,
    HOUR,
    INSIDE,
    LAST,
    OPEN,
    Rows,
    concatenate,
)

VOCABULARY = [row[0] for row in codes.code_table()]
CODE_ID = {code: i for i, code in enumerate(VOCABULARY)}
MAX_PANELS = 21
"""Days of a stay on which blood is drawn; a longer stay is drawn on its first ones."""

GIVEN = (0.55, 0.5, 0.5)
"""Probability of each line of drugs where the stage asks for it."""
NURSING_AT, NURSING_ACUTE = 3.0, 0.7
"""Discharge to nursing has the odds exp(sum of severities + NURSING_ACUTE * q - NURSING_AT)."""
CAUSE_SLOPE = 3.0
"""Of the severity behind the cause of a stay, in its exponent."""
DIALYSIS_FROM, DIALYSED = 0.8, 0.9
"""Severity of kidney disease from which a stay has dialysis, and how often."""
INTUBATION_FROM, INTUBATED = 1.8, 0.7
"""Acute severity from which a stay has intubation, and how often."""


class _Notes:
    """Collects events of encounters."""

    def __init__(self, subject: Ints, start: Ints) -> None:
        self.subject = subject
        self.start = start
        self.parts: list[Rows] = []

    def add(
        self,
        which: Ints,
        offset: Ints | int,
        code: Ints | str,
        *,
        rank: int = INSIDE,
        value: Floats | None = None,
    ) -> None:
        """Write one event for each encounter in `which`, `offset` minutes after its start."""
        n = len(which)
        ids = np.full(n, CODE_ID[code]) if isinstance(code, str) else code
        values = np.full(n, np.nan) if value is None else value
        minute = self.start[which] + offset
        self.parts.append(Rows(self.subject[which], minute, np.full(n, rank), ids, values))

    def rows(self) -> Rows:
        """Everything, in the order in which it was added."""
        return concatenate(self.parts)


def coding_chance(severity: Floats, stay: Bools) -> Floats:
    """Probability that a condition that is present is coded in an encounter."""
    chance: Floats = np.where(stay, 0.15 + 0.75 * severity, 0.04 + 0.35 * severity)
    return chance


def elective_chance(acute: Floats) -> Floats:
    """Probability that a stay is elective."""
    chance: Floats = 0.3 / (1 + np.exp(2 * acute))
    return chance


def trend(progress: Floats, died: Bools) -> Floats:
    """Factor on acute severity at a share of a stay: it falls to 30%, or rises by half to death."""
    factor: Floats = np.where(died, 1 + 0.5 * progress, 1 - 0.7 * progress)
    return factor


def write_record(
    rng: np.random.Generator,
    latent: Latent,
    encounters: Encounters,
    start: Ints,
    config: SynthConfig,
) -> tuple[Rows, Floats]:
    """Turn encounters into coded events.

    Args:
        rng: Source of all randomness.
        latent: The state behind the subjects of `encounters`.
        encounters: [E], by subject and time.
        start: [E], the minute at which each begins.
        config: `noise` is used here.

    Returns:
        The events, and each subject's usual level of each of `LABS`, [N, K], in deviations.
    """
    notes = _Notes(encounters.subject, start)
    severity = latent.severity(encounters.subject, encounters.age)
    length = np.floor(encounters.days * DAY).astype(np.int64)
    coded = _diagnoses(rng, notes, encounters, severity, length)
    known = known_conditions(coded, encounters.subject, encounters.stay)
    _boundaries(rng, notes, encounters, severity, length)
    _drugs(rng, notes, encounters, severity, known)
    _procedures(rng, notes, encounters, severity, known)
    usual = rng.standard_normal((len(latent.frailty), len(LABS)))
    _panels(rng, notes, latent, usual, encounters, known, length, config)
    return notes.rows(), usual


def _boundaries(
    rng: np.random.Generator, notes: _Notes, e: Encounters, severity: Floats, length: Ints
) -> None:
    clinic, stay = np.flatnonzero(~e.stay), np.flatnonzero(e.stay)
    notes.add(clinic, 0, codes.VISIT_START, rank=OPEN)
    notes.add(clinic, length[clinic], codes.VISIT_END, rank=CLOSE)
    elective = rng.random(len(stay)) < elective_chance(e.acute[stay])
    notes.add(stay[elective], 0, codes.ELECTIVE, rank=OPEN)
    notes.add(stay[~elective], 0, codes.EMERGENCY, rank=OPEN)
    frail = severity[stay].sum(axis=1) + NURSING_ACUTE * e.acute[stay]
    nursing = rng.random(len(stay)) < 1 / (1 + np.exp(NURSING_AT - frail))
    died = e.died[stay]
    for group, code in (
        (died, codes.DIED),
        (~died & nursing, codes.NURSING),
        (~died & ~nursing, codes.HOME),
    ):
        notes.add(stay[group], length[stay[group]], code, rank=CLOSE)
    notes.add(stay[died], length[stay[died]], codes.DEATH, rank=LAST)


def _diagnoses(
    rng: np.random.Generator, notes: _Notes, e: Encounters, severity: Floats, length: Ints
) -> Bools:
    """Code the conditions that are there; [E, C], which were coded.

    A stay codes them when it ends, a visit in its course; what brought the subject is coded early.
    """
    chance = coding_chance(severity, e.stay[:, None])
    coded = (severity > 0) & (rng.random(severity.shape) < chance)
    stage = np.minimum((severity * 3).astype(np.int64), 2)
    table = np.array([[CODE_ID[codes.diagnosis(c)] for c in x.stages] for x in CONDITIONS])
    row, column = np.nonzero(coded)
    when = np.where(e.stay[row], length[row], 40)
    notes.add(row, when, table[column, stage[row, column]])

    stay = np.flatnonzero(e.stay)
    exponent = np.stack(
        [
            cause.weight
            + cause.slope * e.acute[stay]
            + (CAUSE_SLOPE * severity[stay, NAMES.index(cause.condition)] if cause.condition else 0)
            for cause in CAUSES
        ],
        axis=1,
    )
    drawn = np.argmax(exponent + rng.gumbel(size=exponent.shape), axis=1)
    ids = np.array([CODE_ID[codes.diagnosis(x.code)] for x in CAUSES])
    notes.add(stay, 3 * HOUR, ids[drawn])

    visit = np.flatnonzero(~e.stay)
    visit = visit[rng.random(len(visit)) < 0.5]
    weight = 1 / np.arange(1, len(COMPLAINTS) + 1)
    drawn = rng.choice(len(COMPLAINTS), size=len(visit), p=weight / weight.sum())
    ids = np.array([CODE_ID[codes.diagnosis(x)] for x in COMPLAINTS])
    notes.add(visit, 35, ids[drawn])
    return coded


def known_conditions(coded: Bools, subject: Ints, stay: Bools) -> Bools:
    """Which conditions an encounter knows of: coded before, or in this very visit.

    What a stay codes is known when it has ended.

    Args:
        coded: [E, C], by subject and time.
        subject: [E].
        stay: [E].
    """
    if not len(coded):
        return coded
    total = np.cumsum(coded, axis=0)
    first = np.searchsorted(subject, subject)  # row of the subject's first encounter
    before = np.where(first[:, None] > 0, total[first - 1], 0)
    until = np.where(stay[:, None], total - coded, total)
    known: Bools = until > before
    return known


def _drugs(
    rng: np.random.Generator, notes: _Notes, e: Encounters, severity: Floats, known: Bools
) -> None:
    """Each known condition is treated by as many drugs as its stage asks for, most of the time."""
    stage = np.minimum((severity * 3).astype(np.int64), 2)
    seen: dict[str, Bools] = {}
    for line in range(3):
        given = known & (stage >= line) & (rng.random(known.shape) < GIVEN[line])
        for j, condition in enumerate(CONDITIONS):
            atc = condition.drugs[line]
            seen[atc] = seen.get(atc, np.zeros(len(known), bool)) | given[:, j]
    for atc, chance in CLINIC_DRUGS.items():
        drawn = ~e.stay & (rng.random(len(known)) < chance)
        seen[atc] = seen.get(atc, np.zeros(len(known), bool)) | drawn
    for atc, given_once in seen.items():
        which = np.flatnonzero(given_once)
        # a stay's chart shows them once the ward round is through
        notes.add(which, np.where(e.stay[which], 5 * HOUR, 50), codes.medication(atc))
    for atc, chance in WARD_DRUGS.items():
        which = np.flatnonzero(e.stay & (rng.random(len(known)) < chance))
        notes.add(which, 6 * HOUR, codes.medication(atc))


def _procedures(
    rng: np.random.Generator, notes: _Notes, e: Encounters, severity: Floats, known: Bools
) -> None:
    def some(mask: Bools, chance: float) -> Ints:
        return np.flatnonzero(mask & (rng.random(len(mask)) < chance))

    def has(name: str) -> Bools:
        column: Bools = known[:, NAMES.index(name)]
        return column

    long_visit = rng.random(len(known)) < 0.25 + 0.1 * np.minimum(known.sum(axis=1), 5)
    notes.add(np.flatnonzero(~e.stay & long_visit), 55, codes.procedure("99214"))
    notes.add(np.flatnonzero(~e.stay & ~long_visit), 55, codes.procedure("99213"))
    notes.add(np.flatnonzero(e.stay), HOUR, codes.procedure("99223"))
    dialysis = has("kidney_disease") & (severity[:, NAMES.index("kidney_disease")] > DIALYSIS_FROM)
    for mask, chance, cpt in (
        (has("heart_failure") | has("atrial_fibrillation") | e.stay, 0.4, "93000"),
        (has("heart_failure"), 0.25, "93306"),
        (has("copd"), 0.2, "94010"),
        (e.stay, 0.5, "71046"),
        (has("cancer") & ~e.stay, 0.4, "96413"),
        (has("depression") & ~e.stay, 0.3, "90834"),
        (e.stay & dialysis, DIALYSED, "90935"),
        (e.stay & (e.acute > INTUBATION_FROM), INTUBATED, "31500"),
        (has("ischemic_heart_disease") & e.stay, 0.1, "92928"),
        (~e.stay, 0.08, "90686"),
    ):
        which = some(mask, chance)
        notes.add(which, np.where(e.stay[which], 4 * HOUR, 45), codes.procedure(cpt))


def _panels(
    rng: np.random.Generator,
    notes: _Notes,
    latent: Latent,
    usual: Floats,
    e: Encounters,
    known: Bools,
    length: Ints,
    config: SynthConfig,
) -> None:
    """Measure: once at a visit; in a stay after two hours and then each day.

    Within a stay the acute part of each level falls to 30% towards discharge, or rises by half
    towards death.
    """
    panels = np.where(e.stay, np.minimum(1 + (length - 3 * HOUR) // DAY, MAX_PANELS), 1)
    row = np.repeat(np.arange(len(panels)), panels)
    day = np.arange(len(row)) - np.repeat(np.cumsum(panels) - panels, panels)
    offset = np.where(e.stay[row], 2 * HOUR + DAY * day, 15)
    progress = offset / length[row]
    acute = e.acute[row] * trend(progress, e.died[row])
    severity = latent.severity(e.subject[row], e.age[row])
    for k, (lab, code) in enumerate(zip(LABS, codes.measurements(), strict=True)):
        columns = [NAMES.index(x) for x in lab.loads]
        relevant = known[row][:, columns].any(axis=1)
        chance = np.where(e.stay[row], lab.ward, lab.clinic + KNOWN_BONUS * relevant)
        drawn = np.flatnonzero(rng.random(len(row)) < chance)
        at = row[drawn]
        level = (
            lab.between * usual[e.subject[at], k]
            + severity[drawn][:, columns] @ np.array([lab.loads[NAMES[c]] for c in columns])
            + lab.acute * acute[drawn]
            + lab.within * config.noise * rng.standard_normal(len(drawn))
        )
        notes.add(at, offset[drawn], code, value=_reading(lab, level))


def _reading(lab: Lab, level: Floats) -> Floats:
    value = lab.mean * np.exp(level) if lab.log else lab.mean + level
    top = 100.0 if lab.unit == "%" else np.inf
    reading: Floats = np.clip(np.round(value, lab.decimals), 0.0, top)
    return reading
