"""Windows of a block in the fewest steps, by best fit.

Best fit takes the longest windows first, so by itself it would make steps of long windows and steps of
short ones. So it fills bundles instead, several of which make up a step, and a step gets any of them. How
many steps those are depends on the lengths alone, not on their order: an epoch has as many as any other.

n windows.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
_SPARE = 200
"""One step more than there need be is let be for so many, that they are better mixed."""


@dataclass(frozen=True, slots=True, eq=False)
class Packing:
    """Windows in bundles, and bundles in steps."""

    bundle: Integers
    """[n] of each window."""
    bundles: int
    each: int
    """Of a step; the last has what is left."""

    @property
    def steps(self) -> int:
        """How many there are."""
        return -(-self.bundles // self.each)


def bundles_of_a_step(length: Integers, budget: int) -> int:
    """The most with which hardly more steps are needed than with any other number.

    Args:
        length: [n] tokens of each window, at least 1.
        budget: Most tokens of a step.

    Examples:
        >>> bundles_of_a_step(np.full(100, 5), 16), bundles_of_a_step(np.array([5, 3] * 50), 16)
        (3, 2)
    """
    least = -(-int(length.sum()) // budget)
    each = max(1, budget // int(length.max()))
    steps: dict[int, int] = {}
    while each:
        steps[each] = pack(length, budget, each).steps
        if steps[each] <= least + least // _SPARE:
            return each
        each -= max(1, each // 16)
    return min(steps, key=lambda number: steps[number])


def pack(length: Integers, budget: int, each: int) -> Packing:
    """Pack windows.

    Args:
        length: [n] tokens of each, at least 1. Of equal ones the first goes first.
        budget: Most tokens of a step; a longer window has a bundle for itself.
        each: Bundles of a step. One, if a window would not fit a bundle otherwise.

    Examples:
        >>> found = pack(np.array([3, 5, 3, 2, 3]), budget=16, each=2)
        >>> found.bundle.tolist(), found.bundles, found.steps
        ([0, 0, 1, 1, 1], 2, 1)
    """
    each = min(each, max(1, budget // int(length.max())))
    bundle = best_fit(length, budget // each)
    return Packing(bundle, int(bundle.max()) + 1, each)


def best_fit(length: Integers, room: int) -> Integers:
    """The longest first, each into the fullest bin that has room for it, else into a new one.

    Windows of one length are placed together, so what it costs grows with the number of lengths rather
    than of windows.

    Args:
        length: [n] at least 1.
        room: Of each bin; what is longer has one for itself.

    Returns:
        [n] bins, from 0.

    Examples:
        >>> best_fit(np.array([2, 7, 4, 5, 2]), 9).tolist()
        [0, 0, 1, 1, 2]
    """
    # the smallest type that will do: two bytes are sorted many times faster than eight
    order = np.argsort((-length).astype(np.min_scalar_type(-int(length.max()))), kind="stable")
    ordered = length[order]
    ends = np.append(np.flatnonzero(np.diff(ordered)) + 1, len(ordered))
    found = np.empty(len(length), np.int64)
    rooms: list[int] = []  # that some bins have left, ascending
    bins: dict[int, Sequence[int]] = {}

    def put(those: Sequence[int], left: int) -> None:
        if those and left > 0:
            if left not in bins:
                insort(rooms, left)
            bins[left] = [*bins.get(left, ()), *those]

    made = at = 0
    for size, end in zip(ordered[ends - 1].tolist(), ends.tolist(), strict=True):
        while at < end:
            place = bisect_left(rooms, size)
            free = rooms.pop(place) if place < len(rooms) else room
            each = max(1, free // size)
            those = bins.pop(free, ())
            if not those:
                those = range(made, made + -(-(end - at) // each))
                made = those.stop
            taken = min(end - at, each * len(those))
            full, rest = divmod(taken, each)
            found[order[at : at + taken]] = np.repeat(those, each)[:taken]
            put(those[:full], free - each * size)
            if rest:
                put(those[full : full + 1], free - rest * size)
            put(those[full + (rest > 0) :], free)
            at += taken
    return found
