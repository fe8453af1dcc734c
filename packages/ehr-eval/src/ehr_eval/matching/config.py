"""Who may be a control of whom."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from ehr_tracking.config import STRICT, Regex

Count = Annotated[int, Field(ge=1, le=100)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MatchConfig:
    """A control is of the split and sex of its case, and there at its index date."""

    controls: Count = 4
    """Most of a case; each subject is that of one case."""
    age_years: Annotated[float, Field(gt=0, le=100)] = 2.0
    """How far the ages of both may lie apart."""
    history: Annotated[float, Field(ge=0, le=10)] = 0.25
    """How far the lengths of both records up to the index date, as a share of that of the case."""
    history_days: Annotated[float, Field(ge=0, le=36_525)] = 30.0
    """What may lie between them in any case."""
    sex: Regex = "^(GENDER|SEX|Gender)/"
    birth: Regex = "^MEDS_BIRTH"
    seed: int = 0
    """Of the draw among those who fit, and of the split by hash."""
