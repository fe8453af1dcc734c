"""The head that transformers itself has for classifying with an architecture, on packed states.

Its checkpoints load with `AutoModelForSequenceClassification` where no package of ours is. A yes or no has two
outputs there, the second of them for yes.

S spans (subjects) of T tokens in all, L of the longest, D width, C outputs.
"""
# transformers leaves some methods untyped
# mypy: allow-untyped-calls

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

from ehr_models.data.batch import Batch
from ehr_models.heads.config import Problem
from ehr_models.heads.modeling import PooledPreTrainedModel
from ehr_tracking.config import ConfigError

_PROBLEM_TYPES = {
    "binary": "single_label_classification",
    "multiclass": "single_label_classification",
    "multilabel": "multi_label_classification",
    "regression": "regression",
}
_LAST = ("classifier.", "score.")
"""Where parameters of the last layer are: they are drawn anew for a new task."""


def is_native(model: PreTrainedModel) -> bool:
    """Whether a model with a pooled head has that of transformers."""
    return not isinstance(model, PooledPreTrainedModel)


def native_class(config: PreTrainedConfig) -> type[PreTrainedModel] | None:
    """The class that transformers has for an architecture; None where it has none."""
    mapping: Any = AutoModelForSequenceClassification._model_mapping
    found: type[PreTrainedModel] | None = mapping.get(type(config), None)
    return found


def native_config(config: PreTrainedConfig, n_outputs: int, problem: Problem) -> PreTrainedConfig:
    """The configuration of an architecture with its head for a problem.

    Args:
        config: Of the architecture.
        n_outputs: As `build_classifier` takes them.
        problem: What they mean.

    Raises:
        ConfigError: For times to an event.
    """
    if problem not in _PROBLEM_TYPES:
        raise ConfigError(
            f"shape = native has no {problem} head: take shape = linear, ffn, gru or lstm"
        )
    found: Any = deepcopy(config)
    found.num_labels = 2 if problem == "binary" else n_outputs
    found.problem_type = _PROBLEM_TYPES[problem]
    if problem == "binary":
        found.id2label, found.label2id = {0: "no", 1: "yes"}, {"no": 0, "yes": 1}
    return found  # type: ignore[no-any-return]


def build_native(
    backbone: PreTrainedModel, n_outputs: int, problem: Problem, attention: str | None
) -> PreTrainedModel:
    """A model with the weights of a pretrained one below the head of transformers, whose last layer is new.

    Args:
        backbone: A model of the zoo, of an architecture of transformers; its weights are copied.
        n_outputs: As `build_classifier` takes them.
        problem: What they mean.
        attention: Implementation.

    Raises:
        ConfigError: If transformers has no such head for the architecture or the problem.
    """
    config = native_config(backbone.config, n_outputs, problem)
    cls = native_class(config)
    if cls is None:
        raise ConfigError(
            f"transformers has no classification head for {config.model_type}: take shape = linear"
        )
    model: PreTrainedModel = cls._from_config(config, attn_implementation=attention)
    own = model.state_dict()
    kept = {
        name: value
        for name, value in backbone.state_dict().items()
        if name in own and own[name].shape == value.shape and not name.startswith(_LAST)
    }
    model.load_state_dict(kept, strict=False)
    model.train(backbone.training)
    return model


def native_logits(model: PreTrainedModel, states: Tensor, batch: Batch) -> Tensor:
    """What the head makes of packed states, [T, D] to [S, C].

    It is the forward pass of transformers with `states` in place of what the body would make.
    """
    lengths = batch.cu_seqlens.diff().tolist()
    laid = pad_sequence(states.split(lengths), batch_first=True)
    pad = getattr(model.config, "pad_token_id", None)
    ids = pad_sequence(batch.input_ids.split(lengths), batch_first=True, padding_value=pad or 0)
    real = pad_sequence(torch.ones_like(batch.input_ids).split(lengths), batch_first=True)
    with _in_place_of_the_body(model, laid):
        outputs: Tensor = model(input_ids=ids, attention_mask=real).logits
    return outputs


@contextmanager
def _in_place_of_the_body(model: PreTrainedModel, states: Tensor) -> Iterator[None]:
    """Let the body of a model answer with given states [S, L, D]."""
    body: Any = model.base_model
    pooler = getattr(body, "pooler", None)

    def forward(*_: object, **__: object) -> BaseModelOutputWithPoolingAndCrossAttentions:
        pooled = None if pooler is None else pooler(states)
        return BaseModelOutputWithPoolingAndCrossAttentions(
            last_hidden_state=states, pooler_output=pooled
        )

    body.forward = forward
    try:
        yield
    finally:
        del body.forward
