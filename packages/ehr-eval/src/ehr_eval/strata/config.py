"""What a user may set about strata."""

from pydantic import Field, NonNegativeInt
from pydantic.dataclasses import dataclass

from ehr_tracking.arrow.label_csv import LabelColumns
from ehr_tracking.config import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class StrataConfig:
    """Tasks and bootstraps."""

    tasks: tuple[str, ...] | None = None
    """Null: every task of the labels that a model predicts."""
    bootstraps: NonNegativeInt = 1000
    """Resamples of the held-out patients; 0 gives no intervals."""
    labels: LabelColumns = Field(default_factory=LabelColumns)
    """What the columns of `--labels FILE.csv` are called."""
    seed: int = 0
    """Of the split by hash, where the data set names no splits."""
