"""GPT-2, the class of transformers; without torch."""

from typing import Annotated, Literal

from pydantic.dataclasses import dataclass

from ehr_models.kinds.record import ArchitectureConfig, Kind, Size, one_of
from ehr_tracking.config import STRICT

SIZES = {
    "tiny": Size(128, 4, 4, 512, 1024),
    "small": Size(256, 6, 8, 1024, 1024),
    "base": Size(768, 12, 12, 3072, 1024),
    "medium": Size(1024, 24, 16, 4096, 1024),
    "large": Size(1280, 36, 20, 5120, 1024),
    "xlarge": Size(1600, 48, 25, 6400, 1024),
    "huge": Size(1280, 72, 40, 5120, 1024),
}
"""To `xlarge` as published; `huge` is what hf_ehr calls xlarge."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Gpt2ModelConfig(ArchitectureConfig):
    """GPT-2 (Radford et al. 2019): causal decoder with learned positions."""

    kind: Literal["gpt2"] = "gpt2"
    size: Annotated[str, one_of(SIZES)] = "base"


GPT2 = Kind(
    name="gpt2",
    config=Gpt2ModelConfig,
    sizes=SIZES,
    module="ehr_models.kinds.gpt2.model",
    sees="past",
    incremental=True,
    inputs={"input_ids": "input_ids", "position_ids": "position_ids"},
    token_head=("lm_head",),
    adapters=("c_attn",),
)
