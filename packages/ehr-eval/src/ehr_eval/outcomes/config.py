"""What a user may set about how predicted classes and numbers are judged."""

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from ehr_tracking.arrow.label_csv import LabelColumns
from ehr_tracking.config import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OutcomesConfig:
    """Bootstraps, and the models on features."""

    labels: LabelColumns = Field(default_factory=LabelColumns)
    """What the columns of `--labels FILE.csv` are called."""
    bootstraps: NonNegativeInt = 200
    """Resamples of the held-out patients; 0 gives no intervals."""
    baseline: str = "counts"
    """The features whose model others are compared with, where they are given."""
    c: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (1e-4, 1e-2, 1.0, 1e2)
    """Of multinomial logistic regression: inverse strengths of its L2 penalty, to choose from by log loss
    on the tuning rows."""
    max_iter: PositiveInt = 1000
    """Most steps of one such fit. A fit that needs more is taken where it stands, and is told."""
    alpha: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (1e-2, 1.0, 1e2, 1e4)
    """Of ridge regression: strengths of its L2 penalty, to choose from by squared error on the tuning rows."""
