"""Rows of tokens to tensors, packed: subjects laid end to end, nothing padded, nothing mixed.

S spans, T tokens. Every model of the zoo takes a `PackedBatch` and gives hidden states [T, D] in
which each span sees itself alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from ehr_models.tokens import BOS, CLS, STATIC, Tokens

ORIGIN_US = 1_577_836_800_000_000
"""2020-01-01T00:00 UTC: zero of the absolute time that models see."""
DAY_US = 86_400_000_000


class Span(NamedTuple):
    """A window of one subject: tokens [start, stop) of the flat arrays, behind a pinned first token."""

    start: int
    stop: int
    pinned: int = -1
    """Flat index of the subject's leading [CLS]/[BOS] where the window begins after it, else -1."""

    @property
    def length(self) -> int:
        """Tokens in the window."""
        return self.stop - self.start + (self.pinned >= 0)


@dataclass(frozen=True, slots=True, eq=False)
class PackedBatch:
    """S spans of T tokens in all, one after the other."""

    input_ids: Tensor
    """[T] int64"""
    position_ids: Tensor
    """[T] int64, from 0 within each span"""
    age: Tensor
    """[T] float32, days since birth; 0 for static tokens"""
    time: Tensor
    """[T] float32, days since 2020-01-01; 0 for static tokens"""
    visit: Tensor
    """[T] int64"""
    segment: Tensor
    """[T] int64"""
    cu_seqlens: Tensor
    """[S + 1] int32, where each span begins and the last ends"""
    max_length: int
    """Tokens of the longest span, known without asking the device"""

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device."""
        moved: dict[str, Any] = {
            f.name: getattr(self, f.name).to(device, non_blocking=True)
            for f in fields(self)
            if f.name != "max_length"
        }
        return replace(self, **moved)


def newest(tokens: Tokens, subject: int, visible: int, context: int) -> Span:
    """The newest tokens of a subject that fit the context, behind its pinned first token.

    Args:
        tokens: One split.
        subject: Row of `tokens`.
        visible: How many of the subject's tokens may be seen, counted from its first.
        context: Most tokens in the span.

    Examples:
        >>> import numpy as np
        >>> t = Tokens(np.array([7]), np.array([0, 5]), np.array([2, 9, 8, 7, 6], np.uint16),
        ...            np.zeros(5, np.int64), np.zeros(5, np.float32), np.ones(5, np.uint16),
        ...            np.zeros(5, np.uint8))
        >>> newest(t, 0, visible=5, context=3)
        Span(start=3, stop=5, pinned=0)
        >>> newest(t, 0, visible=3, context=3)
        Span(start=0, stop=3, pinned=-1)
    """
    first = int(tokens.offsets[subject])
    if visible <= context:
        return Span(first, first + visible)
    if int(tokens.token[first]) in (CLS, BOS):
        return Span(first + visible - context + 1, first + visible, first)
    return Span(first + visible - context, first + visible)


def pack(tokens: Tokens, spans: Sequence[Span]) -> PackedBatch:
    """Gather spans into one batch of T = sum of their lengths.

    Raises:
        ValueError: If there is no span or one has no token.
    """
    if not spans or min(span.length for span in spans) < 1:
        raise ValueError("a batch needs at least one span, and each span at least one token")
    pieces = []
    for span in spans:
        if span.pinned >= 0:
            pieces.append(np.array([span.pinned]))
        pieces.append(np.arange(span.start, span.stop))
    index = np.concatenate(pieces)
    lengths = np.array([span.length for span in spans], np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    time_us = tokens.time[index]
    days = np.where(time_us == STATIC, 0.0, (time_us - ORIGIN_US) / DAY_US)
    return PackedBatch(
        input_ids=torch.from_numpy(tokens.token[index].astype(np.int64)),
        position_ids=torch.from_numpy(np.arange(len(index)) - np.repeat(starts[:-1], lengths)),
        age=torch.from_numpy(tokens.age[index].astype(np.float32)),
        time=torch.from_numpy(days.astype(np.float32)),
        visit=torch.from_numpy(tokens.visit[index].astype(np.int64)),
        segment=torch.from_numpy(tokens.segment[index].astype(np.int64)),
        cu_seqlens=torch.from_numpy(starts.astype(np.int32)),
        max_length=int(lengths.max()),
    )
