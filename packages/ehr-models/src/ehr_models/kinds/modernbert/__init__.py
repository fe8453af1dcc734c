"""ModernBERT, the class of transformers; without torch."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt
from pydantic.dataclasses import dataclass

from ehr_models.kinds.record import ArchitectureConfig, Kind, Size, one_of
from ehr_tracking.config import STRICT

SIZES = {
    "tiny": Size(128, 4, 4, 192, 8192),
    "small": Size(256, 7, 8, 384, 8192),
    "medium": Size(512, 13, 8, 768, 8192),
    "base": Size(768, 22, 12, 1152, 8192),
    "large": Size(1024, 28, 16, 2624, 8192),
}
"""`base` and `large` are as published; `medium` begins and ends with a global layer, as they do."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModernBertModelConfig(ArchitectureConfig):
    """ModernBERT (Warner et al. 2024): bidirectional encoder with RoPE and GeGLU, local in most layers."""

    kind: Literal["modernbert"] = "modernbert"
    size: Annotated[str, one_of(SIZES)] = "base"
    window: Annotated[int, Field(ge=2, multiple_of=2)] = 128
    """Tokens that a local layer sees: a half of them on either side."""
    every: PositiveInt = 3
    """The first of each so many layers is global."""


MODERNBERT = Kind(
    name="modernbert",
    config=ModernBertModelConfig,
    sizes=SIZES,
    module="ehr_models.kinds.modernbert.model",
    sees="all",
    inputs={"input_ids": "input_ids", "position_ids": "position_ids"},
    token_head=("head", "decoder"),
    adapters=("Wqkv",),
)
