"""From the states of a batch to one vector a row. T tokens, R rows read off them, K layers, D width."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ehr_eval.features.config import Combine
from ehr_eval.features.passes import Passes
from ehr_models.data.batch import Batch
from ehr_models.heads.pooled import pool
from ehr_tracking.contracts import PAD_ID


def poolings(asked: str, *, causal: bool) -> tuple[str, ...]:
    """The poolings that a setting names.

    Examples:
        >>> poolings("auto", causal=True), poolings("last+mean", causal=False)
        (('last',), ('last', 'mean'))
    """
    return tuple(("last" if causal else "mean") if p == "auto" else p for p in asked.split("+"))


def combined(states: Tensor, layers: int, how: Combine) -> Tensor:
    """[T, K * D] states of K layers as [T, D], their mean, or as they are."""
    if layers == 1 or how == "concat":
        return states
    return states.reshape(len(states), layers, -1).mean(1)


def filled(batch: Batch, passes: Passes) -> Batch:
    """A batch of one pass, with padding at its end where that is asked for: to a causal model, no difference."""
    if passes.fill is None:
        return batch
    length = int(passes.fill[0])
    more = length - len(batch.input_ids)

    def longer(values: Tensor) -> Tensor:
        return torch.cat([values, values[-1:].expand(more)])

    return replace(
        batch,
        input_ids=torch.cat([batch.input_ids, torch.full((more,), PAD_ID)]),
        position_ids=torch.arange(length),
        age=longer(batch.age),
        time=longer(batch.time),
        visit=longer(batch.visit),
        segment=longer(batch.segment),
        index=longer(batch.index),
        span=longer(batch.span),
        cu_seqlens=torch.tensor([0, length], dtype=batch.cu_seqlens.dtype),
        max_length=length,
    )


def pool_rows(
    states: Tensor, input_ids: Tensor | None, passes: Passes, how: Sequence[str]
) -> Tensor:
    """[R, D of each pooling] from what each row sees.

    Args:
        states: [T, D] of the passes' windows, laid end to end.
        input_ids: [T], to see that `cls` is one; None: the first token is, whatever it is called.
        passes: Of one batch.
        how: Names of poolings.

    Raises:
        UserError: For cls where a window does not begin with [CLS].
    """
    length = passes.windows.length
    begin = (np.cumsum(length) - length)[passes.window]
    end = begin + passes.ends
    return torch.cat([_pooled(states, input_ids, begin, end, each) for each in how], dim=-1)


def _pooled(
    states: Tensor,
    input_ids: Tensor | None,
    begin: "np.ndarray[tuple[int], np.dtype[np.int64]]",
    end: "np.ndarray[tuple[int], np.dtype[np.int64]]",
    how: str,
) -> Tensor:
    if how == "last":
        begin = end - 1  # of a shared pass many rows are read: gather only what is pooled
    seen = end - begin
    offsets = np.concatenate([[0], np.cumsum(seen)])
    index = np.arange(offsets[-1]) + np.repeat(begin - offsets[:-1], seen)
    rows = torch.from_numpy(index).to(states.device)
    ends = torch.from_numpy(offsets).to(states.device)
    if how == "attention":
        return attended(states[rows], ends)
    if input_ids is None and how == "cls":
        return states[rows[ends[:-1]]]
    return pool(states[rows], ends, how, input_ids=None if input_ids is None else input_ids[rows])


def attended(states: Tensor, ends: Tensor) -> Tensor:
    """What the last state of each row attends to: the mean of its states, by scaled products with the last.

    The attention of a transformer without weights of its own: softmax over tokens of the product of their
    states, over the root of the width.

    Args:
        states: [M, D] of the rows, one after the other.
        ends: [R + 1] where each row begins and the last ends.

    Returns:
        [R, D], summed in float32.

    Examples:
        >>> attended(torch.tensor([[0.0, 9.0], [2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 3])).round()
        tensor([[2., 0.]])
    """
    found = states.float()
    query = found[ends[1:] - 1].repeat_interleave(ends.diff(), 0)
    score = (found * query).sum(1, keepdim=True) / found.shape[1] ** 0.5
    peak = torch.segment_reduce(score, "max", offsets=ends, axis=0).repeat_interleave(
        ends.diff(), 0
    )
    weight = (score - peak).exp()
    total = torch.segment_reduce(found * weight, "sum", offsets=ends, axis=0)
    pooled: Tensor = total / torch.segment_reduce(weight, "sum", offsets=ends, axis=0)
    return pooled.to(states.dtype)
