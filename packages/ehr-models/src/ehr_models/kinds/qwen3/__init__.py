"""Qwen3, the class of transformers; without torch."""

from typing import Annotated, Literal

from pydantic import PositiveInt
from pydantic.dataclasses import dataclass

from ehr_models.kinds.record import ArchitectureConfig, Kind, Size, one_of
from ehr_tracking.config import STRICT

SIZES = {
    "tiny": Size(128, 4, 4, 384, 4096),
    "small": Size(256, 6, 8, 704, 4096),
    "base": Size(768, 12, 12, 2048, 4096),
    "medium": Size(1024, 24, 16, 2816, 4096),
    "0.6b": Size(1024, 28, 16, 3072, 32768),
    "1.7b": Size(2048, 28, 16, 6144, 32768),
    "4b": Size(2560, 36, 32, 9728, 32768),
}
"""From `0.6b` on as published, with heads of 128 and eight key/value heads."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Qwen3ModelConfig(ArchitectureConfig):
    """Qwen3 (Yang et al. 2025): causal decoder with RoPE, SwiGLU and RMSNorm, also of queries and keys."""

    kind: Literal["qwen3"] = "qwen3"
    size: Annotated[str, one_of(SIZES)] = "base"
    kv_heads: PositiveInt | None = None
    """Fewer than `heads` for grouped-query attention; a half of them where not given, 8 as published."""
    head_width: PositiveInt | None = None
    """Of each head; `hidden` / `heads` where not given, 128 as published."""


QWEN3 = Kind(
    name="qwen3",
    config=Qwen3ModelConfig,
    sizes=SIZES,
    module="ehr_models.kinds.qwen3.model",
    sees="past",
    incremental=True,
    inputs={"input_ids": "input_ids", "position_ids": "position_ids"},
    token_head=("lm_head",),
    adapters=("q_proj", "k_proj", "v_proj", "o_proj"),
)
