"""Chrono: the torch half, which is copied beside checkpoints as their remote code.

It needs torch, transformers and the files that its record names only. Attention, MLP and cache are
those of transformers' Llama; what is added is time.

B batch, L length, D width, V vocabulary, P pairs of a head. A packed batch is B = 1, L = T.
"""
# transformers leaves some methods untyped
# mypy: allow-untyped-calls

import math
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    Cache,
    DynamicCache,
    GenerationMixin,
    LlamaConfig,
    PreTrainedModel,
    initialization,
)
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP

from ehr_models.forecasts.events import EventsHead
from ehr_models.forecasts.query import QueryHead
from ehr_models.forecasts.time import TimeHead
from ehr_models.layers.embeddings import DAYS_PER_YEAR, STATIC, Waves, days_since_2020
from ehr_models.layers.rotary import order_rotary, time_rotary

FORECASTS: dict[str, Any] = {"time": TimeHead, "events": EventsHead, "query": QueryHead}
"""Heads over tokens' states beside that of the next token, by name: `<name>_head` of the model, made
of the field `<name>_head` of its configuration where that is set."""
DAY, WEEK, YEAR = 1.0, 7.0, DAYS_PER_YEAR
AGES = tuple(YEAR * period for period in (1, 3, 10, 30, 100, 300))
"""Periods in days: no two ages of a life look alike."""
TIMES = {"clock": (DAY, WEEK, YEAR), "date": (DAY, WEEK, YEAR, 5 * YEAR, 25 * YEAR, 125 * YEAR)}
WIDE = 256
"""Above this width the projections back to the stream begin smaller, as 1 / width."""


class ChronoConfig(LlamaConfig):
    """That of Llama, and what of time a token is told."""

    model_type = "chrono"

    true_vocab_size: int | None = None
    """How many rows are codes, where the rest only pads."""
    positions: Literal["time", "order", "both"] = "both"
    age: Literal["waves", "none"] = "waves"
    time: Literal["clock", "date", "none"] = "clock"
    dropout: float = 0.0
    """Of embeddings and residual branches."""
    time_head: dict[str, Any] | None = None
    events_head: dict[str, Any] | None = None
    query_head: dict[str, Any] | None = None
    bos_token_id: int | None = 5
    eos_token_id: int | list[int] | None = 6
    pad_token_id: int | None = 0
    tie_word_embeddings: bool = True

    @property
    def tells_time(self) -> bool:
        """Whether `age` and `time` have to be given."""
        return (self.positions, self.age, self.time) != ("order", "none", "none")


class When(nn.Module):
    """Age and time of a token as a vector; of static tokens one of their own."""

    def __init__(self, config: ChronoConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.age = Waves(AGES, width) if config.age != "none" else None
        self.time = Waves(TIMES[config.time], width) if config.time != "none" else None
        self.static = nn.Parameter(torch.empty(width))

    def forward(self, age: Tensor, time: Tensor) -> Tensor:
        """[B, L] each to [B, L, D]."""
        parts = [] if self.age is None else [self.age(age)]
        if self.time is not None:
            parts.append(self.time(days_since_2020(time)))
        total: Tensor = sum(parts[1:], parts[0])
        return torch.where((time == STATIC)[..., None], self.static.to(total.dtype), total)


class Back(nn.Linear):
    """To the stream of states, from attention or an MLP; without bias."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__(width, out, bias=False)


class Layer(GradientCheckpointingLayer):
    """x + attention, then + MLP; RMSNorm before each. Names are those of Llama."""

    def __init__(self, config: ChronoConfig, layer: int) -> None:
        super().__init__()
        self.self_attn = LlamaAttention(config, layer)
        self.mlp = LlamaMLP(config)
        inner = config.num_attention_heads * self.self_attn.head_dim
        self.self_attn.o_proj = Back(inner, config.hidden_size)
        self.mlp.down_proj = Back(config.intermediate_size, config.hidden_size)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401 -- attention's
        """[B, L, D] to [B, L, D]; all else goes to attention."""
        x = x + self.dropout(self.self_attn(self.input_layernorm(x), *args, **kwargs)[0])
        out: Tensor = x + self.dropout(self.mlp(self.post_attention_layernorm(x)))
        return out


class ChronoPreTrainedModel(PreTrainedModel):
    """Initialisation, loading and saving."""

    config: ChronoConfig
    config_class = ChronoConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Layer"]  # noqa: RUF012 -- transformers' own form
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012 -- transformers' own form
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        config, std = self.config, self.config.initializer_range
        if isinstance(module, Back):
            deep = math.sqrt(2 * config.num_hidden_layers)
            back = std / deep * min(1.0, WIDE / config.hidden_size)
            initialization.normal_(module.weight, 0.0, back)
        elif isinstance(module, When):
            initialization.normal_(module.static, 0.0, std)
        elif isinstance(module, (Waves, *FORECASTS.values())):
            cast("Any", module).reset(std)


class ChronoModel(ChronoPreTrainedModel):
    """The decoder."""

    def __init__(self, config: ChronoConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.embed_tokens = nn.Embedding(config.vocab_size, width, config.pad_token_id)
        told = (config.age, config.time) != ("none", "none")
        self.when = When(config) if told else None
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(Layer(config, n) for n in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(width, config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        age: Tensor | None = None,
        time: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,  # noqa: ANN401 -- e.g. the spans of a packed batch
    ) -> BaseModelOutputWithPast:
        """Decode a padded batch [B, L], or a packed one [1, T] where attention knows its spans.

        Args:
            input_ids: Codes; with a cache those behind what it holds.
            attention_mask: 0 at padding, of what the cache holds as well.
            position_ids: Of each token in its sequence; counted from the cache where not given.
            age: Days since birth; 0 for static tokens.
            time: int64 microseconds since 1970; the least int64 for static tokens.
            past_key_values: Cache of keys and values, grown in place.
            inputs_embeds: [B, L, D] in place of `input_ids`.
            use_cache: Whether to give a cache; made where there is none. The config's by default.
            **kwargs: Handed to the attention function.

        Raises:
            ValueError: If not exactly one of `input_ids` and `inputs_embeds` is given, or `age` and
                `time` are not there for each of these tokens though the configuration tells time.
        """
        kwargs.pop("return_dict", None)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass exactly one of input_ids and inputs_embeds")
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if self.config.tells_time:
            _require(x, age=age, time=time)
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            seen = 0 if past_key_values is None else past_key_values.get_seq_length()
            position_ids = torch.arange(x.shape[1], device=x.device)[None] + seen
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=x,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        rope = self._rotary(x, position_ids, age, time)
        x = self.dropout(x if self.when is None else x + self.when(age, time))
        for layer in self.layers:
            x = layer(x, rope, mask, past_key_values=past_key_values, **kwargs)
        return BaseModelOutputWithPast(
            last_hidden_state=self.norm(x),
            past_key_values=past_key_values if use_cache else None,
        )

    def _rotary(
        self, x: Tensor, position_ids: Tensor, age: Tensor | None, time: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Cosine and sine [B, L, 2 P]: pair i is dimensions i and i + P, those of time first."""
        config = self.config
        pairs = config.hidden_size // config.num_attention_heads // 2
        of_time = {"time": pairs, "order": 0, "both": pairs // 2}[config.positions]
        told: Any = config.rope_parameters
        parts = []
        if of_time:
            assert age is not None
            assert time is not None
            parts.append(time_rotary(age, time, of_time))
        if of_time < pairs:
            ordinal = position_ids.expand(x.shape[:2])
            parts.append(order_rotary(ordinal, pairs - of_time, told["rope_theta"]))
        cos, sin = (torch.cat(part, -1) for part in zip(*parts, strict=True))
        return torch.cat([cos, cos], -1).to(x.dtype), torch.cat([sin, sin], -1).to(x.dtype)


def _require(x: Tensor, **inputs: Tensor | None) -> None:
    for name, value in inputs.items():
        if value is None or value.shape != x.shape[:2]:
            found = "none" if value is None else list(value.shape)
            raise ValueError(
                f"this model tells time: pass {name}= of each token, {list(x.shape[:2])}, not {found}"
                " (age in days, time in microseconds since 1970)"
            )


class ChronoForCausalLM(ChronoPreTrainedModel, GenerationMixin):
    """The decoder with a tied head over codes, and those forecasts that its configuration names."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012 -- transformers' own form

    def __init__(self, config: ChronoConfig) -> None:
        super().__init__(config)
        self.model = ChronoModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        for name in self.forecasts:
            self.add_module(f"{name}_head", FORECASTS[name](config))
        self.post_init()

    @property
    def forecasts(self) -> list[str]:
        """Names of the heads beside that of the next token."""
        return [name for name in FORECASTS if getattr(self.config, f"{name}_head") is not None]

    def forecast(self, name: str, settings: dict[str, Any]) -> None:
        """Put in a new head, its weights drawn from torch's global generator.

        Args:
            name: Of `FORECASTS`.
            settings: What the configuration says of it from now on; plain data.
        """
        setattr(self.config, f"{name}_head", settings)
        head = FORECASTS[name](self.config)
        for module in [*head.modules()][::-1]:
            self._init_weights(module)
        self.add_module(f"{name}_head", head.to(self.device, self.dtype).train(self.training))

    def forward(
        self,
        input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **inputs: Any,  # noqa: ANN401 -- those of `ChronoModel`
    ) -> CausalLMOutputWithPast:
        """Logits [B, L, V]; with labels the loss of the next token.

        Args:
            input_ids: As in `ChronoModel`.
            labels: [B, L] codes, shifted here; -100 where there is none.
            logits_to_keep: Of how many of the last tokens, or of which; 0 for all.
            **inputs: The others of `ChronoModel`.
        """
        out = self.model(input_ids=input_ids, **inputs)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(out.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            true = logits[:, :-1, : self.config.true_vocab_size].float()
            loss = F.cross_entropy(true.flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=out.past_key_values)


BACKBONE, TOKEN = ChronoModel, ChronoForCausalLM


def architecture(config: Any, size: Any, common: dict[str, Any]) -> ChronoConfig:  # noqa: ANN401
    """The configuration of a preset.

    Args:
        config: `ChronoModelConfig`; this file must not need it.
        size: Numbers of its size, overrides included.
        common: What every kind has: `vocab_size`, `true_vocab_size`, `pad_token_id`.
    """
    return ChronoConfig(
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=config.shared_heads,
        intermediate_size=size.intermediate,
        max_position_embeddings=size.max_positions,
        dropout=config.dropout or 0.0,
        attention_dropout=config.attention_dropout or 0.0,
        positions=config.positions,
        age=config.age,
        time=config.time,
        **common,
    )
