"""GPT-2 with experts: the torch half, which is copied beside checkpoints as their remote code.

It needs torch, transformers and `layers/experts.py` only.

B batch, L length, D width, V vocabulary, E experts. A packed batch is B = 1, L = T.
"""
# transformers leaves some methods untyped
# mypy: allow-untyped-calls

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    Cache,
    DynamicCache,
    GenerationMixin,
    GPT2Config,
    PreTrainedModel,
    initialization,
)
from transformers.activations import ACT2FN
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention
from transformers.utils.generic import ModelOutput

from ehr_models.layers.experts import Experts, Router, Routing, tell

WIDE = 256
"""Above this width the projections back to the stream begin smaller than GPT-2's, as 1 / width: else a
new `medium` would let its states grow fourteenfold on the way up."""


class Gpt2MoeConfig(GPT2Config):
    """That of GPT-2, and where its experts are."""

    model_type = "gpt2_moe"

    true_vocab_size: int | None = None
    """How many rows are codes, where the rest only pads."""
    experts: int = 8
    """In each layer that has such; 1 is a plain MLP in all."""
    experts_per_token: int = 2
    every: int = 2
    shared: bool = False
    balance: float = 0.01
    """Weight of the load-balancing loss in that of `forward`."""
    z: float = 0.001
    bias_rate: float = 0.0
    activation_function: str = "gelu_pytorch_tanh"
    bos_token_id: int | None = 5
    eos_token_id: int | list[int] | None = 6
    pad_token_id: int | None = 0

    @property
    def expert_layers(self) -> list[int]:
        """Those with experts: the last of each `every`, from 0."""
        if self.experts == 1:
            return []
        return list(range(self.every - 1, self.n_layer, self.every))


@dataclass
class Gpt2MoeOutput(ModelOutput):
    """What the decoder answers."""

    last_hidden_state: Tensor | None = None
    """[B, L, D]"""
    past_key_values: Cache | None = None
    balance: Tensor | None = None
    """Load-balancing loss, over all layers with experts and all real tokens."""
    z: Tensor | None = None
    """Router's z-loss, over the same."""
    expert_shares: Tensor | None = None
    """[layers with experts, E] of the tokens' choices."""


@dataclass
class Gpt2MoeForCausalLMOutput(ModelOutput):
    """What the decoder answers, with logits of the next token."""

    loss: Tensor | None = None
    """Mean cross-entropy plus the weighted losses of the routers."""
    logits: Tensor | None = None
    """[B, L, V]"""
    past_key_values: Cache | None = None
    balance: Tensor | None = None
    z: Tensor | None = None
    expert_shares: Tensor | None = None


class Back(nn.Linear):
    """To the stream of states, from attention or an MLP; without bias."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__(width, out, bias=False)


class Attention(GPT2Attention):
    """That of GPT-2 without biases."""

    def __init__(self, config: Gpt2MoeConfig, layer: int) -> None:
        super().__init__(config, layer_idx=layer)
        self.add_module("c_attn", nn.Linear(config.n_embd, 3 * config.n_embd, bias=False))
        self.add_module("c_proj", Back(config.n_embd, config.n_embd))


class MLP(nn.Module):
    """That of GPT-2 without biases."""

    def __init__(self, config: Gpt2MoeConfig) -> None:
        super().__init__()
        inner = config.n_inner or 4 * config.n_embd
        self.c_fc = nn.Linear(config.n_embd, inner, bias=False)
        self.c_proj = Back(inner, config.n_embd)
        self.act = ACT2FN[config.activation_function]

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] to [..., D]."""
        out: Tensor = self.c_proj(self.act(self.c_fc(x)))
        return out


class Mixture(nn.Module):
    """Experts in place of an MLP."""

    def __init__(self, config: Gpt2MoeConfig) -> None:
        super().__init__()
        self.router = Router(config)
        self.experts = Experts(config)
        self.shared = MLP(config) if config.shared else None

    def forward(self, x: Tensor) -> tuple[Tensor, Routing]:
        """[B, L, D] to [B, L, D], and where its tokens [B L] went."""
        rows = x.flatten(0, -2)
        routing = self.router(rows)
        out = self.experts(rows, routing).view(x.shape)
        return (out if self.shared is None else out + self.shared(x)), routing


class Block(GradientCheckpointingLayer):
    """x + attention, then + MLP or experts; LayerNorm before each."""

    def __init__(self, config: Gpt2MoeConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon, bias=False)
        self.attn = Attention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon, bias=False)
        self.mlp = Mixture(config) if layer in config.expert_layers else MLP(config)
        self.dropout = nn.Dropout(config.resid_pdrop)

    def forward(
        self,
        x: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,  # noqa: ANN401 -- e.g. the spans of a packed batch
    ) -> tuple[Tensor, Routing | None]:
        """[B, L, D] to [B, L, D], and where tokens went if there are experts."""
        attended, _ = self.attn(self.ln_1(x), past_key_values, attention_mask, **kwargs)
        x = x + attended
        out, routing = self.mlp(self.ln_2(x)), None
        if isinstance(self.mlp, Mixture):
            out, routing = out
        return x + self.dropout(out), routing


class Gpt2MoePreTrainedModel(PreTrainedModel):
    """Initialisation, loading and saving."""

    config: Gpt2MoeConfig
    config_class = Gpt2MoeConfig
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]  # noqa: RUF012 -- transformers' own form
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012 -- transformers' own form
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        config = self.config
        std = config.initializer_range
        back = std / math.sqrt(2 * config.n_layer) * min(1.0, WIDE / config.n_embd)
        if isinstance(module, Back):
            initialization.normal_(module.weight, 0.0, back)
        elif isinstance(module, Experts):
            initialization.normal_(module.up, 0.0, std)
            initialization.normal_(module.down, 0.0, back)
        elif isinstance(module, Router):
            initialization.normal_(module.weight, 0.0, std)
            if module.correction is not None:
                initialization.zeros_(module.correction)


class Gpt2MoeModel(Gpt2MoePreTrainedModel):
    """The decoder."""

    _input_embed_layer = "wte"

    def __init__(self, config: Gpt2MoeConfig) -> None:
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = nn.Dropout(config.embd_pdrop)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon, bias=False)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,  # noqa: ANN401 -- e.g. the spans of a packed batch
    ) -> Gpt2MoeOutput:
        """Decode a padded batch [B, L], or a packed one [1, T] where attention knows its spans.

        Args:
            input_ids: Codes; with a cache those behind what it holds.
            attention_mask: 0 at padding, of what the cache holds as well.
            position_ids: Of each token in its sequence; counted from the cache where not given.
            past_key_values: Cache of keys and values, grown in place.
            inputs_embeds: [B, L, D] in place of `input_ids`.
            use_cache: Whether to give a cache; made where there is none. The config's by default.
            **kwargs: Handed to the attention function.

        Raises:
            ValueError: Unless exactly one of `input_ids` and `inputs_embeds` is given.
        """
        kwargs.pop("return_dict", None)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass exactly one of input_ids and inputs_embeds")
        x = self.wte(input_ids) if inputs_embeds is None else inputs_embeds
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
        x = self.drop(x + self.wpe(position_ids))
        routings = []
        for block in self.h:
            x, routing = block(
                x, mask, past_key_values=past_key_values, position_ids=position_ids, **kwargs
            )
            if routing is not None:
                routings.append(routing)
        told = tell(routings, _real(attention_mask, x)) if routings else None
        return Gpt2MoeOutput(
            last_hidden_state=self.ln_f(x),
            past_key_values=past_key_values if use_cache else None,
            balance=None if told is None else told.balance,
            z=None if told is None else told.z,
            expert_shares=None if told is None else told.shares,
        )

    def rebalance(self, shares: Tensor) -> None:
        """Move the choice of experts towards even shares, where `bias_rate` asks for it.

        Called after a step of training; nothing else changes a model between two forwards.

        Args:
            shares: [layers with experts, E] over all that the step learned from.
        """
        for layer, row in zip(self.config.expert_layers, shares, strict=True):
            router: Any = self.h[layer].get_submodule("mlp.router")
            router.rebalance(row, self.config.bias_rate)


def _real(attention_mask: Tensor | None, x: Tensor) -> Tensor | None:
    """[B L] which tokens are no padding; a packed batch has none."""
    if attention_mask is None or attention_mask.ndim != 2:
        return None
    return attention_mask[:, -x.shape[1] :].bool().flatten()


class Gpt2MoeForCausalLM(Gpt2MoePreTrainedModel, GenerationMixin):
    """The decoder with a tied head over codes."""

    _tied_weights_keys = {"lm_head.weight": "transformer.wte.weight"}  # noqa: RUF012 -- transformers' own form

    def __init__(self, config: Gpt2MoeConfig) -> None:
        super().__init__(config)
        self.transformer = Gpt2MoeModel(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **inputs: Any,  # noqa: ANN401 -- those of `Gpt2MoeModel`
    ) -> Gpt2MoeForCausalLMOutput:
        """Logits [B, L, V]; with labels the loss.

        Args:
            input_ids: As in `Gpt2MoeModel`.
            labels: [B, L] codes, shifted here; -100 where there is none.
            logits_to_keep: Of how many of the last tokens, or of which; 0 for all.
            **inputs: The others of `Gpt2MoeModel`.
        """
        out = self.transformer(input_ids=input_ids, **inputs)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(out.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            true = logits[:, :-1, : self.config.true_vocab_size].float()
            loss = F.cross_entropy(true.flatten(0, 1), labels[:, 1:].flatten())
            if out.balance is not None:
                loss = loss + self.config.balance * out.balance + self.config.z * out.z
        beside = {name: out[name] for name in out if name != "last_hidden_state"}
        return Gpt2MoeForCausalLMOutput(loss=loss, logits=logits, **beside)


BACKBONE, TOKEN = Gpt2MoeModel, Gpt2MoeForCausalLM


def architecture(config: Any, size: Any, common: dict[str, Any]) -> Gpt2MoeConfig:  # noqa: ANN401
    """The configuration of a preset.

    Args:
        config: `Gpt2MoeModelConfig`; this file must not need it.
        size: Numbers of its size, overrides included.
        common: What every kind has: `vocab_size`, `true_vocab_size`, `pad_token_id`.
    """
    return Gpt2MoeConfig(
        n_embd=size.hidden,
        n_layer=size.layers,
        n_head=size.heads,
        n_inner=size.intermediate,
        n_positions=size.max_positions,
        resid_pdrop=config.dropout or 0.0,
        embd_pdrop=config.dropout or 0.0,
        attn_pdrop=config.attention_dropout or 0.0,
        experts=config.expert_count,
        experts_per_token=config.chosen,
        every=config.every,
        shared=config.shared,
        balance=config.balance,
        z=config.z,
        bias_rate=config.bias_rate,
        **common,
    )
