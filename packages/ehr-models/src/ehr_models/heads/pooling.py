"""From the states of each subject to one.

This file is copied beside checkpoints as their remote code: it needs torch and transformers only.

S spans (subjects) of T tokens in all, D width, H width of a recurrent state.
"""
# torch leaves some functions untyped
# mypy: allow-untyped-calls

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

FREE = ("last", "mean", "max", "sum", "cls")
"""Poolings without parameters."""
CLS = 2
"""Row of [CLS] in every vocabulary."""


def pool(hidden: Tensor, cu_seqlens: Tensor, how: str, input_ids: Tensor | None = None) -> Tensor:
    """One vector a span, by a pooling without parameters.

    Args:
        hidden: [T, D] packed states.
        cu_seqlens: [S + 1] where each span begins and the last ends; no span is empty.
        how: `last` token, `mean`, `max` or `sum` over tokens, or the leading [CLS].
        input_ids: [T], needed for `cls`.

    Returns:
        [S, D] in the dtype of `hidden`; sums are taken in float32.

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
    if how not in FREE:
        raise ValueError(f"unknown pooling {how!r}; one of {', '.join(FREE)}")
    pooled: Tensor = torch.segment_reduce(hidden.float(), how, offsets=cu_seqlens, axis=0)
    return pooled.to(hidden.dtype)


class Pool(nn.Module):
    """`pool` as a module."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, hidden: Tensor, cu_seqlens: Tensor, input_ids: Tensor) -> Tensor:
        """[T, D] to [S, D]."""
        return pool(hidden, cu_seqlens, self.how, input_ids)


class AttentionPool(nn.Module):
    """Mean over the tokens of a span, weighted by the softmax of their products with a learned query."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, 1, bias=False)

    def forward(self, hidden: Tensor, cu_seqlens: Tensor, input_ids: Tensor) -> Tensor:  # noqa: ARG002 -- as of `Pool`
        """[T, D] to [S, D], summed in float32."""
        offsets = cu_seqlens.to(hidden.device, torch.int64)
        score = self.query(hidden).float()
        with torch.no_grad():  # the same factor above and below: no gradient comes of it
            peak = torch.segment_reduce(score, "max", offsets=offsets, axis=0)
            peak = peak.repeat_interleave(offsets.diff(), 0)
        weight = (score - peak).exp()
        total = torch.segment_reduce(hidden.float() * weight, "sum", offsets=offsets, axis=0)
        pooled: Tensor = total / torch.segment_reduce(weight, "sum", offsets=offsets, axis=0)
        return pooled.to(hidden.dtype)


class RecurrentPool(nn.Module):
    """What a recurrent network knows at the last real position, and read backwards at the first."""

    def __init__(
        self,
        cell: str,
        width: int,
        hidden: int,
        *,
        layers: int = 1,
        dropout: float = 0.0,
        both_ways: bool = False,
    ) -> None:
        super().__init__()
        self.rnn: nn.GRU | nn.LSTM = {"gru": nn.GRU, "lstm": nn.LSTM}[cell](
            width, hidden, layers, dropout=dropout if layers > 1 else 0.0, bidirectional=both_ways
        )

    def forward(self, hidden: Tensor, cu_seqlens: Tensor, input_ids: Tensor) -> Tensor:  # noqa: ARG002 -- as of `Pool`
        """[T, D] to [S, H], or [S, 2 H] both ways; in the dtype of its weights."""
        with torch.autocast(hidden.device.type, enabled=False):
            states = hidden.to(next(self.rnn.parameters()).dtype)
            spans = pack_sequence(states.split(cu_seqlens.diff().tolist()), enforce_sorted=False)
            final = self.rnn(spans)[1]
        if isinstance(self.rnn, nn.LSTM):
            final = final[0]  # without its cells
        return torch.cat(list(final[-2:] if self.rnn.bidirectional else final[-1:]), -1).to(
            hidden.dtype
        )
