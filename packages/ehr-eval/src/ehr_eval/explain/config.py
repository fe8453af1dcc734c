"""What a user may set about explanations and the tests of privacy."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from ehr_eval.heads import HEADS
from ehr_eval.protocol.config import AnyHead
from ehr_tracking.arrow.label_csv import LabelColumns
from ehr_tracking.config import STRICT


def _heads() -> dict[str, AnyHead]:
    return {name: HEADS[name].config() for name in ("lr", "gbm")}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GradientsConfig:
    """How gradients are integrated, and along which path."""

    baseline: Literal["mean", "zero", "unknown"] = "mean"
    """What stands for nothing: the mean of all embeddings, zeros, or the embedding of [UNK]. Special tokens stay."""
    steps: int = Field(default=32, ge=2)
    """Points of the path at first (Gauss and Legendre); doubled until the sum is within `tolerance`."""
    most_steps: int = Field(default=512, ge=2)
    """Points at most."""
    tolerance: Annotated[float, Field(gt=0)] = 0.01
    """Share of what is explained by which the attributions may miss it."""
    context: int | None = Field(default=None, ge=2)
    """Most tokens that the model is shown; null: as in its training."""
    output: int = Field(default=0, ge=0)
    """Which output of a head with several."""
    batch_tokens: int = Field(default=8192, ge=1)
    """Most tokens in one pass."""
    labels: LabelColumns = Field(default_factory=LabelColumns)
    """What the columns of `--labels FILE.csv` are called."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ShapConfig:
    """Which heads are explained, and what of it is shown."""

    heads: dict[str, AnyHead] = Field(default_factory=_heads, min_length=1)
    """As of `ehrshot`; those that can be told exactly: lr and gbm."""
    shown: int = Field(default=20, ge=1)
    """Features in the report, and of each row of a subject."""
    least: int = Field(default=5, ge=1)
    """Subjects that a spot of the plot stands for, at least: fewer are not drawn."""
    labels: LabelColumns = Field(default_factory=LabelColumns)
    """What the columns of `--labels FILE.csv` are called."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PrivacyConfig:
    """How much is looked at."""

    k: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Share of the least probable tokens that Min-K% looks at."""
    subjects: int = Field(default=2000, ge=2)
    """Of a split at most, drawn by hash."""
    bootstraps: int = Field(default=1000, ge=1)
    """Resamples of subjects, for intervals."""
    context: int | None = Field(default=None, ge=2)
    """Most tokens of a subject that the model is shown, its newest; null: as in its training."""
    batch_tokens: int = Field(default=8192, ge=1)
    """Most tokens in one pass."""
    gram: int = Field(default=4, ge=2)
    """Events of a sequence that may have been learnt by heart."""
    rare: int = Field(default=1, ge=1)
    """Train subjects that share a rare sequence, at most."""
    seed: int = 0
    """Of the draw of subjects, and of the split by hash where the data set names none."""
