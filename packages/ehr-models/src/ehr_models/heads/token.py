"""From a batch to states and logits of tokens, the same way for every kind.

S spans, T tokens, L tokens of the longest span, D width, V vocabulary, E experts.
"""

# torch leaves some functions untyped
# mypy: allow-untyped-calls

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from ehr_models.data.batch import Batch
from ehr_models.kinds import KINDS
from ehr_models.kinds.record import Kind
from ehr_models.layers.attention import no_mask


class Answer(NamedTuple):
    """What a model makes of a batch."""

    states: Tensor
    """[T, D]"""
    auxiliary: dict[str, Tensor]
    """Losses of the model's own, means over tokens, by name; of most kinds none."""
    expert_shares: Tensor | None
    """[layers, E] of the tokens, where there are experts."""


def hidden_states(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Last hidden states [T, D]; each span sees itself alone.

    Args:
        model: From `registry.build`, `load_checkpoint` or `build_classifier`.
        batch: On the model's device.
    """
    return answer(model, batch).states


def answer(model: PreTrainedModel, batch: Batch) -> Answer:
    """Last hidden states, and what the model has to say beside; each span sees itself alone.

    Args:
        model: From `registry.build`, `load_checkpoint` or `build_classifier`.
        batch: On the model's device.
    """
    kind = KINDS[model.config.model_type]
    inputs = {name: getattr(batch, field) for name, field in kind.inputs.items()}
    options: dict[str, Any] = {"use_cache": False} if kind.incremental else {}
    if kind.isolates == "padded":
        return _answer(kind, *_padded(model, inputs, options, batch))
    if kind.isolates == "spans":
        options["attention_mask"] = no_mask(batch.input_ids.device)
        options["cu_seq_lens_q"] = batch.cu_seqlens
        options["max_length_q"] = batch.max_length
    out = model.base_model(**{name: value[None] for name, value in inputs.items()}, **options)
    return _answer(kind, out, out.last_hidden_state[0])


def _answer(kind: Kind, out: Any, states: Tensor) -> Answer:  # noqa: ANN401 -- any backbone's
    found = {name: getattr(out, name) for name in kind.auxiliary}
    auxiliary = {name: value for name, value in found.items() if value is not None}
    return Answer(states, auxiliary, getattr(out, "expert_shares", None))


def _padded(
    model: PreTrainedModel, inputs: dict[str, Tensor], options: dict[str, Any], batch: Batch
) -> tuple[Any, Tensor]:
    """By way of [S, L], padded on the right."""
    lengths = batch.cu_seqlens.diff().tolist()
    rows = {n: pad_sequence(v.split(lengths), batch_first=True) for n, v in inputs.items()}
    real = pad_sequence(torch.ones_like(batch.input_ids).split(lengths), batch_first=True)
    out = model.base_model(**rows, attention_mask=real, **options)
    return out, out.last_hidden_state[real.bool()]


def token_logits(model: PreTrainedModel, hidden_rows: Tensor) -> Tensor:
    """The model's own language-modelling head, on the rows that need it.

    Args:
        model: With such a head.
        hidden_rows: [M, D] rows of `hidden_states`.

    Returns:
        [M, V] over the true vocabulary, padding columns cut off.
    """
    head = getattr(model, KINDS[model.config.model_type].token_head)
    logits: Tensor = head(hidden_rows)[:, : model.config.true_vocab_size]
    return logits
