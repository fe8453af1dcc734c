"""What a user may set about count features."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from ehr_eval.tasks.config import Days
from ehr_tracking.arrow.label_csv import LabelColumns
from ehr_tracking.config import STRICT, Regex


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CountsConfig:
    """Which counts make up the baseline."""

    windows_days: tuple[Days, ...] = (1.0, 30.0, 365.0)
    """Counts reach back this long; a count over the whole record is always there."""
    ontology: bool = True
    """Count each event for all ancestors of its code in `codes.parquet` as well."""
    bins: Annotated[int, Field(ge=0, le=100)] = 10
    """Quantile bins of each code's values; 0 for none."""
    min_values: Annotated[int, Field(ge=1)] = 50
    """A code with fewer values in train gets no bins."""
    min_rows: Annotated[int, Field(ge=1)] = 5
    """A column that is non-zero in fewer train rows is left out."""
    delay: dict[Regex, Annotated[float, Field(ge=0, le=36_525)]] | None = None
    """Code pattern -> days after its time at which an event becomes known, the first that fits; null:
    as the tokens that are given have it."""
    labels: LabelColumns = Field(default_factory=LabelColumns)
    """What the columns of `--labels FILE.csv` are called."""
    seed: int = 0
    """Of the split by hash, where the data set names no splits."""
