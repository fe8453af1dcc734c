"""A mixer: the torch half, which is copied beside checkpoints as their remote code.

B batch, L length, D width, V vocabulary. A packed batch is B = 1, L = T.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, initialization
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput


class MixerConfig(PreTrainedConfig):
    """Sizes of a mixer."""

    model_type = "mixer"

    vocab_size: int = 1024
    true_vocab_size: int | None = None
    hidden_size: int = 128
    num_hidden_layers: int = 4
    intermediate_size: int = 256
    max_position_embeddings: int = 2048
    taps: int = 4
    initializer_range: float = 0.02


class MixerLayer(GradientCheckpointingLayer):
    """x + down(gelu(up(sum of the last tokens, weighted)))."""

    def __init__(self, config: MixerConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.taps = nn.Parameter(torch.empty(config.taps, width))
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, width)

    def forward(self, x: Tensor, position_ids: Tensor) -> Tensor:
        """[B, L, D] to [B, L, D]; nothing is taken from before position 0."""
        normed = self.norm(x)
        mixed = normed * self.taps[0]
        for back in range(1, min(len(self.taps), x.shape[1])):
            before = F.pad(normed, (0, 0, back, 0))[:, :-back]
            mixed = mixed + before * self.taps[back] * (position_ids >= back)[..., None]
        out: Tensor = x + self.down(F.gelu(self.up(mixed)))
        return out


class MixerPreTrainedModel(PreTrainedModel):
    """Initialisation, loading and saving."""

    config_class = MixerConfig
    base_model_prefix = "mixer"
    supports_gradient_checkpointing = True
    _supports_attention_backend = True
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MixerLayer):
            initialization.normal_(module.taps, 0.0, 0.5)


class MixerModel(MixerPreTrainedModel):
    """From codes to states."""

    _input_embed_layer = "code"

    def __init__(self, config: MixerConfig) -> None:
        super().__init__(config)
        self.code = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(MixerLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self, input_ids: Tensor, position_ids: Tensor | None = None, **_: Any
    ) -> BaseModelOutput:
        """[B, L] to states [B, L, D]; sequences begin where `position_ids` are 0."""
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        x = self.code(input_ids)
        for layer in self.layers:
            x = layer(x, position_ids)
        return BaseModelOutput(last_hidden_state=self.norm(x))


class MixerForCausalLM(MixerPreTrainedModel):
    """With logits of the next token."""

    def __init__(self, config: MixerConfig) -> None:
        super().__init__(config)
        self.mixer = MixerModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def forward(self, input_ids: Tensor, **inputs: Any) -> CausalLMOutput:
        """[B, L] to logits [B, L, V]."""
        return CausalLMOutput(logits=self.lm_head(self.mixer(input_ids, **inputs)[0]))


BACKBONE, TOKEN = MixerModel, MixerForCausalLM


def architecture(config: Any, size: Any, common: dict[str, Any]) -> MixerConfig:
    """The configuration of a preset."""
    return MixerConfig(
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        intermediate_size=size.intermediate,
        max_position_embeddings=size.max_positions,
        taps=config.taps or 4,
        **common,
    )
