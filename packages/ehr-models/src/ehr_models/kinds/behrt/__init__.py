"""BEHRT: a bidirectional encoder over codes, age, time, visit and segment; without torch."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator
from pydantic.dataclasses import dataclass

from ehr_models.kinds.record import ArchitectureConfig, Kind, Size, one_of
from ehr_tracking.config import STRICT

SIZES = {
    "tiny": Size(64, 2, 4, 192, 2048),
    "small": Size(128, 2, 4, 384, 2048, embedding=64),
    "medium": Size(256, 4, 8, 704, 2048, embedding=128),
    "large": Size(512, 6, 8, 1408, 2048, embedding=256),
    "original": Size(288, 6, 12, 512, 512),
}
"""SwiGLU holds about 8/3 of the width inside the MLP."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BehrtModelConfig(ArchitectureConfig):
    """Bidirectional encoder with age, time, visit and segment embeddings."""

    kind: Literal["behrt"] = "behrt"
    size: Annotated[str, one_of(SIZES)] = "small"
    embedding: PositiveInt | None = None
    """Width of the embeddings; below `hidden` a linear map follows."""
    age: Literal["time2vec", "sinusoid", "months", "none"] | None = None
    time: Literal["time2vec", "sinusoid", "months", "none"] | None = None
    static: bool | None = None
    """A learned vector of static tokens in place of age and time; all but `original` have it."""
    position: Literal["rope", "sinusoid", "learned", "none"] | None = None
    segment: bool | None = None
    visit: bool | None = None
    mlp: Literal["swiglu", "gelu"] | None = None
    norm: Literal["pre", "post"] | None = None
    locality: Annotated[float, Field(ge=0, le=10)] | None = None
    """How sharply attention begins at the nearest tokens, with `rope` (2 where not given); 0: evenly."""

    @model_validator(mode="after")
    def _near_needs_rope(self) -> Self:
        position = self.position or ("sinusoid" if self.size == "original" else "rope")
        if self.locality and position != "rope":
            raise ValueError(f"locality needs position = rope, not {position}")
        return self


BEHRT = Kind(
    name="behrt",
    config=BehrtModelConfig,
    sizes=SIZES,
    module="ehr_models.kinds.behrt.model",
    sees="all",
    inputs={
        "input_ids": "input_ids",
        "position_ids": "position_ids",
        "age": "age",
        "time": "time",
        "visit": "visit",
        "segment": "segment",
    },
    token_head=("head",),
    adapters=("q_proj", "k_proj", "v_proj", "o_proj"),
    files=(
        "ehr_models.kinds.behrt.model",
        "ehr_models.layers.encoder",
        "ehr_models.layers.embeddings",
    ),
)
