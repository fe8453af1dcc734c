"""What a user may set about a study of scaling."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from ehr_tracking.config import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ScalingConfig:
    """What is fitted, and how."""

    head: str = "lr"
    """Of the results: the classifier whose share of the way to the best possible is told."""
    ks: Annotated[tuple[int, ...], Field(min_length=1)] = (16, -1)
    """Shots per class of that share; -1 is every row."""
    huber: Annotated[float, Field(gt=0)] = 0.02
    """From which difference of logarithms on a run weighs less."""
    draws: Annotated[int, Field(ge=0)] = 200
    """Of the bootstrap over residuals; 0 gives no intervals."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of these draws."""
