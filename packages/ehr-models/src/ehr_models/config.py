"""Which model, by `kind` and `size`, with explicit overrides; without torch.

A field left at None takes the value of the size.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt
from pydantic.dataclasses import dataclass

from ehr_tracking.config import STRICT

Fraction = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class _Sizes:
    """What every architecture has."""

    hidden: PositiveInt | None = None
    """Width."""
    layers: PositiveInt | None = None
    heads: PositiveInt | None = None
    intermediate: PositiveInt | None = None
    """Width inside the MLP."""
    max_positions: PositiveInt | None = None
    """Longest sequence."""
    dropout: Fraction | None = None
    """Of embeddings and residual branches; 0, but 0.1 in `behrt-original`."""
    attention_dropout: Fraction | None = None
    """Of attention weights, likewise; above 0 it forgoes the fused kernels of GPUs in training."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BehrtModelConfig(_Sizes):
    """Bidirectional encoder with age, time, visit and segment embeddings."""

    kind: Literal["behrt"] = "behrt"
    size: Literal["tiny", "small", "medium", "large", "original"] = "small"
    age: Literal["time2vec", "months", "none"] | None = None
    time: Literal["time2vec", "none"] | None = None
    static: bool | None = None
    """A learned vector of static tokens in place of age and time; all but `original` have it."""
    position: Literal["rope", "sinusoid", "learned", "none"] | None = None
    segment: bool | None = None
    visit: bool | None = None
    mlp: Literal["swiglu", "gelu"] | None = None
    norm: Literal["pre", "post"] | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Gpt2ModelConfig(_Sizes):
    """GPT-2 (Radford et al. 2019): causal decoder with learned positions."""

    kind: Literal["gpt2"] = "gpt2"
    size: Literal["tiny", "small", "base", "medium", "large", "xlarge"] = "base"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BertModelConfig(_Sizes):
    """BERT (Devlin et al. 2019; smaller sizes Turc et al. 2019): bidirectional encoder."""

    kind: Literal["bert"] = "bert"
    size: Literal["tiny", "mini", "small", "medium", "base", "large"] = "base"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LlamaModelConfig(_Sizes):
    """Llama (Touvron et al. 2023): causal decoder with RoPE, SwiGLU and RMSNorm."""

    kind: Literal["llama"] = "llama"
    size: Literal["tiny", "small", "base", "medium", "1b"] = "base"
    kv_heads: PositiveInt | None = None
    """Fewer than `heads` for grouped-query attention."""


ModelConfig = Annotated[
    BehrtModelConfig | Gpt2ModelConfig | BertModelConfig | LlamaModelConfig,
    Field(discriminator="kind"),
]
"""For use as a field's type; `kind:` chooses."""

CONFIGS: dict[str, Any] = {
    config.kind: config
    for config in (BehrtModelConfig, Gpt2ModelConfig, BertModelConfig, LlamaModelConfig)
}
"""Config class of each kind."""
