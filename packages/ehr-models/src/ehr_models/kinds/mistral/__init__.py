"""Mistral, the class of transformers; without torch."""

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
    "7b": Size(4096, 32, 32, 14336, 32768),
}
"""`7b` is as published, but that embeddings are tied."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MistralModelConfig(ArchitectureConfig):
    """Mistral (Jiang et al. 2023): Llama with grouped queries, each of whose layers sees a window."""

    kind: Literal["mistral"] = "mistral"
    size: Annotated[str, one_of(SIZES)] = "base"
    kv_heads: PositiveInt | None = None
    """Fewer than `heads` for grouped-query attention; a half of them where not given, 8 in `7b`."""
    window: PositiveInt | None = None
    """Tokens that a layer sees, itself included; a quarter of the positions where not given, 4096 in `7b`."""


MISTRAL = Kind(
    name="mistral",
    config=MistralModelConfig,
    sizes=SIZES,
    module="ehr_models.kinds.mistral.model",
    sees="past",
    incremental=True,
    inputs={"input_ids": "input_ids", "position_ids": "position_ids"},
    token_head=("lm_head",),
    adapters=("q_proj", "k_proj", "v_proj", "o_proj"),
)
