"""Llama, the class of transformers; without torch."""

from typing import Annotated, Literal

from pydantic import PositiveInt
from pydantic.dataclasses import dataclass

from ehr_models.kinds.record import ArchitectureConfig, Kind, Size, one_of
from ehr_tracking.config import STRICT

SIZES = {
    "tiny": Size(128, 4, 4, 384, 2048),
    "small": Size(256, 6, 8, 704, 2048),
    "base": Size(768, 12, 12, 2048, 2048),
    "medium": Size(1024, 24, 16, 2816, 2048),
    "clues": Size(768, 8, 12, 2688, 4096),
    "1b": Size(2048, 16, 32, 8192, 8192),
}
"""SwiGLU holds about 8/3 of the width inside the MLP; `clues` is that of hf_ehr (Context Clues), `1b` Llama 3.2's."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LlamaModelConfig(ArchitectureConfig):
    """Llama (Touvron et al. 2023): causal decoder with RoPE, SwiGLU and RMSNorm."""

    kind: Literal["llama"] = "llama"
    size: Annotated[str, one_of(SIZES)] = "base"
    kv_heads: PositiveInt | None = None
    """Fewer than `heads` for grouped-query attention."""


LLAMA = Kind(
    name="llama",
    config=LlamaModelConfig,
    sizes=SIZES,
    module="ehr_models.kinds.llama.model",
    sees="past",
    incremental=True,
    inputs={"input_ids": "input_ids", "position_ids": "position_ids"},
    token_head=("lm_head",),
    adapters=("q_proj", "k_proj", "v_proj", "o_proj"),
)
