"""What the written record says about the latent state, encounter by encounter.

Everything here is read from the events as they are written, nothing from behind them.

Shapes: `E` encounters by subject and time, `C` conditions, `K` laboratory tests.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ehr_tokenize.synthetic import codes
from ehr_tokenize.synthetic.block import FIRST_ENTRY, Block
from ehr_tokenize.synthetic.conditions import CAUSES, CONDITIONS, LABS
from ehr_tokenize.synthetic.config import SynthConfig
from ehr_tokenize.synthetic.course import DAYS
from ehr_tokenize.synthetic.disease import Bools, Floats, Ints
from ehr_tokenize.synthetic.records import CODE_ID, VOCABULARY, known_conditions, trend
from ehr_tokenize.synthetic.rows import DAY, HOUR
from ehr_tokenize.synthetic.tasks import Visits

YEAR = DAYS * DAY
"""Minutes."""
EARLY = 0.97
"""Factor on acute severity in the first panel of a stay whose length is not known yet."""


@dataclass(frozen=True, slots=True)
class Panels:
    """Sums over the measurements of each test in each encounter, each [E, K].

    A measurement is a deviation y from the test's mean, or of logarithms; t is the factor on acute
    severity at its time.
    """

    count: Floats
    y: Floats
    t: Floats
    tt: Floats
    ty: Floats

    def __getitem__(self, which: slice) -> "Panels":
        """Those of some encounters."""
        return Panels(*(getattr(self, x)[which] for x in Panels.__dataclass_fields__))


@dataclass(frozen=True, slots=True)
class Evidence:
    """The encounters of some subjects as observations."""

    start: Floats
    """[E], age in years."""
    end: Floats
    """[E], age in years."""
    stay: Bools
    stage: Ints
    """[E, C], the stage in which a condition is coded; -1 where it is not."""
    known: Bools
    """[E, C], coded before or in this very visit."""
    drug: Bools
    """[E, C, 3], whether the drug of each line is given."""
    elective: Bools
    nursing: Bools
    died: Bools
    cause: Ints
    """[E], row of `CAUSES`; -1 at a visit."""
    intubated: Bools
    dialysed: Bools
    panels: Panels
    """Of the whole encounter."""
    first: Panels
    """Of the panel on arrival alone, read while the stay still runs."""

    def take(self, which: slice) -> "Evidence":
        """Some encounters."""
        fields: dict[str, Any] = {x: getattr(self, x) for x in Evidence.__dataclass_fields__}
        return Evidence(**{name: value[which] for name, value in fields.items()})


def first_day_age(block: Block) -> Floats:
    """[N], age in years on the day on which the first subjects enter."""
    return (FIRST_ENTRY - block.birth) / YEAR


def read_evidence(block: Block, visits: Visits) -> Evidence:
    """Read the encounters of a block."""
    rows = block.rows
    shape = (len(visits.subject), len(VOCABULARY))
    inside = rows.minute >= visits.start[visits.of_row]  # events before any encounter: no
    inside &= visits.subject[visits.of_row] == rows.subject
    held = np.zeros(shape, bool)
    held[visits.of_row[inside], rows.code[inside]] = True

    def has(code: str) -> Bools:
        column: Bools = held[:, CODE_ID[code]]
        return column

    stage = np.full((shape[0], len(CONDITIONS)), -1)
    drug = np.zeros((shape[0], len(CONDITIONS), 3), bool)
    for c, condition in enumerate(CONDITIONS):
        for k in range(3):
            stage[has(codes.diagnosis(condition.stages[k])), c] = k
            drug[:, c, k] = has(codes.medication(condition.drugs[k]))
    cause = np.full(shape[0], -1)
    for k, x in enumerate(CAUSES):
        cause[visits.stay & has(codes.diagnosis(x.code))] = k
    birth = block.birth[visits.subject]
    offset = rows.minute - visits.start[visits.of_row]
    length = (visits.end - visits.start)[visits.of_row]
    factor = trend(offset / np.maximum(length, 1), visits.died[visits.of_row])
    arrival = inside & (offset <= 2 * HOUR)
    return Evidence(
        start=(visits.start - birth) / YEAR,
        end=(visits.end - birth) / YEAR,
        stay=visits.stay,
        stage=stage,
        known=known_conditions(stage >= 0, visits.subject, visits.stay),
        drug=drug,
        elective=has(codes.ELECTIVE),
        nursing=has(codes.NURSING),
        died=visits.died,
        cause=cause,
        intubated=has(codes.procedure("31500")),
        dialysed=has(codes.procedure("90935")),
        panels=_panels(block, visits, inside, factor),
        first=_panels(block, visits, arrival, np.full(len(factor), EARLY)),
    )


def _panels(block: Block, visits: Visits, kept: Bools, factor: Floats) -> Panels:
    rows = block.rows
    e, k = len(visits.subject), len(LABS)
    test = np.full(len(VOCABULARY), -1)
    test[[CODE_ID[c] for c in codes.measurements()]] = np.arange(k)
    measured = np.flatnonzero(kept & (test[rows.code] >= 0))
    which = test[rows.code[measured]]
    cell = visits.of_row[measured] * k + which
    mean = np.array([x.mean for x in LABS])[which]
    step = np.array([10.0**-x.decimals for x in LABS])[which]
    value = rows.value[measured]
    logs = np.log(np.maximum(value, step / 2) / mean)
    y = np.where(np.array([x.log for x in LABS])[which], logs, value - mean)
    t = np.where(visits.stay[visits.of_row[measured]], factor[measured], 0.0)

    def total(weight: Floats) -> Floats:
        sums: Floats = np.bincount(cell, weight, minlength=e * k).astype(float)
        return sums.reshape(e, k)

    return Panels(total(np.ones(len(y))), total(y), total(t), total(t * t), total(t * y))


def deviations(config: SynthConfig) -> Floats:
    """[K], standard deviation of one measurement about its level, rounding included."""
    rounding = np.array([10.0**-x.decimals / (x.mean if x.log else 1) for x in LABS])
    within = np.array([x.within for x in LABS]) * config.noise
    spread: Floats = np.sqrt(within**2 + rounding**2 / 12)
    return spread
