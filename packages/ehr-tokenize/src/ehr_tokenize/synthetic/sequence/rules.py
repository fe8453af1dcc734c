"""The risks, as functions of what a record shows at the end of a stay, and the tasks they are of.

Shapes: `S` stays.
"""

from dataclasses import dataclass

import numpy as np

from ehr_tokenize.synthetic import codes
from ehr_tokenize.synthetic.rows import Bools, Floats, Ints
from ehr_tokenize.synthetic.sequence.config import SequenceConfig


@dataclass(frozen=True, slots=True)
class Past:
    """What of the record up to the end of a stay the risks depend on."""

    pairs: Ints
    """[S], 0..3: how many of the three pairs of `ORDERED` were last given in that order."""
    hours: Floats
    """[S], since the last `DOSE`."""
    days: Floats
    """[S], since the last `FLARE`."""
    slope: Floats
    """[S], of the last three of `LEVEL` by least squares, g/dL an hour."""
    untreated: Bools
    """[S], no `TREATMENT` after the last `FINDING` and within `response_hours` of it."""


@dataclass(frozen=True, slots=True)
class Task:
    """What is predicted at the end of each stay."""

    outcome: str
    """Its code."""
    start_days: float
    """The outcome comes later than that many days after the stay."""
    horizon_days: int
    """And no later than that."""
    base: float
    """Logit of the risk where nothing raises it."""


TASKS = {
    "order_30d": Task(codes.diagnosis("I48.0"), 0, 30, -6.4),
    "recency_7d": Task(codes.diagnosis("J96.01"), 0, 7, -6.0),
    "interval_60d": Task(codes.diagnosis("N17.9"), 0, 60, -6.0),
    "trend_30d": Task(codes.diagnosis("K92.2"), 0, 30, -2.4),
    "response_14d": Task(codes.diagnosis("A41.9"), 0, 14, -4.0),
    "mortality_90d": Task(codes.DEATH, 60, 90, -5.6),
}
"""Death comes after every other window has closed, so that none is cut short."""
LONGEST_DAYS = max(task.horizon_days for task in TASKS.values())


def risks(past: Past, config: SequenceConfig) -> dict[str, Floats]:
    """P(outcome within the horizon | record), [S] for each task."""
    fresh = np.exp(-past.hours / config.recency_hours)
    falling = -np.tanh(past.slope / config.trend_rate)
    mixed = past.untreated * (1 + falling) / 2 + past.pairs / 3 * fresh
    raised = {
        "order_30d": config.order_effect * past.pairs,
        "recency_7d": config.recency_effect * fresh,
        "interval_60d": config.interval_effect * np.exp(-past.days / config.interval_days),
        "trend_30d": config.trend_effect * falling,
        "response_14d": config.response_effect * past.untreated,
        "mortality_90d": config.mixed_effect * mixed,
    }
    logits = {name: task.base + raised[name] for name, task in TASKS.items()}
    return {name: np.asarray(1 / (1 + np.exp(-x)), np.float64) for name, x in logits.items()}
