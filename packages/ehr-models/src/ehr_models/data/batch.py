"""Windows to tensors, packed: subjects laid end to end, nothing padded, nothing mixed.

S spans (windows), T tokens. Every model of the zoo takes a `Batch` and gives hidden states [T, D] in
which each span sees itself alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ehr_models.data.tokens import Tokens
from ehr_models.data.windows import Windows


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """S spans of T tokens in all, one after the other."""

    input_ids: Tensor
    """[T] int64"""
    position_ids: Tensor
    """[T] int64, from 0 within each span"""
    age: Tensor
    """[T] float32, days since birth; 0 for static tokens"""
    time: Tensor
    """[T] int64, microseconds since 1970; `STATIC` for static tokens"""
    visit: Tensor
    """[T] int64"""
    segment: Tensor
    """[T] int64"""
    index: Tensor
    """[T] int64, where each token lies in the flat arrays of its split"""
    span: Tensor
    """[T] int64, which span each token belongs to"""
    cu_seqlens: Tensor
    """[S + 1] int32, where each span begins and the last ends"""
    max_length: int
    """Tokens of the longest span, known without asking the device"""
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    """More columns [T, ...] of tokens"""
    subject: Mapping[str, Tensor] = field(default_factory=dict)
    """Columns [S, ...] of spans"""

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device."""
        moved = {f.name: _to(getattr(self, f.name), device) for f in fields(self)}
        return replace(self, **moved)


def _to(value: Any, device: torch.device | str) -> Any:  # noqa: ANN401 -- a tensor, some, or a number
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {name: _to(item, device) for name, item in value.items()}
    return value


def pack(tokens: Tokens, windows: Windows) -> Batch:
    """Gather windows into one batch of T = sum of their lengths.

    Raises:
        ValueError: If there is no window or one has no token.
    """
    lengths = windows.length
    if not len(windows) or lengths.min() < 1:
        raise ValueError("a batch needs at least one span, and each span at least one token")
    starts = np.concatenate([[0], np.cumsum(lengths)])
    span = np.repeat(np.arange(len(windows)), lengths)
    position = np.arange(starts[-1]) - starts[span]
    prefix = windows.prefix[span]
    index = position + np.where(
        position < prefix, windows.first[span], windows.start[span] - prefix
    )
    return Batch(
        input_ids=torch.from_numpy(tokens.token[index].astype(np.int64)),
        position_ids=torch.from_numpy(position),
        age=torch.from_numpy(tokens.age[index].astype(np.float32)),
        time=torch.from_numpy(tokens.time[index].astype(np.int64)),
        visit=torch.from_numpy(tokens.visit[index].astype(np.int64)),
        segment=torch.from_numpy(tokens.segment[index].astype(np.int64)),
        index=torch.from_numpy(index),
        span=torch.from_numpy(span),
        cu_seqlens=torch.from_numpy(starts.astype(np.int32)),
        max_length=int(lengths.max()),
    )
