"""Classification over pooled hidden states, for any architecture.

This file is copied beside checkpoints as their remote code: it needs torch and transformers only.

S spans (subjects) of T tokens in all, D width, C classes.
"""
# transformers leaves some methods untyped
# mypy: allow-untyped-calls

import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

POOLINGS = ("last", "mean", "max", "cls")
CLS = 2
"""Row of [CLS] in every vocabulary."""


def pool(hidden: Tensor, cu_seqlens: Tensor, how: str, input_ids: Tensor | None = None) -> Tensor:
    """One vector a span.

    Args:
        hidden: [T, D] packed states.
        cu_seqlens: [S + 1] where each span begins and the last ends; no span is empty.
        how: `last` token, `mean` or `max` over tokens, or the leading [CLS].
        input_ids: [T], needed for `cls`.

    Returns:
        [S, D] in the dtype of `hidden`; means are taken in float32.

    Raises:
        ValueError: For `cls` where a span does not begin with [CLS], or an unknown `how`.

    Examples:
        >>> states = torch.tensor([[1.0], [3.0], [8.0]])
        >>> pool(states, torch.tensor([0, 2, 3]), "mean").tolist()
        [[2.0], [8.0]]
        >>> pool(states, torch.tensor([0, 2, 3]), "cls", torch.tensor([5, 7, 5]))
        Traceback (most recent call last):
            ...
        ValueError: pooling cls needs sequences that begin with [CLS]; use last, mean or max
    """
    cu_seqlens = cu_seqlens.to(hidden.device, torch.int64)
    if how == "last":
        return hidden[cu_seqlens[1:] - 1]
    if how == "cls":
        first = cu_seqlens[:-1]
        if input_ids is None or not bool((input_ids[first] == CLS).all()):
            raise ValueError(
                "pooling cls needs sequences that begin with [CLS]; use last, mean or max"
            )
        return hidden[first]
    if how not in POOLINGS:
        raise ValueError(f"unknown pooling {how!r}; one of {', '.join(POOLINGS)}")
    pooled: Tensor = torch.segment_reduce(hidden.float(), how, offsets=cu_seqlens, axis=0)
    return pooled.to(hidden.dtype)


class PooledForSequenceClassification(PreTrainedModel):
    """The backbone of any kind -> pool -> dropout -> linear.

    Its configuration is that of the backbone with `pooling`, `classifier_dropout` and `num_labels`.
    The backbone goes by the name it has in other models of its kind, so that weights pass between
    them.
    """

    base_model: Any
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: Any) -> None:  # noqa: ANN401 -- the backbone's
        super().__init__(config)
        backbone = _backbone(config)
        self.base_model_prefix = type(backbone).base_model_prefix
        self._no_split_modules = backbone._no_split_modules
        setattr(self, self.base_model_prefix, backbone)
        self.dropout = nn.Dropout(getattr(config, "classifier_dropout", None) or 0.0)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Those of the backbone."""
        embeddings: nn.Module = self.base_model.get_input_embeddings()
        return embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace those of the backbone."""
        self.base_model.set_input_embeddings(value)

    def classify(self, hidden: Tensor, cu_seqlens: Tensor, input_ids: Tensor) -> Tensor:
        """Logits [S, C] from packed states [T, D] and their token ids [T]."""
        pooled = pool(hidden, cu_seqlens, getattr(self.config, "pooling", "mean"), input_ids)
        logits: Tensor = self.classifier(self.dropout(pooled))
        return logits

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **inputs: Any,  # noqa: ANN401 -- the backbone's own
    ) -> SequenceClassifierOutput:
        """Classify a padded batch.

        Args:
            input_ids: [S, L].
            attention_mask: [S, L], 0 at padding, which may be on either side.
            labels: [S] class indices; [S] or [S, C] of 0/1 for binary cross-entropy when the
                labels are floats.
            **inputs: What the backbone takes beside these.
        """
        states = self.base_model(input_ids=input_ids, attention_mask=attention_mask, **inputs)
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        cu_seqlens = F.pad(real.bool().sum(1).cumsum(0), (1, 0))
        logits = self.classify(
            states.last_hidden_state[real.bool()], cu_seqlens, input_ids[real.bool()]
        )
        return SequenceClassifierOutput(loss=_loss(logits, labels), logits=logits)


def _backbone(config: Any) -> PreTrainedModel:  # noqa: ANN401 -- any architecture's
    """Of the class beside the configuration's own, else of the one that transformers has for it."""
    beside = getattr(sys.modules[type(config).__module__], "BACKBONE", None)
    model: Any = AutoModel.from_config(config) if beside is None else beside(config)
    if hasattr(model, "pooler"):
        model.pooler = None  # weights that no one would train
    backbone: PreTrainedModel = model
    return backbone


def _loss(logits: Tensor, labels: Tensor | None) -> Tensor | None:
    if labels is None:
        return None
    if labels.is_floating_point():
        return F.binary_cross_entropy_with_logits(logits, labels.view_as(logits))
    return F.cross_entropy(logits, labels)
