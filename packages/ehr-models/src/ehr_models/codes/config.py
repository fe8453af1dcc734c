"""How vectors of codes become rows of an embedding."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from ehr_models.codes.mapping import MappingConfig
from ehr_models.codes.resize import Method
from ehr_tracking.config import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CodesConfig:
    """What there is to choose."""

    vocabularies: tuple[str, ...] | None = None
    """Of ClinVec directories, those to read; None takes all that are there."""
    mapping: MappingConfig = Field(default_factory=MappingConfig)
    """Which code of which vocabulary a MEDS code stands for."""
    hierarchy: bool = True
    """Whether a code without a vector starts from the nearest one above it that has one."""
    resize: Method = "auto"
    noise: Annotated[float, Field(ge=0)] = 0.1
    """Of a token that starts from a vector that is not its own alone: standard deviation, as a share
    of that of the embedding."""
    freeze: bool = False
    """Whether the embedding is kept out of training from then on."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of the model and of all that is random in its vectors."""
