"""What files of predictions call their columns."""

from typing import Literal

from pydantic.dataclasses import dataclass

from ehr_tracking.arrow.label_csv import LabelColumns
from ehr_tracking.config import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ForeignConfig:
    """All of `ehr-eval adopt`; the defaults are the names of meds-evaluation."""

    subject: str = "subject_id"
    """Whole numbers: the subjects of the labels."""
    time: str = "prediction_time"
    """ISO 8601 or of `time_format` in a CSV file; a date is its midnight."""
    probability: str = "predicted_boolean_probability"
    scale: Literal["probability", "percent", "logit"] = "probability"
    """Of `probability`."""
    decided: str | None = None
    """Of what each row is called, yes or no; None: nothing."""
    task: str | None = None
    """Of the task of each row, where a file has several; None: each file is of one."""
    time_format: str | None = None
    """As of `strptime`, e.g. `%d.%m.%Y %H:%M`."""
    separator: str = ","
    labels: LabelColumns = LabelColumns()
    """Of labels in a CSV file."""
