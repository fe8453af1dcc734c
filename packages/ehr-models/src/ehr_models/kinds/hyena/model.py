"""Hyena: the torch half, which is copied beside checkpoints as their remote code.

B batch, L length, D width, V vocabulary, P places of the longest sequence. A packed batch is B = 1, L = T.
"""
# transformers leaves some methods untyped
# mypy: allow-untyped-calls

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, initialization
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from ehr_models.layers.convolution import Spans


class HyenaConfig(PreTrainedConfig):
    """Sizes of a Hyena."""

    model_type = "hyena"

    vocab_size: int = 1024
    true_vocab_size: int | None = None
    hidden_size: int = 256
    num_hidden_layers: int = 4
    intermediate_size: int = 1024
    max_position_embeddings: int = 16384
    order: int = 2
    filter_width: int = 64
    filter_bands: int = 16
    taps: int = 3
    dropout: float = 0.0
    initializer_range: float = 0.02
    bos_token_id: int | None = 5
    eos_token_id: int | list[int] | None = 6
    tie_word_embeddings: bool = False


class HyenaFilter(nn.Module):
    """Filters of any length from a network over the place: features -> sines -> a decaying window.

    Features are waves of 2 to 2 `max_position_embeddings` tokens; channels decay within 1 token to
    all of them, evenly in the logarithm, and begin with a norm near 1.
    """

    def __init__(self, config: HyenaConfig) -> None:
        super().__init__()
        width, self.channels = config.filter_width, (config.order - 1) * config.hidden_size
        self.bands, self.longest = config.filter_bands, config.max_position_embeddings
        self.first = nn.Linear(2 * self.bands + 1, width)
        self.second = nn.Linear(width, width)
        self.last = nn.Linear(width, self.channels, bias=False)
        self.frequency = nn.Parameter(torch.empty(2, width))

    def forward(self, length: int) -> Tensor:
        """[(order - 1) D, length], in float32."""
        weight = self.last.weight
        with torch.autocast(weight.device.type, enabled=False):
            place = torch.arange(length, device=weight.device, dtype=torch.float32)[:, None]
            period = self._spread(2.0, 2.0 * self.longest, self.bands)
            angle = place * (2 * math.pi / period)
            near = place.log1p() / math.log1p(self.longest)
            hidden = torch.cat([near, angle.cos(), angle.sin()], -1)
            for layer, frequency in zip((self.first, self.second), self.frequency, strict=True):
                hidden = (frequency * layer(hidden)).sin()
            rate = 1 / self._spread(1.0, self.longest, self.channels)
            window = (-place * rate).exp() * (1 - (-2 * rate).exp()).sqrt()
            filters: Tensor = (self.last(hidden) * window).T
        return filters

    def _spread(self, least: float, most: float, number: int) -> Tensor:
        """[number] evenly in the logarithm."""
        ends = math.log(least), math.log(most)
        return torch.linspace(*ends, number, device=self.last.weight.device).exp()


class HyenaOperator(nn.Module):
    """Projections, a short convolution of each, and gates with long convolutions between them."""

    def __init__(self, config: HyenaConfig) -> None:
        super().__init__()
        width, self.order = config.hidden_size, config.order
        self.in_proj = nn.Linear(width, (config.order + 1) * width)
        self.taps = nn.Parameter(torch.empty(config.taps, (config.order + 1) * width))
        self.filter = HyenaFilter(config)
        self.skip = nn.Parameter(torch.empty(config.order - 1, width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, position_ids: Tensor, spans: Spans) -> Tensor:
        """[B, L, D] to [B, L, D]; nothing is taken from before position 0."""
        projected = self.in_proj(x)
        mixed = projected * self.taps[0]
        for back in range(1, min(len(self.taps), x.shape[1])):
            before = F.pad(projected, (0, 0, back, 0))[:, :-back]
            mixed = mixed + before * self.taps[back] * (position_ids >= back)[..., None]
        last, *gates, value = mixed.chunk(self.order + 1, -1)
        filters = self.filter(spans.longest).chunk(self.order - 1)
        for gate, skip, kernel in zip(gates, self.skip, filters, strict=True):
            gated = (value * gate).float()
            value = spans.convolve(gated, kernel) + skip * gated
        out: Tensor = self.out_proj(last * value.to(last.dtype))
        return out


class HyenaDown(nn.Linear):
    """Onto the residual stream: begins the smaller, the deeper the model."""


class HyenaLayer(GradientCheckpointingLayer):
    """x + operator(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, config: HyenaConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.mixer_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixer = HyenaOperator(config)
        self.up = nn.Linear(width, config.intermediate_size)
        self.down = HyenaDown(config.intermediate_size, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, position_ids: Tensor, spans: Spans) -> Tensor:
        """[B, L, D] to [B, L, D]."""
        x = x + self.dropout(self.mixer(self.mixer_norm(x), position_ids, spans))
        out: Tensor = x + self.dropout(self.down(F.gelu(self.up(self.mlp_norm(x)))))
        return out


class HyenaPreTrainedModel(PreTrainedModel):
    """Initialisation, loading and saving."""

    config_class = HyenaConfig
    base_model_prefix = "hyena"
    supports_gradient_checkpointing = True
    _no_split_modules = ["HyenaLayer"]  # noqa: RUF012 -- transformers' own form
    # it has no attention, so any implementation will do
    _supports_attention_backend = True
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, HyenaFilter):
            for layer in (module.first, module.second, module.last):
                initialization.normal_(layer.weight, 0.0, (2 / layer.in_features) ** 0.5)
            initialization.ones_(module.frequency)
        elif isinstance(module, HyenaOperator):
            # gates near 1 in size, since a product of small ones would let nothing through; and
            # what is added is as small as codes are
            std = module.in_proj.in_features**-0.5
            initialization.normal_(module.in_proj.weight, 0.0, std)
            initialization.normal_(module.taps, 0.0, len(module.taps) ** -0.5)
            initialization.normal_(module.skip, 0.0, 1.0)
            std *= self.config.initializer_range / self.config.num_hidden_layers**0.5
            initialization.normal_(module.out_proj.weight, 0.0, std)
        elif isinstance(module, HyenaDown):
            std = self.config.initializer_range / (2 * self.config.num_hidden_layers) ** 0.5
            initialization.normal_(module.weight, 0.0, std)


class HyenaModel(HyenaPreTrainedModel):
    """From codes to states."""

    _input_embed_layer = "code"

    def __init__(self, config: HyenaConfig) -> None:
        super().__init__(config)
        self.code = nn.Embedding(config.vocab_size, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(HyenaLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        **_: Any,  # noqa: ANN401 -- what models with attention take
    ) -> BaseModelOutput:
        """[B, L] to states [B, L, D]; sequences begin where `position_ids` are 0.

        Args:
            input_ids: [B, L]
            attention_mask: [B, L], 0 at padding, by which positions are counted where none are given.
            position_ids: [B, L]
        """
        if position_ids is None:
            real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            position_ids = (real.cumsum(-1) - 1).clamp(min=0)
        spans = Spans(position_ids)
        x = self.dropout(self.code(input_ids))
        for layer in self.layers:
            x = layer(x, position_ids, spans)
        return BaseModelOutput(last_hidden_state=self.norm(x))


class HyenaForCausalLM(HyenaPreTrainedModel):
    """With logits of the next token."""

    _tied_weights_keys = {"lm_head.weight": "hyena.code.weight"}  # noqa: RUF012 -- transformers' own form

    def __init__(self, config: HyenaConfig) -> None:
        super().__init__(config)
        self.hyena = HyenaModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(self, input_ids: Tensor, **inputs: Any) -> CausalLMOutput:  # noqa: ANN401 -- the backbone's
        """[B, L] to logits [B, L, V]."""
        return CausalLMOutput(logits=self.lm_head(self.hyena(input_ids, **inputs)[0]))


BACKBONE, TOKEN = HyenaModel, HyenaForCausalLM


def architecture(config: Any, size: Any, common: dict[str, Any]) -> HyenaConfig:  # noqa: ANN401
    """The configuration of a preset.

    Args:
        config: `HyenaModelConfig`; this file must not need it.
        size: Numbers of its size, overrides included.
        common: What every kind has: `vocab_size`, `true_vocab_size`, `pad_token_id`.
    """
    return HyenaConfig(
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        intermediate_size=size.intermediate,
        max_position_embeddings=size.max_positions,
        order=config.order,
        filter_width=config.filter_width,
        taps=config.taps,
        dropout=config.dropout or 0.0,
        tie_word_embeddings=config.tied,
        **common,
    )
