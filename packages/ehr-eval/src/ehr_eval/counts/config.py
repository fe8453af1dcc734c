"""What a user may set about count features."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from ehr_eval.tasks.config import Days
from ehr_tracking.arrow.label_csv import LabelColumns
from ehr_tracking.config import STRICT, Regex

Trend = Literal["last", "step", "mean", "min", "max", "slope", "change"]
"""What is told of the values of a code; the first two of the record, the others of each window."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CountsConfig:
    """Which counts make up the baseline."""

    windows_days: tuple[Days, ...] = (1.0, 30.0, 365.0)
    """Counts and trends reach back this long; those over the whole record are always there."""
    ontology: bool = True
    """Count each event for all ancestors of its code in `codes.parquet` as well."""
    bins: Annotated[int, Field(ge=0, le=100)] = 10
    """Quantile bins of each code's values; 0 for none."""
    units: bool = True
    """A code measured in several units has bins and trends for each; else its values are taken for one."""
    min_values: Annotated[int, Field(ge=1)] = 50
    """A code (in a unit) with fewer values in train gets neither bins nor trends."""
    recency: bool = True
    """Also how recently each thing was there: 1 at the prediction time, less by equal steps for each
    factor of time since, 0 for what never was."""
    trends: tuple[Trend, ...] = ("last", "step", "mean", "slope")
    """Of the values of each code, on the scale of train: `last` value, `step` from the one before, and in
    each window `mean`, `min`, `max`, `slope` a day and `change` from first to last; () for none."""
    min_rows: Annotated[int, Field(ge=1)] = 5
    """A column that is non-zero in fewer train rows is left out."""
    delay: dict[Regex, Annotated[float, Field(ge=0, le=36_525)]] | None = None
    """Code pattern -> days after its time at which an event becomes known, the first that fits; null:
    as the tokens that are given have it."""
    labels: LabelColumns = Field(default_factory=LabelColumns)
    """What the columns of `--labels FILE.csv` are called."""
    seed: int = 0
    """Of the split by hash, where the data set names no splits."""
