"""What a user may set about how features are judged."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from ehr_tracking.config import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LogisticRegressionConfig:
    """L2-regularised logistic regression on features scaled to [-1, 1]."""

    kind: Literal["lr"] = "lr"
    c: Annotated[tuple[float, ...], Field(min_length=1)] = (
        1e-8,
        1e-6,
        1e-4,
        1e-2,
        1e-1,
        1.0,
        1e2,
        1e4,
    )
    """Inverse strengths of the penalty to choose from."""
    max_iter: int = Field(default=1000, ge=1)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LightGBMConfig:
    """Gradient-boosted trees."""

    kind: Literal["gbm"] = "gbm"
    max_depth: Annotated[tuple[int, ...], Field(min_length=1)] = (3, 6, -1)
    learning_rate: Annotated[tuple[float, ...], Field(min_length=1)] = (0.02, 0.1, 0.5)
    num_leaves: Annotated[tuple[int, ...], Field(min_length=1)] = (10, 25, 100)
    rounds: int = Field(default=100, ge=1)
    """Trees."""


HeadConfig = Annotated[LogisticRegressionConfig | LightGBMConfig, Field(discriminator="kind")]


def _both_heads() -> dict[str, HeadConfig]:
    return {"lr": LogisticRegressionConfig(), "gbm": LightGBMConfig()}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EhrshotConfig:
    """The few-shot protocol; the defaults are EHRSHOT's own."""

    ks: Annotated[tuple[int, ...], Field(min_length=1)] = (
        *(1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 128),
        -1,
    )
    """Shots per class; -1 is every row."""
    max_k: int = Field(default=128, ge=1)
    """Shots drawn per class; a smaller k takes the first k of them."""
    replicates: int = Field(default=5, ge=1)
    """Draws of the shots; the seed of a draw is its number."""
    replicates_all: int = Field(default=5, ge=1)
    """The same for k = -1, where the rows are always all rows and only their order is drawn."""
    heads: dict[str, HeadConfig] = Field(default_factory=_both_heads, min_length=1)
    bootstraps: int = Field(default=1000, ge=0)
    """Resamples of the held-out patients; 0 gives no intervals."""
    baseline: str = "counts"
    """The features that every model is compared with, where they are given."""
    tasks: tuple[str, ...] | None = None
    """Null: every task of the labels."""
    few_positives: int = Field(default=10, ge=0)
    """The report warns of tasks with fewer held-out positives (or negatives) than this."""

    @model_validator(mode="after")
    def _draws(self) -> Self:
        wrong = [k for k in self.ks if k != -1 and not 1 <= k <= self.max_k]
        if wrong:
            raise ValueError(f"ks holds {wrong[0]}: a k is -1 or in 1..max_k = {self.max_k}")
        if len(set(self.ks)) < len(self.ks):
            raise ValueError("ks holds a number twice")
        return self

    def draws(self, k: int) -> int:
        """Replicates at one k."""
        return self.replicates_all if k == -1 else self.replicates
