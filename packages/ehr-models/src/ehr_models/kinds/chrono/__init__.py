"""Chrono, a causal decoder that knows time; without torch."""

from typing import Annotated, Literal, Self

from pydantic import PositiveInt, model_validator
from pydantic.dataclasses import dataclass

from ehr_models.kinds.record import ArchitectureConfig, Kind, Size, one_of
from ehr_tracking.config import STRICT

SIZES = {
    "tiny": Size(128, 4, 4, 384, 4096),
    "small": Size(256, 6, 4, 704, 4096),
    "base": Size(512, 8, 8, 1408, 4096),
    "medium": Size(768, 12, 12, 2048, 4096),
    "350m": Size(1024, 24, 16, 3328, 4096),
}
KV_HEADS = {"tiny": 2, "small": 2, "base": 4, "medium": 4, "350m": 4}
"""Of each size: heads that share keys and values make the cache smaller by as much."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ChronoModelConfig(ArchitectureConfig):
    """Causal decoder with rotary positions over real time: RMSNorm, SwiGLU, grouped heads."""

    kind: Literal["chrono"] = "chrono"
    size: Annotated[str, one_of(SIZES)] = "small"
    positions: Literal["time", "order", "both"] = "both"
    """What queries and keys are rotated by: real time, the order of tokens, or each by half of a
    head's pairs."""
    age: Literal["waves", "none"] = "waves"
    """Of each token, added to its code: waves of a year to three centuries."""
    time: Literal["clock", "date", "none"] = "clock"
    """Of each token, added to its code: time of day, day of week and season (`clock`), or these and the
    year as well (`date`), which means little where dates are shifted."""
    kv_heads: PositiveInt | None = None
    """Fewer than `heads` for grouped queries; of the size where not given."""

    @property
    def shared_heads(self) -> int:
        """Heads of keys and values; those of the size where they fit `heads`, else as many as these."""
        heads, usual = self.heads or SIZES[self.size].heads, KV_HEADS[self.size]
        return self.kv_heads or (heads if heads % usual else usual)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        heads = self.heads or SIZES[self.size].heads
        if heads % self.shared_heads:
            raise ValueError(f"heads = {heads} must be a multiple of kv_heads = {self.kv_heads}")
        return self


CHRONO = Kind(
    name="chrono",
    config=ChronoModelConfig,
    sizes=SIZES,
    module="ehr_models.kinds.chrono.model",
    sees="past",
    incremental=True,
    inputs={
        "input_ids": "input_ids",
        "position_ids": "position_ids",
        "age": "age",
        "time": "time",
    },
    token_head=("lm_head",),
    adapters=("q_proj", "k_proj", "v_proj", "o_proj"),
    forecasts=("time", "events", "query"),
    files=(
        "ehr_models.kinds.chrono.model",
        "ehr_models.layers.rotary",
        "ehr_models.layers.embeddings",
        "ehr_models.forecasts.time",
        "ehr_models.forecasts.events",
        "ehr_models.forecasts.query",
    ),
)
