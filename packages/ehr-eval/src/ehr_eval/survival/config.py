"""What a user may set about how risks are judged."""

from typing import Annotated, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from pydantic.dataclasses import dataclass

from ehr_eval.tasks.config import Days
from ehr_tracking.arrow.label_csv import LabelColumns
from ehr_tracking.config import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SurvivalConfig:
    """Horizons, bootstraps, and the Cox regressions on features."""

    tasks: tuple[str, ...] | None = None
    """Null: every task of the labels that has durations."""
    horizons_days: Annotated[tuple[Days, ...], Field(min_length=1)] | None = None
    """Ascending; null: the quartiles of the times of events in train, in whole days."""
    labels: LabelColumns = Field(default_factory=LabelColumns)
    """What the columns of `--labels FILE.csv` are called."""
    bootstraps: NonNegativeInt = 200
    """Resamples of the held-out patients; 0 gives no intervals."""
    groups: Annotated[int, Field(ge=2, le=5)] = 3
    """Groups of equal size by risk, whose survival is drawn."""
    penalties: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (0.001, 0.01, 0.1, 1.0)
    """Of Cox regression, L2, to choose from by Harrell's C on the tuning rows."""
    components: PositiveInt = 100
    """Features beyond these are first taken together to as many principal ones."""
    seed: int = 0
    """Of these components."""

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        days = self.horizons_days
        if days is not None and list(days) != sorted(set(days)):
            raise ValueError("horizons_days must ascend, each once")
        return self
