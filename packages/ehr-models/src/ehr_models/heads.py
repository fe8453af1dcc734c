"""From a packed batch to states, token logits and class logits, the same way for every kind.

S spans, T tokens, D width, V vocabulary, C classes.
"""
# transformers leaves some methods untyped
# mypy: allow-untyped-calls

from copy import deepcopy
from pathlib import Path
from typing import cast

from torch import Tensor
from transformers import PreTrainedModel

from ehr_models import pooled
from ehr_models.attention import NAME, no_mask
from ehr_models.data.batch import Batch
from ehr_models.registry import CLASSIFIERS
from ehr_tracking.config import ConfigError
from ehr_tracking.errors import UserError


def hidden_states(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Last hidden states [T, D]; each span sees itself alone.

    Args:
        model: From `registry.build`, `load_checkpoint` or `build_classifier`.
        batch: On the model's device.
    """
    inputs = {"input_ids": batch.input_ids, "position_ids": batch.position_ids}
    kind = model.config.model_type
    if kind == "behrt":
        for name in ("age", "time", "visit", "segment"):
            inputs[name] = getattr(batch, name)
    elif kind == "bert":
        inputs["token_type_ids"] = batch.segment
    options = {} if kind == "behrt" else {"use_cache": False}
    out = model.base_model(
        **{name: value[None] for name, value in inputs.items()},
        **options,
        attention_mask=no_mask(batch.input_ids.device),
        cu_seq_lens_q=batch.cu_seqlens,
        max_length_q=batch.max_length,
    )
    states: Tensor = out.last_hidden_state[0]
    return states


def token_logits(model: PreTrainedModel, hidden_rows: Tensor) -> Tensor:
    """The model's own language-modelling head, on the rows that need it.

    Args:
        model: With such a head.
        hidden_rows: [M, D] rows of `hidden_states`.

    Returns:
        [M, V] over the true vocabulary, padding columns cut off.
    """
    kind = model.config.model_type
    head = {"behrt": "head", "bert": "cls"}.get(kind, "lm_head")
    logits: Tensor = getattr(model, head)(hidden_rows)
    return logits[:, : model.config.true_vocab_size]


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
        return pooled.pool(hidden, cu_seqlens, how, input_ids)
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
    head = cast("pooled.PooledClassification", model)
    try:
        return head.classify(states, batch.cu_seqlens, batch.input_ids)
    except ValueError as e:
        raise UserError(str(e)) from None


def build_classifier(
    backbone: PreTrainedModel | Path, n_labels: int, pooling: str, *, dropout: float = 0.0
) -> PreTrainedModel:
    """A classifier with the weights of a pretrained model and a new head.

    Args:
        backbone: A model of the zoo (its weights are copied), or a run or checkpoint directory.
        n_labels: Outputs of the head; 1 for a binary task trained on one logit.
        pooling: last, mean, max or cls.
        dropout: Before the head.

    Raises:
        ConfigError: If the pooling is unknown.
    """
    if pooling not in pooled.POOLINGS:
        raise ConfigError(f"pooling = {pooling!r}: choose one of {', '.join(pooled.POOLINGS)}")
    if isinstance(backbone, Path):
        from ehr_models.checkpoint import load_checkpoint

        backbone = load_checkpoint(backbone).model
    config = deepcopy(backbone.config)
    config.num_labels = n_labels
    config.pooling = pooling
    config.classifier_dropout = dropout
    model: PreTrainedModel = CLASSIFIERS[config.model_type]._from_config(
        config, attn_implementation=NAME
    )
    state = {
        name: value
        for name, value in backbone.base_model.state_dict().items()
        if not name.startswith("pooler.")
    }
    model.base_model.load_state_dict(state)
    model.train(backbone.training)
    return model
