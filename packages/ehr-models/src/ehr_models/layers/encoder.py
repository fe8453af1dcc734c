"""What the encoders of our own have in common: layers, and the head over tokens.

This file is copied beside checkpoints as their remote code: it needs torch, transformers and
`embeddings.py` only.

`config` is that of the kind: `hidden_size`, `embedding_size` (the width of the code table, where it is
not that of the model), `num_attention_heads`, `intermediate_size`, `mlp` (swiglu or gelu), `norm` (pre or
post), `bias`, `dropout`, `attention_dropout`, `layer_norm_eps`. With post, gelu and bias a layer is
that of BERT.

B batch, L length, D width, E width of the code table, H heads, V vocabulary.
"""
# transformers leaves some methods untyped
# mypy: allow-untyped-calls

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ehr_models.layers.embeddings import rotate


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,  # noqa: ANN401 -- transformers' own arguments
) -> tuple[Tensor, Tensor]:
    """The textbook form, for `attn_implementation="eager"`."""
    weights = query @ key.transpose(-1, -2) * kwargs["scaling"]
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = F.dropout(weights.softmax(-1), kwargs.get("dropout", 0.0), module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class NearProjection(nn.Linear):
    """To queries or keys that RoPE turns, so that attention begins at the nearest tokens.

    All of its biases begin at `locality`, b. Then the logit of a token d places away is, before anything
    is learned, b^2 times the sum of 2 cos(w d) over the frequencies w, over the root of the head's
    width: a bell about d = 0, the narrower the higher b and the frequencies.
    """

    @torch.no_grad()
    def reset(self, locality: float) -> None:
        """Initial biases."""
        initialization.constant_(self.bias, locality)


class SelfAttention(nn.Module):
    """Bidirectional multi-head attention."""

    is_causal = False

    def __init__(self, config: Any) -> None:  # noqa: ANN401 -- the kind's own
        super().__init__()
        self.config = config
        width, bias = config.hidden_size, config.bias
        self.head_dim = width // config.num_attention_heads
        if getattr(config, "locality", 0.0) > 0:
            self.q_proj: nn.Linear = NearProjection(width, width)
            self.k_proj: nn.Linear = NearProjection(width, width)
        else:
            self.q_proj = nn.Linear(width, width, bias=bias)
            self.k_proj = nn.Linear(width, width, bias=bias)
        self.v_proj = nn.Linear(width, width, bias=bias)
        self.o_proj = nn.Linear(width, width, bias=bias)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        rope: tuple[Tensor, Tensor] | None,
        **kwargs: Any,  # noqa: ANN401 -- e.g. the spans of a packed batch
    ) -> Tensor:
        """[B, L, D] to [B, L, D]."""
        shape = (*x.shape[:-1], -1, self.head_dim)
        projections = (self.q_proj, self.k_proj, self.v_proj)
        query, key, value = (p(x).view(shape).transpose(1, 2) for p in projections)
        if rope is not None:
            query, key = rotate(query, *rope), rotate(key, *rope)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention
        )
        out, _ = attend(
            self,
            query,
            key,
            value,
            mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
            scaling=self.head_dim**-0.5,
            **kwargs,
        )
        projected: Tensor = self.o_proj(out.reshape(x.shape))
        return projected


class MLP(nn.Module):
    """SwiGLU or GELU."""

    def __init__(self, config: Any) -> None:  # noqa: ANN401 -- the kind's own
        super().__init__()
        width, inner, bias = config.hidden_size, config.intermediate_size, config.bias
        self.gate = nn.Linear(width, inner, bias=bias) if config.mlp == "swiglu" else None
        self.up = nn.Linear(width, inner, bias=bias)
        self.down = nn.Linear(inner, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] to [B, L, D]."""
        inner = F.gelu(self.up(x)) if self.gate is None else F.silu(self.gate(x)) * self.up(x)
        out: Tensor = self.down(inner)
        return out


class EncoderLayer(GradientCheckpointingLayer):
    """Attention and MLP, each with its residual; LayerNorm before or after."""

    def __init__(self, config: Any) -> None:  # noqa: ANN401 -- the kind's own
        super().__init__()
        self.pre = config.norm == "pre"
        self.attention = SelfAttention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MLP(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        rope: tuple[Tensor, Tensor] | None,
        **kwargs: Any,  # noqa: ANN401 -- e.g. the spans of a packed batch
    ) -> Tensor:
        """[B, L, D] to [B, L, D]."""
        if self.pre:
            x = x + self.dropout(self.attention(self.attention_norm(x), mask, rope, **kwargs))
            x = x + self.dropout(self.mlp(self.mlp_norm(x)))
            return x
        x = self.attention_norm(x + self.dropout(self.attention(x, mask, rope, **kwargs)))
        out: Tensor = self.mlp_norm(x + self.dropout(self.mlp(x)))
        return out


def table_width(config: Any) -> int:  # noqa: ANN401 -- the kind's own
    """E: the width of the code table, which may be narrower than the model."""
    return int(getattr(config, "embedding_size", None) or config.hidden_size)


class TokenHead(nn.Module):
    """From states to logits over codes; the decoder has the width of the code table it is tied to."""

    def __init__(self, config: Any) -> None:  # noqa: ANN401 -- the kind's own
        super().__init__()
        width = table_width(config)
        self.transform = nn.Linear(config.hidden_size, width)
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(width, config.vocab_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., D] to [..., V]."""
        logits: Tensor = self.decoder(self.norm(F.gelu(self.transform(hidden))))
        return logits


def masked_loss(config: Any, logits: Tensor, labels: Tensor | None) -> Tensor | None:  # noqa: ANN401 -- the kind's own
    """Mean cross-entropy of logits [B, L, V] at labels [B, L], -100 where there is none.

    It runs over the true vocabulary: columns that only pad the embedding are no codes.
    """
    if labels is None:
        return None
    true = logits[..., : config.true_vocab_size or config.vocab_size]
    return F.cross_entropy(true.flatten(0, -2), labels.flatten())
