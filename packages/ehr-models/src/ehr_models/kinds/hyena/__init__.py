"""Hyena, of long convolutions; without torch."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator
from pydantic.dataclasses import dataclass

from ehr_models.kinds.record import ArchitectureConfig, Kind, Size, one_of
from ehr_tracking.config import STRICT

SIZES = {
    "tiny": Size(128, 2, 1, 1024, 16384),
    "small": Size(256, 4, 1, 1024, 16384),
    "medium": Size(256, 8, 1, 1024, 16384),
    "large": Size(768, 16, 1, 1024, 16384),
    "xlarge": Size(1920, 32, 1, 1024, 16384),
    "xxlarge": Size(2400, 48, 1, 1024, 16384),
}
"""Those of hf_ehr, whose MLP is as wide in all of them."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class HyenaModelConfig(ArchitectureConfig):
    """Hyena (Poli et al. 2023): causal decoder of gated convolutions as long as the record."""

    kind: Literal["hyena"] = "hyena"
    size: Annotated[str, one_of(SIZES)] = "small"
    order: Annotated[int, Field(ge=2)] = 2
    """Gates of a layer; between each two of them is a long convolution."""
    filter_width: PositiveInt = 64
    """Of the network that makes the filters."""
    taps: PositiveInt = 3
    """Tokens of the short convolution before the gates, itself included."""
    tied: bool = False
    """One table for codes and decoder: half the numbers where the vocabulary is large for the width."""

    @model_validator(mode="after")
    def _has_no_attention(self) -> Self:
        for name in ("heads", "attention_dropout"):
            if getattr(self, name):
                raise ValueError(f"{name} = {getattr(self, name)}: a hyena has no attention")
        return self


HYENA = Kind(
    name="hyena",
    config=HyenaModelConfig,
    sizes=SIZES,
    module="ehr_models.kinds.hyena.model",
    sees="past",
    isolates="reset",
    inputs={"input_ids": "input_ids", "position_ids": "position_ids"},
    token_head=("lm_head",),
    adapters=("in_proj", "out_proj"),
    files=("ehr_models.kinds.hyena.model", "ehr_models.layers.convolution"),
)
