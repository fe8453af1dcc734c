"""Mamba-2, the class of transformers; without torch."""

from typing import Annotated, Literal

from pydantic import PositiveInt
from pydantic.dataclasses import dataclass

from ehr_models.kinds.record import ArchitectureConfig, Kind, Size, one_of
from ehr_tracking.config import STRICT

SIZES = {
    "nano": Size(128, 4, 4, 256, 16384),
    "tiny": Size(768, 24, 24, 1536, 16384),
    "small": Size(1024, 48, 32, 2048, 16384),
    "medium": Size(1536, 48, 48, 3072, 16384),
    "large": Size(2048, 48, 64, 4096, 16384),
    "xlarge": Size(2560, 64, 80, 5120, 16384),
}
"""From `tiny` on as published (130M, 370M, 780M, 1.3B, 2.7B); the names are those of hf_ehr."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Mamba2ModelConfig(ArchitectureConfig):
    """Mamba-2 (Dao and Gu 2024): causal state space model, whose memory of the past is of one size."""

    kind: Literal["mamba2"] = "mamba2"
    size: Annotated[str, one_of(SIZES)] = "tiny"
    state: PositiveInt = 128
    """Numbers that each channel remembers."""
    chunk: PositiveInt = 64
    """Tokens that are worked on at once; it changes time and memory, not the result."""


MAMBA2 = Kind(
    name="mamba2",
    config=Mamba2ModelConfig,
    sizes=SIZES,
    module="ehr_models.kinds.mamba2.model",
    sees="past",
    isolates="padded",
    inputs={"input_ids": "input_ids"},
    token_head=("lm_head",),
    adapters=("in_proj",),
    whole=("out_proj",),
)
