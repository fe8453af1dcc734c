"""How the windows of a step are shared out: over processes, and over forward passes on each.

All processes take the same number of passes: under sharded training each pass is a meeting, and one
that is missed hangs. And they wait for each other in it, so the work of a pass is what is balanced:
a window of L tokens costs L + c * L^2, the second for attention.
"""

import heapq
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
T = TypeVar("T")


def attention_share(hidden: int) -> float:
    """C of a model: attention over L tokens costs L / (6 * width) of the products of its weights.

    Examples:
        >>> attention_share(128) * 768  # where both cost the same
        1.0
    """
    return 1 / (6 * hidden)


def work(length: npt.NDArray[np.int64], c: float) -> npt.NDArray[np.float64]:
    """What each window costs, in tokens of a short one.

    Examples:
        >>> work(np.array([10, 100]), 0.01).tolist()
        [11.0, 200.0]
    """
    cost: npt.NDArray[np.float64] = length + c * np.square(length, dtype=np.float64)
    return cost


def deal(
    length: npt.NDArray[np.int64], *, world: int, micro_tokens: int, c: float
) -> list[list[Indices]]:
    """Share windows out.

    The costliest first, each goes into the pass with the least work so far that has room for it;
    passes of like work run at the same time on all processes. The number of passes is the least with
    which that works out.

    Args:
        length: [S] tokens of each window. One above `micro_tokens` has a pass for itself.
        world: Processes.
        micro_tokens: Most tokens of one pass.
        c: See `work`.

    Returns:
        Windows by number, by process, then by pass: each once, a pass with nothing to do is empty.

    Examples:
        >>> shares = deal(np.array([5, 1, 4, 2]), world=2, micro_tokens=6, c=0.0)
        >>> [[p.tolist() for p in passes] for passes in shares]
        [[[0, 1]], [[2, 3]]]
    """
    cost = work(length, c)
    order = np.argsort(-cost, kind="stable").tolist()
    lengths, costs = length.tolist(), cost.tolist()
    passes = max(1, -(-int(length.sum()) // (world * micro_tokens)))
    while (bins := _pack(order, lengths, costs, world * passes, micro_tokens)) is None:
        passes += 1
    total = [sum(costs[i] for i in members) for members in bins]
    heaviest = sorted(range(len(bins)), key=lambda b: (-total[b], b))
    shares: list[list[Indices]] = [[] for _ in range(world)]
    loads = [0.0] * world
    for first in range(0, len(bins), world):
        free = sorted(range(world), key=lambda r: (loads[r], r))
        for rank, number in zip(free, heaviest[first : first + world], strict=True):
            shares[rank].append(np.array(bins[number], np.int64))
            loads[rank] += total[number]
    return shares


def _pack(
    order: list[int], lengths: list[int], costs: list[float], bins: int, room: int
) -> list[list[int]] | None:
    """Windows in so many bins of at most `room` tokens; None where that does not work out."""
    members: list[list[int]] = [[] for _ in range(bins)]
    used = [0] * bins
    heap = [(0.0, b) for b in range(bins)]
    for window in order:
        full = []
        while heap and used[heap[0][1]] and used[heap[0][1]] + lengths[window] > room:
            full.append(heapq.heappop(heap))
        if not heap:
            return None
        load, chosen = heap[0]
        members[chosen].append(window)
        used[chosen] += lengths[window]
        heapq.heapreplace(heap, (load + costs[window], chosen))
        for item in full:
            heapq.heappush(heap, item)
    return members
