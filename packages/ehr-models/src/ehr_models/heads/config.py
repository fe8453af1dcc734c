"""What a pooled head is, as a user sets it; without torch."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs

from ehr_tracking.config import STRICT

Pooling = Literal["last", "mean", "max", "sum", "attention", "bigru", "cls"]
Shape = Literal["linear", "ffn", "gru", "lstm", "native"]
Problem = Literal["binary", "multiclass", "multilabel", "regression", "survival"]
"""What the outputs of a head mean: one logit; one logit a class; one logit a label; numbers; one
logit a hazard of discrete time."""

RECURRENT = ("gru", "lstm")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PooledConfig:
    """From the states of a subject to the outputs of a head."""

    pooling: Pooling = "mean"
    """How a subject's states become one: its `last` token, `mean`, `max` or `sum` over its tokens,
    `attention` by a learned query, `bigru` (a GRU from either end), or the leading [CLS]."""
    shape: Shape = "linear"
    """What is on top: one `linear` layer; `ffn`, hidden layers before it; `gru` or `lstm`, which read
    all states in order and are asked at the last one (`pooling` is `last` then); `native`, the head that
    transformers has for the architecture, which pools in its own way."""
    hidden: PositiveInt | None = None
    """Width of the hidden layers or of the recurrent state; that of the model where not given."""
    layers: PositiveInt = 1
    """Hidden layers of `ffn`, or layers of the recurrent network."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Before the linear layer, and before each hidden one."""
    measurements: NonNegativeInt = 0
    """Numbers of a subject (`batch.subject["measurements"]`) that are laid beside its pooled state."""

    @model_validator(mode="before")
    @classmethod
    def _recurrent_reads_the_last(cls, given: Any) -> Any:  # noqa: ANN401 -- what a config is made of
        """Where no pooling is named, that of the shape."""
        values = (given.kwargs or {}) if isinstance(given, ArgsKwargs) else given
        if not isinstance(values, dict) or values.get("shape") not in RECURRENT:
            return given
        values = {"pooling": "last", **values}
        return ArgsKwargs((), values) if isinstance(given, ArgsKwargs) else values

    @model_validator(mode="after")
    def _one_reader(self) -> Self:
        if self.shape in RECURRENT and self.pooling != "last":
            raise ValueError(
                f"shape = {self.shape} is asked at the last position: leave out pooling = {self.pooling}"
            )
        if self.shape in ("linear", "native") and (self.hidden, self.layers) != (None, 1):
            raise ValueError(
                f"shape = {self.shape} has no hidden layer: take shape = ffn, gru or lstm"
            )
        if self.shape == "native" and (self.pooling, self.dropout, self.measurements) != (
            PooledConfig.pooling, 0.0, 0
        ):  # fmt: skip
            raise ValueError(
                "shape = native is as it is: leave out pooling, dropout and measurements"
            )
        return self
