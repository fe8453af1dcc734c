"""The parameters of the world in which order and timing carry the risk."""

from typing import Annotated, Self

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from ehr_tracking.config import STRICT

Effect = Annotated[float, Field(ge=-20, le=20)]
_Stays = Annotated[int, Field(ge=1, le=20)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SequenceConfig:
    """How many subjects, from which seed, and how strongly order and timing act on what follows.

    Effects are in logits. With every one of them at 0 there is nothing to learn.
    """

    num_patients: Annotated[int, Field(ge=1, le=100_000_000)] = 1000
    seed: Annotated[int, Field(ge=0)] = 0
    stays: tuple[_Stays, _Stays] = (3, 7)
    """Fewest and most stays of a subject that lives to the end of its record."""
    order_effect: Effect = 2.2
    """For each of the three pairs of drugs that were given in the order that harms."""
    recency_effect: Effect = 7.0
    """Right after a dose; decays with `recency_hours`."""
    recency_hours: Annotated[float, Field(gt=0, le=100)] = 4.0
    interval_effect: Effect = 12.0
    """Right after the diagnosis; decays with `interval_days`."""
    interval_days: Annotated[float, Field(gt=0, le=1000)] = 60.0
    trend_effect: Effect = 2.4
    """Of a fast fall; minus that of a fast rise."""
    trend_rate: Annotated[float, Field(gt=0, le=10)] = 0.3
    """g/dL an hour, what fast is."""
    response_effect: Effect = 4.0
    """Of a finding that was not treated in time."""
    response_hours: Annotated[float, Field(ge=0.5, le=6)] = 3.0
    """Until then after the finding a treatment protects."""
    mixed_effect: Effect = 4.0
    """Of an untreated finding while the value falls, and of the harmful order with a fresh dose."""

    @model_validator(mode="after")
    def _stays_in_order(self) -> Self:
        if self.stays[0] > self.stays[1]:
            raise ValueError(f"stays = {list(self.stays)}: the fewest come first")
        return self
