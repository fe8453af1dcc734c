"""What a user may set about the audit."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from ehr_tracking.arrow.label_csv import LabelColumns
from ehr_tracking.config import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AuditConfig:
    """How much is looked at, and what is suspicious."""

    checks: tuple[str, ...] | None = None
    """Names of checks; null: all."""
    rows: int = Field(default=64, ge=1)
    """Rows of features that are extracted again from a record without its future, one a subject."""
    auroc: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """One code or feature that tells the outcome at least this well alone is suspicious."""
    significance: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    """Chance of a false finding over all codes, features or tasks that a check tries together."""
    overlap: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Share of two records that has to be the same (Jaccard) for them to be one subject's."""
    events: int = Field(default=10, ge=1)
    """Records with fewer distinct events are never called the same."""
    labels: LabelColumns = Field(default_factory=LabelColumns)
    """What the columns of `--labels FILE.csv` are called."""
    seed: int = 0
    """Of the sample, and of the split by hash where the data set names no splits."""
