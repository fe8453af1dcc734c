"""From a batch to one answer a span, the same way for every kind.

S spans, T tokens, D width, C classes.
"""
# transformers leaves some methods untyped
# mypy: allow-untyped-calls

from copy import deepcopy
from typing import cast

from torch import Tensor
from transformers import PreTrainedModel

from ehr_models.data.batch import Batch
from ehr_models.heads import pooling as beside
from ehr_models.heads.token import hidden_states
from ehr_models.layers.attention import NAME
from ehr_tracking.config import ConfigError
from ehr_tracking.errors import UserError


def pool(
    hidden: Tensor, cu_seqlens: Tensor, how: str, *, input_ids: Tensor | None = None
) -> Tensor:
    """One vector a span, [T, D] to [S, D].

    Args:
        hidden: Packed states.
        cu_seqlens: [S + 1] where each span begins and the last ends.
        how: last, mean, max or cls.
        input_ids: [T], needed for cls.

    Raises:
        UserError: For cls where a span does not begin with [CLS].
    """
    try:
        return beside.pool(hidden, cu_seqlens, how, input_ids)
    except ValueError as e:
        raise UserError(str(e)) from None


def classify(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Class logits [S, C] of a model from `build_classifier`.

    Raises:
        UserError: If it pools by cls and a span does not begin with [CLS].
    """
    return class_logits(model, hidden_states(model, batch), batch)


def class_logits(model: PreTrainedModel, states: Tensor, batch: Batch) -> Tensor:
    """The same from the states that are there already.

    Args:
        model: From `build_classifier`.
        states: [T, D] its `hidden_states` of the batch.
        batch: The batch.

    Raises:
        UserError: If it pools by cls and a span does not begin with [CLS].
    """
    head = cast("beside.PooledForSequenceClassification", model)
    try:
        return head.classify(states, batch.cu_seqlens, batch.input_ids)
    except ValueError as e:
        raise UserError(str(e)) from None


def build_classifier(
    backbone: PreTrainedModel, n_labels: int, pooling: str, *, dropout: float = 0.0
) -> PreTrainedModel:
    """A classifier with the weights of a pretrained model and a new head.

    Args:
        backbone: A model of the zoo; its weights are copied.
        n_labels: Outputs of the head; 1 for a binary task trained on one logit.
        pooling: last, mean, max or cls.
        dropout: Before the head.

    Raises:
        ConfigError: If the pooling is unknown.
    """
    if pooling not in beside.POOLINGS:
        raise ConfigError(f"pooling = {pooling!r}: choose one of {', '.join(beside.POOLINGS)}")
    config = deepcopy(backbone.config)
    config.num_labels = n_labels
    config.pooling = pooling
    config.classifier_dropout = dropout
    model: PreTrainedModel = beside.PooledForSequenceClassification._from_config(
        config, attn_implementation=NAME
    )
    state = backbone.base_model.state_dict()
    model.base_model.load_state_dict(
        {name: value for name, value in state.items() if not name.startswith("pooler.")}
    )
    model.train(backbone.training)
    return model
