"""What a user may set about how predictions are judged."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt
from pydantic.dataclasses import dataclass

from ehr_eval.judge.groups import GroupsConfig
from ehr_eval.judge.metrics.ranked import AT_RISK, SPECIFICITY
from ehr_tracking.arrow.label_csv import LabelColumns
from ehr_tracking.config import STRICT

Share = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class JudgeConfig:
    """Bootstraps, groups, recalibration and conformal sets."""

    tasks: tuple[str, ...] | None = None
    """Null: every task of the labels that is predicted."""
    baseline: str | None = None
    """The model that all others are compared with; null: the first."""
    labels: LabelColumns = Field(default_factory=LabelColumns)
    """What the columns of `--labels FILE.csv` are called."""
    bootstraps: NonNegativeInt = 1000
    """Resamples of the held-out patients; 0 gives no intervals."""
    specificity: Share = SPECIFICITY
    """At which `sensitivity` is asked for."""
    at_risk: Share = AT_RISK
    """At which `net_benefit` is asked for: the risk from which one treats."""
    recalibrate: tuple[Literal["platt", "isotonic"], ...] = ("platt", "isotonic")
    """Beside the probabilities as they are; fitted on tuning rows, where these are predicted."""
    misses: tuple[Share, ...] = (0.1,)
    """How often conformal sets may miss the outcome; empty: no sets."""
    groups: GroupsConfig = Field(default_factory=GroupsConfig)
    few_positives: NonNegativeInt = 10
    """The report warns of tasks with fewer held-out positives (or negatives) than this."""
    seed: int = 0
    """Of the split by hash, where the data set names no splits."""
