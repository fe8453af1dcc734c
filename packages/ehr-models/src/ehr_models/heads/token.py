"""From a batch to states and logits of tokens, the same way for every kind.

S spans, T tokens, L tokens of the longest span, D width, V vocabulary, E experts.
"""

# torch leaves some functions untyped
# mypy: allow-untyped-calls

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from ehr_models.data.batch import Batch
from ehr_models.heads.layers import Layers
from ehr_models.kinds import kind_of
from ehr_models.kinds.record import Kind
from ehr_models.layers.attention import NAME, no_mask

FINENESS = 6
"""Bits that the number of computed tokens has: sizes are multiples of 1/32 to 1/64 of them."""


def attention_of(kind: Kind) -> str | None:
    """The implementation of attention that a model of a kind is made with; None is transformers' choice."""
    return NAME if kind.isolates == "spans" else None


class Answer(NamedTuple):
    """What a model makes of a batch."""

    states: Tensor
    """[T, D], or [T, K * D] of K layers."""
    auxiliary: dict[str, Tensor]
    """Losses of the model's own, means over tokens, by name; of most kinds none."""
    expert_shares: Tensor | None
    """[layers, E] of the tokens, where there are experts."""


def hidden_states(model: PreTrainedModel, batch: Batch, layers: Layers | None = None) -> Tensor:
    """Last hidden states [T, D], or [T, K * D] those of K layers; each span sees itself alone.

    Args:
        model: From `registry.build`, `load_checkpoint` or `build_classifier`.
        batch: On the model's device.
        layers: Of the model, where others than the last are asked for.
    """
    return answer(model, batch, layers).states


def answer(model: PreTrainedModel, batch: Batch, layers: Layers | None = None) -> Answer:
    """Hidden states, and what the model has to say beside; each span sees itself alone.

    Args:
        model: From `registry.build`, `load_checkpoint` or `build_classifier`.
        batch: On the model's device.
        layers: Of the model, where others than the last are asked for.
    """
    kind = kind_of(model.config)
    inputs = {name: getattr(batch, field) for name, field in kind.inputs.items()}
    options: dict[str, Any] = {"use_cache": False} if kind.incremental or kind.caches else {}
    if kind.isolates == "padded":
        return _padded(model, kind, inputs, options, batch, layers)
    if kind.isolates == "spans":
        more = 0 if kind.auxiliary else rounded(batch) - len(batch.input_ids)
        inputs, cu_seqlens, longest = _lengthened(inputs, batch, more)
        options["attention_mask"] = no_mask(batch.input_ids.device)
        options["cu_seq_lens_q"] = cu_seqlens
        options["max_length_q"] = longest
    out = model.base_model(**{name: value[None] for name, value in inputs.items()}, **options)
    return _answer(kind, out, _states(out, layers)[0, : len(batch.input_ids)])


def rounded(batch: Batch) -> int:
    """Tokens that a batch is computed with: T, or where sizes are dear up to 1/32 more.

    On a CPU in bf16 every product of a size not seen before has its kernel compiled first, for some
    milliseconds each; there few sizes are worth more than the tokens that are computed for nothing.
    """
    tokens = len(batch.input_ids)
    if batch.input_ids.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return tokens
    grid = 1 << max(0, tokens.bit_length() - FINENESS)
    return -(-tokens // grid) * grid


def _lengthened(
    inputs: dict[str, Tensor], batch: Batch, more: int
) -> tuple[dict[str, Tensor], Tensor, int]:
    """Inputs, spans and the longest of them, with a span of so many zeros behind the others."""
    if not more:
        return inputs, batch.cu_seqlens, batch.max_length
    padded = {name: F.pad(value, (0, more)) for name, value in inputs.items()}
    if "position_ids" in padded:
        padded["position_ids"][-more:] = torch.arange(more)
    ends = torch.cat([batch.cu_seqlens, batch.cu_seqlens[-1:] + more])
    return padded, ends, max(batch.max_length, more)


def _states(out: Any, layers: Layers | None) -> Tensor:  # noqa: ANN401 -- any backbone's
    last: Tensor = out.last_hidden_state
    return last if layers is None else layers.of(last)


def _answer(kind: Kind, out: Any, states: Tensor) -> Answer:  # noqa: ANN401 -- any backbone's
    found = {name: getattr(out, name) for name in kind.auxiliary}
    auxiliary = {name: value for name, value in found.items() if value is not None}
    return Answer(states, auxiliary, getattr(out, "expert_shares", None))


def _padded(
    model: PreTrainedModel,
    kind: Kind,
    inputs: dict[str, Tensor],
    options: dict[str, Any],
    batch: Batch,
    layers: Layers | None,
) -> Answer:
    """By way of [S, L], padded on the right.

    Spans of like lengths go together, so that less than half of what is computed is padding; all at once
    where the model has losses of its own, which are means over tokens.
    """
    lengths = batch.cu_seqlens.diff().tolist()
    split = {name: value.split(lengths) for name, value in inputs.items()}
    ones = torch.ones_like(batch.input_ids).split(lengths)
    places = torch.arange(len(batch.input_ids), device=batch.input_ids.device).split(lengths)
    classes: dict[int, list[int]] = {}
    for number, length in enumerate(lengths):
        like = 0 if kind.auxiliary else (length - 1).bit_length()
        classes.setdefault(like, []).append(number)
    states, order = [], []
    for spans in classes.values():
        rows = {n: pad_sequence([v[i] for i in spans], batch_first=True) for n, v in split.items()}
        real = pad_sequence([ones[i] for i in spans], batch_first=True)
        out = model.base_model(**rows, attention_mask=real, **options)
        states.append(_states(out, layers)[real.bool()])
        order += [places[i] for i in spans]
    return _answer(kind, out, torch.cat(states)[torch.cat(order).argsort()])


def token_logits(model: PreTrainedModel, hidden_rows: Tensor) -> Tensor:
    """The model's own language-modelling head, on the rows that need it.

    Args:
        model: With such a head.
        hidden_rows: [M, D] rows of `hidden_states`.

    Returns:
        [M, V] over the true vocabulary, padding columns cut off.
    """
    return padded_logits(model, hidden_rows)[:, : model.config.true_vocab_size]


def padded_logits(model: PreTrainedModel, hidden_rows: Tensor) -> Tensor:
    """`token_logits` before padding columns are cut off, whose gradient would cost a copy of all others."""
    for name in kind_of(model.config).token_head:
        hidden_rows = model.get_submodule(name)(hidden_rows)
    return hidden_rows
