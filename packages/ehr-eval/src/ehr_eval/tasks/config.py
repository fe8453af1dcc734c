"""What a user may set about tasks."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from ehr_tracking.config import STRICT, Regex

Days = Annotated[float, Field(gt=0, le=36525)]
Censored = Literal["exclude", "exclude_dead", "negative"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LabelsConfig:
    """Which codes mean what, and the times that the tasks speak of."""

    tasks: tuple[str, ...] | None = None
    """Names of tasks; null: all with a yes or no whose codes the data set has."""
    admission: Regex = "^HOSPITAL_ADMISSION"
    discharge: Regex = "^HOSPITAL_DISCHARGE"
    died: Regex = "^HOSPITAL_DISCHARGE//(DIED|EXPIRED)"
    """A discharge that is a death."""
    death: Regex = "^MEDS_DEATH"
    visit_start: Regex = "^(HOSPITAL_ADMISSION|VISIT_START)"
    visit_end: Regex = "^(HOSPITAL_DISCHARGE|VISIT_END)"
    visit_ids: tuple[str, ...] = ("hadm_id", "visit_id", "visit_occurrence_id")
    """Columns that name the stay or visit of an event, where the data has them; of one event the first
    that is filled counts. Start and end of the same one are paired; all others by order of time."""
    transfer_hours: Annotated[float, Field(ge=0, le=8766)] = 1.0
    """Stays (visits) that follow each other within this gap are one."""
    hours_after_admission: Annotated[float, Field(ge=0, le=8766)] = 24.0
    """When in_hospital_mortality and long_stay are predicted."""
    long_stay_days: Days = 7.0
    readmission_days: Days = 30.0
    horizon_days: Days = 365.0
    """Of mortality_1y and new_diagnosis_1y."""
    diagnosis: Regex = "^DIAGNOSIS//(ICD10CM|ICD//10)//I1[0-6]|^DIAGNOSIS//ICD//9//40[1-5]"
    """The condition of new_diagnosis_1y and time_to_diagnosis: hypertensive disease."""
    lab: Regex = "^LAB//LOINC//2823-3//mmol/L$|^LAB//RESULT//(50971|50822)//mEq/L$"
    """The measurement of abnormal_lab_next_visit: potassium in LOINC, or as in MIMIC-IV."""
    lab_above: float = 5.0
    """Abnormal is a value strictly above this."""
    censored: Censored = "exclude"
    """A row whose window ends after the subject's last event, with no outcome seen: left out, also where
    death ended the window, or taken as negative."""
    recurrence: bool = False
    """Label those of `onset: new` who have had the outcome as well, in a task of their own."""
    rows_per_subject: Annotated[int, Field(ge=1)] | None = None
    """Most rows of a subject in a task, drawn by hash: thins prediction times, so that features of
    them take less time; null: all."""
    seed: int = 0
    """Of that draw, and of the split by hash where the data set names no splits."""
