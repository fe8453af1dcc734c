"""From a batch to one answer a span, the same way for every kind.

S spans, T tokens, D width, C outputs.
"""
# transformers leaves some methods untyped
# mypy: allow-untyped-calls

from collections.abc import Sequence
from copy import deepcopy
from itertools import pairwise
from typing import Any, cast

from torch import Tensor
from transformers import PreTrainedModel

from ehr_models.data.batch import Batch
from ehr_models.heads import pooling as beside
from ehr_models.heads.config import PooledConfig, Problem
from ehr_models.heads.losses import PROBLEM_TYPES
from ehr_models.heads.modeling import PooledForPreTraining, PooledForSequenceClassification
from ehr_models.heads.native import build_native, is_native, native_logits
from ehr_models.heads.token import attention_of, hidden_states
from ehr_models.kinds import kind_of
from ehr_tracking.config import ConfigError
from ehr_tracking.errors import UserError


def pool(
    hidden: Tensor, cu_seqlens: Tensor, how: str, *, input_ids: Tensor | None = None
) -> Tensor:
    """One vector a span, [T, D] to [S, D], by a pooling without parameters.

    Args:
        hidden: Packed states.
        cu_seqlens: [S + 1] where each span begins and the last ends.
        how: last, mean, max, sum or cls.
        input_ids: [T], needed for cls.

    Raises:
        UserError: For cls where a span does not begin with [CLS].
    """
    try:
        return beside.pool(hidden, cu_seqlens, how, input_ids)
    except ValueError as e:
        raise UserError(str(e)) from None


def classify(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Outputs [S, C] of a model with a pooled head.

    Raises:
        UserError: If it pools by cls and a span does not begin with [CLS], or the batch lacks the
            measurements that it reads.
    """
    return class_logits(model, hidden_states(model, batch), batch)


def class_logits(model: PreTrainedModel, states: Tensor, batch: Batch) -> Tensor:
    """The same from the states that are there already.

    Args:
        model: From `build_classifier` or `with_both`.
        states: [T, D] its `hidden_states` of the batch.
        batch: The batch, with `subject["measurements"]` [S, M] where the head reads such.

    Raises:
        UserError: If it pools by cls and a span does not begin with [CLS], or the batch lacks the
            measurements that it reads.
    """
    if is_native(model):
        return native_logits(model, states, batch)
    head = cast("PooledForSequenceClassification", model)
    measurements = batch.subject.get("measurements")
    try:
        return head.classify(states, batch.cu_seqlens, batch.input_ids, measurements)
    except ValueError as e:
        raise UserError(str(e)) from None


def build_classifier(
    backbone: PreTrainedModel,
    n_outputs: int,
    config: PooledConfig,
    *,
    problem: Problem,
    survival_edges: Sequence[float] | None = None,
) -> PreTrainedModel:
    """A model with the weights of a pretrained one and a new pooled head; any other head is dropped.

    Args:
        backbone: A model of the zoo; its weights are copied.
        n_outputs: Outputs of the head: 1 if binary, else a number of classes, labels, numbers or
            intervals of time.
        config: Of the head.
        problem: What its outputs mean.
        survival_edges: Of survival: `n_outputs` + 1 ascending days, from 0.

    Raises:
        ConfigError: If the number of outputs does not go with the problem.
    """
    _refuse(n_outputs, problem, survival_edges)
    if config.shape == "native":
        return build_native(backbone, n_outputs, problem, attention_of(kind_of(backbone.config)))
    found: Any = deepcopy(backbone.config)
    found.num_labels = n_outputs
    found.problem_type = PROBLEM_TYPES[problem]
    found.survival_edges = None if survival_edges is None else [float(e) for e in survival_edges]
    found.pooling = config.pooling
    for name in ("shape", "hidden", "layers", "dropout", "measurements"):
        setattr(found, f"classifier_{name}", getattr(config, name))
    model: PreTrainedModel = PooledForSequenceClassification._from_config(
        found, attn_implementation=attention_of(kind_of(backbone.config))
    )
    state = backbone.base_model.state_dict()
    model.base_model.load_state_dict(
        {name: value for name, value in state.items() if not name.startswith("pooler.")}
    )
    model.train(backbone.training)
    return model


def with_both(token: PreTrainedModel, classifier: PreTrainedModel) -> PreTrainedModel:
    """One model with the head of either.

    Args:
        token: With a head over tokens.
        classifier: From `build_classifier` of it: the states are its.
    """
    model: PreTrainedModel = PooledForPreTraining._from_config(
        deepcopy(classifier.config), attn_implementation=attention_of(kind_of(token.config))
    )
    model.load_state_dict({**token.state_dict(), **classifier.state_dict()})
    model.train(token.training)
    return model


def _refuse(n_outputs: int, problem: Problem, edges: Sequence[float] | None) -> None:
    """Raise where the outputs are not what the problem needs."""
    if problem == "survival":
        rise = edges is not None and all(a < b for a, b in pairwise(edges))
        if edges is None or not rise or edges[0] != 0 or len(edges) != n_outputs + 1:
            raise ConfigError(
                f"a survival head of {n_outputs} outputs needs {n_outputs + 1} ascending edges in "
                f"days, from 0, not {edges}"
            )
        return
    if edges is not None:
        raise ConfigError(f"survival_edges are of survival heads, not of {problem}")
    least = 2 if problem == "multiclass" else 1
    if n_outputs < least or (problem == "binary" and n_outputs > 1):
        wanted = "1 output" if problem == "binary" else f"at least {least}"
        raise ConfigError(f"a {problem} head has {wanted}, not {n_outputs}")
