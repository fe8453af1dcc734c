"""What a user may set about perplexity by position."""

from typing import Literal

from pydantic import Field, PositiveInt
from pydantic.dataclasses import dataclass

from ehr_tracking.config import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PerplexityConfig:
    """Windows, and how a curve is drawn."""

    split: Literal["train", "tuning", "held_out"] = "held_out"
    """Whose records are read."""
    context: int | None = Field(default=None, ge=4)
    """Most tokens a model sees at once; null: as in its training."""
    stride: PositiveInt = 32
    """Tokens that each window behind the first asks for: each of them has at least `context - stride`
    others in view (less where the record's prefix takes half of the context)."""
    smooth: PositiveInt | None = None
    """Positions over which the drawn curve is a running mean, centred; null: a tenth of them, at most 250."""
    least_subjects: PositiveInt = 5
    """Positions that fewer subjects have are left out: a median of one is that one's record."""
    subjects: PositiveInt | None = None
    """Most subjects that are read, the first by a hash of the id; null: all."""
    batch_tokens: PositiveInt = 8192
    """Most tokens in one forward pass; a longer window goes alone."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bf16 where the hardware has units for it, as in training."""
