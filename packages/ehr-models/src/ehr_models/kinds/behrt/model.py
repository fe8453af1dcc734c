"""BEHRT: a bidirectional encoder over a subject's codes, with age, time, visit and segment.

This file is copied beside checkpoints as their remote code, with `layers/encoder.py` and
`layers/embeddings.py`: they need torch and transformers only.

Sources: Li et al. 2020, BEHRT, Sci Rep 10:7155 (the model); Odgaard et al. 2024, CORE-BEHRT (the
ablation behind the defaults); Shazeer 2020, SwiGLU.

B batch, L length, D width, E width of the embeddings, V vocabulary. A packed batch is B = 1, L = T.
"""
# transformers leaves some methods untyped
# mypy: allow-untyped-calls

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, initialization
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput

from ehr_models.layers.embeddings import (
    DAYS_1900_TO_2020,
    STATIC,
    BinnedDays,
    Time2Vec,
    days_since_2020,
    rotary,
    waves,
)
from ehr_models.layers.encoder import (
    EncoderLayer,
    NearProjection,
    TokenHead,
    masked_loss,
    table_width,
)


class BehrtConfig(PreTrainedConfig):
    """Sizes of a BEHRT and what it embeds."""

    model_type = "behrt"

    vocab_size: int = 1024
    """Rows of the embedding."""
    true_vocab_size: int | None = None
    """How many of these are codes, where the rest only pads."""
    hidden_size: int = 128
    embedding_size: int | None = None
    """Width of the embeddings, where it is not that of the model: a linear map takes them there."""
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    intermediate_size: int = 384
    max_position_embeddings: int = 2048
    """Longest sequence that shall be fed; nothing is sized by it."""
    age: Literal["time2vec", "sinusoid", "months", "none"] = "time2vec"
    """`months` is a learned table, a row a month."""
    time: Literal["time2vec", "sinusoid", "months", "none"] = "time2vec"
    """Absolute; `months` are counted from 1900."""
    static: bool = True
    """Static tokens (sex, race) get a learned vector in place of age and time; without it they look
    like birth and 2020-01-01."""
    position: Literal["rope", "sinusoid", "learned", "none"] = "rope"
    """`rope` counts tokens; `sinusoid` and `learned` count visits, as the original does."""
    segment: bool = True
    visit: bool = True
    """A learned embedding of the visit ordinal."""
    max_visits: int = 512
    """Ordinals above share the last row."""
    max_age_months: int = 1440
    max_time_months: int = 4800
    time_features: int = 64
    mlp: Literal["swiglu", "gelu"] = "swiglu"
    norm: Literal["pre", "post"] = "pre"
    bias: bool = False
    rope_theta: float = 10_000.0
    locality: float = 0.0
    """With `rope`: queries and keys have biases that begin at this value; see `NearProjection`."""
    dropout: float = 0.0
    attention_dropout: float = 0.0
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    pad_token_id: int | None = 0
    tie_word_embeddings: bool = True
    pooling: str = "mean"
    classifier_dropout: float = 0.0


class BehrtEmbeddings(nn.Module):
    """Sum of code, age, time, position, visit and segment embeddings; LayerNorm; dropout.

    Where they are not as wide as the model, a linear map follows.
    """

    def __init__(self, config: BehrtConfig) -> None:
        super().__init__()
        self.config = config
        width = table_width(config)
        self.code = nn.Embedding(config.vocab_size, width, padding_idx=config.pad_token_id)
        if config.age in ("time2vec", "months"):
            self.age = _of_days(config, config.age, config.max_age_months)
        if config.time in ("time2vec", "months"):
            self.time = _of_days(config, config.time, config.max_time_months)
        self.when = config.age != "none" or config.time != "none"
        if self.when and config.static:
            self.static = nn.Parameter(torch.empty(width))
        if config.position == "learned":
            self.position = nn.Embedding(config.max_visits + 1, width)
        if config.visit:
            self.visit = nn.Embedding(config.max_visits + 1, width)
        if config.segment:
            self.segment = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        if width != config.hidden_size:
            self.projection = nn.Linear(width, config.hidden_size)

    def forward(self, code: Tensor, inputs: dict[str, Tensor | None]) -> Tensor:
        """Code embeddings [B, L, E] and `age`, `time`, `visit`, `segment` [B, L] to states [B, L, D]."""
        config, total = self.config, code
        if self.when:
            total = total + self._when(inputs, total)
        if config.visit or config.position in ("sinusoid", "learned"):
            visit = _given(inputs, "visit").clamp(0, config.max_visits)
            total = total + self._visits(visit, total)
        if config.segment:
            total = total + self.segment(_given(inputs, "segment"))
        states: Tensor = self.dropout(self.norm(total))
        if hasattr(self, "projection"):
            states = self.projection(states)
        return states

    def _when(self, inputs: dict[str, Tensor | None], like: Tensor) -> Tensor:
        """Age plus time [B, L, E]; of static tokens their own vector."""
        config, parts = self.config, []
        if config.age == "sinusoid":
            parts.append(waves(_given(inputs, "age"), like, config.initializer_range))
        elif config.age != "none":
            parts.append(self.age(_given(inputs, "age")))
        if config.time != "none":
            days = days_since_2020(_given(inputs, "time"))
            if config.time == "sinusoid":
                parts.append(waves(days, like, config.initializer_range))
            else:
                begins = DAYS_1900_TO_2020 if config.time == "months" else 0
                parts.append(self.time(days + begins))
        total: Tensor = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        if not config.static:
            return total
        static = (_given(inputs, "time") == STATIC)[..., None]
        return torch.where(static, self.static.to(total.dtype), total)

    def _visits(self, visit: Tensor, like: Tensor) -> Tensor | float:
        config = self.config
        total: Tensor | float = self.visit(visit) if config.visit else 0.0
        if config.position == "learned":
            total = total + self.position(visit)
        elif config.position == "sinusoid":
            total = total + waves(visit, like, config.initializer_range)
        return total


def _of_days(config: BehrtConfig, how: str, months: int) -> nn.Module:
    """From days [...] to [..., E]."""
    width = table_width(config)
    if how == "time2vec":
        return Time2Vec(config.time_features, width)
    return BinnedDays(months + 1, 12, width)


def _given(inputs: dict[str, Tensor | None], name: str) -> Tensor:
    value = inputs[name]
    if value is None:
        raise ValueError(
            f"this BEHRT embeds {name}: pass {name}=, a tensor shaped like input_ids"
            " (age in days, time in microseconds since 1970)"
        )
    return value


class BehrtPreTrainedModel(PreTrainedModel):
    """Initialisation, loading and saving."""

    config: BehrtConfig
    config_class = BehrtConfig
    base_model_prefix = "behrt"
    supports_gradient_checkpointing = True
    _no_split_modules = ["EncoderLayer"]  # noqa: RUF012 -- transformers' own form
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Time2Vec):
            module.reset(self.config.initializer_range)
        elif isinstance(module, NearProjection):
            module.reset(self.config.locality)
        elif isinstance(module, BehrtEmbeddings) and hasattr(module, "static"):
            initialization.normal_(module.static, 0.0, self.config.initializer_range)


class BehrtModel(BehrtPreTrainedModel):
    """The encoder."""

    def __init__(self, config: BehrtConfig) -> None:
        super().__init__(config)
        self.embeddings = BehrtEmbeddings(config)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_hidden_layers))
        pre = config.norm == "pre"
        width = config.hidden_size
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps) if pre else nn.Identity()
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The code embedding."""
        return self.embeddings.code

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the code embedding."""
        self.embeddings.code = cast("nn.Embedding", value)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        age: Tensor | None = None,
        time: Tensor | None = None,
        visit: Tensor | None = None,
        segment: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,  # noqa: ANN401 -- e.g. the spans of a packed batch
    ) -> BaseModelOutput:
        """Encode a padded batch [B, L], or a packed one [1, T] where attention knows its spans.

        Args:
            input_ids: Codes.
            attention_mask: 0 at padding.
            position_ids: Of each token in its sequence; counted from 0 where not given.
            age: Days since birth.
            time: int64 microseconds since 1970; the least int64 for static tokens.
            visit: Ordinal of the visit, 0 outside any.
            segment: 0 or 1, flipping with each visit.
            inputs_embeds: [B, L, E] in place of `input_ids`.
            **kwargs: Handed to the attention function.

        Raises:
            ValueError: If an input that this configuration embeds is missing.
        """
        kwargs.pop("return_dict", None)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass exactly one of input_ids and inputs_embeds")
        code = self.embeddings.code(input_ids) if inputs_embeds is None else inputs_embeds
        inputs = {"age": age, "time": time, "visit": visit, "segment": segment}
        x = self.embeddings(code, inputs)
        mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=x, attention_mask=attention_mask
        )
        rope = None
        if self.config.position == "rope":
            if position_ids is None:
                position_ids = torch.arange(x.shape[1], device=x.device)[None]
            head_dim = self.config.hidden_size // self.config.num_attention_heads
            rope = rotary(position_ids, head_dim, self.config.rope_theta)
        for layer in self.layers:
            x = layer(x, mask, rope, **kwargs)
        return BaseModelOutput(last_hidden_state=self.norm(x))


class BehrtForMaskedLM(BehrtPreTrainedModel):
    """The encoder with a tied decoder over codes."""

    _tied_weights_keys = {"head.decoder.weight": "behrt.embeddings.code.weight"}  # noqa: RUF012 -- transformers' own form

    def __init__(self, config: BehrtConfig) -> None:
        super().__init__(config)
        self.behrt = BehrtModel(config)
        # a module of its own: a `norm` here would be taken for the encoder's when loading
        self.head = TokenHead(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        """The decoder."""
        return self.head.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the decoder."""
        self.head.decoder = new_embeddings

    def forward(
        self,
        input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        **inputs: Any,  # noqa: ANN401 -- those of `BehrtModel`
    ) -> MaskedLMOutput:
        """Logits [B, L, V]; with labels (-100 where there is none) their mean cross-entropy."""
        logits = self.head(self.behrt(input_ids=input_ids, **inputs).last_hidden_state)
        return MaskedLMOutput(loss=masked_loss(self.config, logits, labels), logits=logits)


BACKBONE, TOKEN = BehrtModel, BehrtForMaskedLM

ORIGINAL: dict[str, Any] = {
    "age": "months",
    "time": "none",
    "static": False,
    "position": "sinusoid",
    "segment": True,
    "visit": False,
    "mlp": "gelu",
    "norm": "post",
    "bias": True,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "layer_norm_eps": 1e-12,
    "pooling": "cls",
}
"""How BEHRT as published (Li et al. 2020) differs from the defaults of `BehrtConfig`."""

NEAR: dict[str, Any] = {"bias": True, "rope_theta": 100.0, "locality": 2.0}
"""What new models with `rope` begin with. Most of what there is to know of a hidden code stands beside
it, but attention that is even at first gives each of L tokens 1 / L of the gradient, so that nothing
but frequencies is learned for a long time; and of a base of 10,000 half of the frequencies do not tell
neighbours apart. A checkpoint keeps what its own config says."""

CHOICES = (
    *("age", "time", "static", "position", "segment", "visit", "mlp", "norm", "locality"),
    *("dropout", "attention_dropout"),
)


def architecture(config: Any, size: Any, common: dict[str, Any]) -> BehrtConfig:  # noqa: ANN401
    """The configuration of a preset.

    Args:
        config: `BehrtModelConfig`; this file must not need it.
        size: Numbers of its size, overrides included.
        common: What every kind has: `vocab_size`, `true_vocab_size`, `pad_token_id`.
    """
    choices = dict(ORIGINAL) if config.size == "original" else {}
    if (config.position or choices.get("position", "rope")) == "rope":
        choices |= NEAR
    for name in CHOICES:
        if getattr(config, name) is not None:
            choices[name] = getattr(config, name)
    return BehrtConfig(
        hidden_size=size.hidden,
        embedding_size=size.embedding,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=size.intermediate,
        max_position_embeddings=size.max_positions,
        **choices,
        **common,
    )
