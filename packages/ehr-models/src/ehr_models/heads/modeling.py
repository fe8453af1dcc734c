"""Models with a head over pooled states, for any architecture.

This file is copied beside checkpoints as their remote code, with `pooling.py` and `losses.py`: they
need torch and transformers only.

S spans (subjects) of T tokens in all, L of the longest, D width, C outputs, M measurements,
V vocabulary.
"""
# transformers leaves some methods untyped
# mypy: allow-untyped-calls

import sys
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedModel,
    initialization,
)
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.generic import ModelOutput

from ehr_models.heads.losses import losses
from ehr_models.heads.pooling import AttentionPool, Pool, RecurrentPool

HEAD: dict[str, Any] = {
    "pooling": "mean",
    "classifier_shape": "linear",
    "classifier_hidden": None,
    "classifier_layers": 1,
    "classifier_dropout": 0.0,
    "classifier_measurements": 0,
}
"""What a configuration says of the head, and what is meant where it says nothing."""


class HiddenLinear(nn.Linear):
    """Below a ReLU: begins at a size that keeps what passes through it, however narrow it is."""


class PooledPreTrainedModel(PreTrainedModel):
    """A backbone -> one vector a subject, its measurements beside it -> C outputs.

    Its configuration is that of the backbone with `HEAD`, `num_labels`, `problem_type` and of a
    survival model `survival_edges`. The backbone goes by the name it has in other models of its kind,
    so that weights pass between them.
    """

    base_model: Any
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: Any) -> None:  # noqa: ANN401 -- the backbone's
        super().__init__(config)
        self._add_backbone()
        self.pooling = _pooling(config)
        self.dropout = nn.Dropout(_said(config, "classifier_dropout"))
        self.classifier = _classifier(config)
        self.post_init()

    def _add_backbone(self) -> None:
        backbone = _like(self.config, "BACKBONE", AutoModel)
        if hasattr(backbone, "pooler"):
            backbone.pooler = None  # weights that no one would train
        self._adopt(backbone, {backbone.base_model_prefix: backbone})

    def _adopt(self, model: PreTrainedModel, children: dict[str, nn.Module]) -> None:
        self.base_model_prefix = model.base_model_prefix
        self._no_split_modules = model._no_split_modules
        for name, child in children.items():
            setattr(self, name, child)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, HiddenLinear):
            initialization.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.GRU):  # as transformers begins an LSTM
            for name, parameter in module.named_parameters():
                if "bias" in name:
                    initialization.zeros_(parameter)
                else:
                    initialization.xavier_uniform_(parameter)

    def get_input_embeddings(self) -> nn.Module:
        """Those of the backbone."""
        embeddings: nn.Module = self.base_model.get_input_embeddings()
        return embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace those of the backbone."""
        self.base_model.set_input_embeddings(value)

    def classify(
        self,
        hidden: Tensor,
        cu_seqlens: Tensor,
        input_ids: Tensor,
        measurements: Tensor | None = None,
    ) -> Tensor:
        """Outputs [S, C] from packed states [T, D], their token ids [T] and measurements [S, M].

        Raises:
            ValueError: If it pools by cls and a span does not begin with [CLS], or the measurements
                are not those that it was made for.
        """
        pooled = self.pooling(hidden, cu_seqlens, input_ids)
        wanted = _said(self.config, "classifier_measurements")
        if wanted:
            found = 0 if measurements is None else measurements.shape[-1]
            if measurements is None or found != wanted:
                raise ValueError(
                    f"the head reads {wanted} measurements of each subject, but there are {found}"
                )
            pooled = torch.cat([pooled, measurements.to(pooled.dtype)], -1)
        outputs: Tensor = self.classifier(self.dropout(pooled))
        return outputs

    def _classify_padded(
        self, states: Tensor, ids: Tensor, mask: Tensor | None, measurements: Tensor | None
    ) -> Tensor:
        real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        cu_seqlens = F.pad(real.sum(1).cumsum(0), (1, 0))
        return self.classify(states[real], cu_seqlens, ids[real], measurements)


class PooledForSequenceClassification(PooledPreTrainedModel):
    """A backbone of any kind with a pooled head."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        measurements: Tensor | None = None,
        **inputs: Any,  # noqa: ANN401 -- the backbone's own
    ) -> SequenceClassifierOutput:
        """Classify a padded batch.

        Args:
            input_ids: [S, L].
            attention_mask: [S, L], 0 at padding, which may be on either side.
            labels: As `losses` takes them.
            measurements: [S, M], where the head reads such.
            **inputs: What the backbone takes beside these.
        """
        states = self.base_model(input_ids=input_ids, attention_mask=attention_mask, **inputs)
        logits = self._classify_padded(states[0], input_ids, attention_mask, measurements)
        loss = None if labels is None else losses(self.config, logits, labels).mean()
        return SequenceClassifierOutput(loss=loss, logits=logits)


@dataclass
class PooledForPreTrainingOutput(ModelOutput):
    """What `PooledForPreTraining` answers."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    """[S, L, V] of tokens."""
    pooled_logits: Tensor | None = None
    """[S, C] of subjects."""


class PooledForPreTraining(PooledPreTrainedModel):
    """A backbone of any kind with its own head over tokens, and a pooled one on the same states."""

    def _add_backbone(self) -> None:
        masked = type(self.config) in MODEL_FOR_MASKED_LM_MAPPING
        token = _like(
            self.config, "TOKEN", AutoModelForMaskedLM if masked else AutoModelForCausalLM
        )
        self._tied_weights_keys = token._tied_weights_keys
        children = dict(token.named_children())
        self._adopt(token, children)
        forecasts = {f"{name}_head" for name in getattr(token, "forecasts", ())}
        beside = {token.base_model_prefix, *forecasts}
        self._token_head = [
            name
            for name, child in children.items()
            if name not in beside and any(True for _ in child.parameters())
        ]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        pooled_labels: Tensor | None = None,
        measurements: Tensor | None = None,
        **inputs: Any,  # noqa: ANN401 -- the backbone's own
    ) -> PooledForPreTrainingOutput:
        """Answer of tokens and of subjects.

        Args:
            input_ids: [S, L].
            attention_mask: [S, L], 0 at padding, which may be on either side.
            labels: [S, L] the token that each state shall tell, -100 where it is not asked; nothing
                is shifted, so the next token of a causal model stands one place before itself.
            pooled_labels: Of subjects, as `losses` takes them.
            measurements: [S, M], where the head reads such.
            **inputs: What the backbone takes beside these.

        Returns:
            With `loss` the sum of the mean losses of which there are labels.
        """
        states = self.base_model(input_ids=input_ids, attention_mask=attention_mask, **inputs)[0]
        logits = states
        for name in self._token_head:
            logits = self.get_submodule(name)(logits)
        pooled = self._classify_padded(states, input_ids, attention_mask, measurements)
        parts = []
        if labels is not None:
            true = logits[..., : getattr(self.config, "true_vocab_size", None)].float()
            parts.append(F.cross_entropy(true.flatten(0, -2), labels.flatten()))
        if pooled_labels is not None:
            parts.append(losses(self.config, pooled, pooled_labels).mean())
        loss = torch.stack(parts).sum() if parts else None
        return PooledForPreTrainingOutput(loss=loss, logits=logits, pooled_logits=pooled)


def _like(config: Any, name: str, auto: Any) -> Any:  # noqa: ANN401 -- any architecture's
    """A model of the class beside the configuration's own, else of that which transformers has for it."""
    beside = getattr(sys.modules[type(config).__module__], name, None)
    if beside is not None:
        return beside(config)
    able = getattr(auto._model_mapping[type(config)], "_supports_sdpa", True)
    # an architecture without attention, which transformers takes for one that cannot have this one
    return auto.from_config(config, **({} if able else {"attn_implementation": "eager"}))


def _said(config: Any, name: str) -> Any:  # noqa: ANN401 -- any architecture's
    given = getattr(config, name, None)
    return HEAD[name] if given is None else given


def _pooling(config: Any) -> nn.Module:  # noqa: ANN401 -- any architecture's
    how, shape, width = (
        _said(config, "pooling"),
        _said(config, "classifier_shape"),
        config.hidden_size,
    )
    if shape in ("gru", "lstm"):
        hidden = _said(config, "classifier_hidden") or width
        layers, dropout = _said(config, "classifier_layers"), _said(config, "classifier_dropout")
        return RecurrentPool(shape, width, hidden, layers=layers, dropout=dropout)
    if how == "bigru":
        return RecurrentPool("gru", width, width // 2, both_ways=True)
    return AttentionPool(width) if how == "attention" else Pool(how)


def _classifier(config: Any) -> nn.Module:  # noqa: ANN401 -- any architecture's
    """What follows the first dropout."""
    width = config.hidden_size
    hidden, shape = _said(config, "classifier_hidden") or width, _said(config, "classifier_shape")
    inner: list[nn.Module] = []
    if shape in ("gru", "lstm"):
        width = hidden
    width += _said(config, "classifier_measurements")
    if shape == "ffn":
        for number in range(_said(config, "classifier_layers")):
            if number:
                inner.append(nn.Dropout(_said(config, "classifier_dropout")))
            inner += [HiddenLinear(width, hidden), nn.ReLU()]
            width = hidden
    last = nn.Linear(width, config.num_labels)
    return nn.Sequential(*inner, last) if inner else last
