"""Where in the past of each row each of its subject's items lies.

E occurrences of items, R rows, P pairs of a row and an item that its subject has. All is whole numbers, so that
nothing depends on the order in which occurrences come, or on which subjects share a file.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

PAIRS = 2_000_000
"""Pairs that are held at a time."""
STATIC = np.iinfo(np.int64).min
"""Time of what is always known: before every prediction time, outside of every window."""
DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Rows `start` to `stop`, each with the items of its subject: by row, then by item."""

    start: int
    stop: int
    row: Ints
    """[P]"""
    item: Ints
    """[P]"""
    upto: Ints
    """[P] the past of the pair ends here in the order of `Past`, exclusive."""
    since: list[Ints]
    """[P] where each window of it begins, then where the whole past does."""


class Past:
    """Occurrences sorted by subject, item, time (and value)."""

    def __init__(
        self, subject: Ints, time: Ints, item: Ints, *, items: int, value: Ints | None = None
    ) -> None:
        """Sort.

        Args:
            subject: [E] numbers of the subjects, below S.
            time: [E] microseconds, `STATIC` for what is always known.
            item: [E] below `items`.
            items: S * `items` * E must be below 2^63.
            value: [E] to be sorted along.
        """
        self._items = items
        self._known, tick = np.unique(time, return_inverse=True)
        self._ticks = len(self._known) + 1
        key = (subject * items + item) * self._ticks + tick
        if value is None:
            key.sort()
            self.value = value
        else:
            order = np.lexsort((value, key))
            key, self.value = key[order], value[order]
        self._key = key
        group = key // self._ticks
        first = np.flatnonzero(np.append(True, group[1:] != group[:-1]))[: len(group)]
        self._group = group[first]
        self._bounds = np.append(first, len(key))
        self._owner = self._group // items

    @property
    def time(self) -> Ints:
        """[E] microseconds, in order."""
        found: Ints = self._known[self._key % self._ticks]
        return found

    def pairs(self, subject: Ints, at: Ints, windows_days: Sequence[float]) -> Iterator[Pairs]:
        """Some rows at a time, with at most `PAIRS` pairs or alone.

        Args:
            subject: [R] numbers of subjects, ascending.
            at: [R] prediction times.
            windows_days: A window is open where it begins: what is just as old as it is long is out.
        """
        begin = np.searchsorted(self._owner, subject, "left")
        have = np.searchsorted(self._owner, subject, "right") - begin
        ticks = [np.searchsorted(self._known, at, side="right")]
        ticks += [
            np.searchsorted(self._known, at - int(days * DAY_US), side="right")
            for days in windows_days
        ]
        for start, stop in _chunks(have, PAIRS):
            n = have[start:stop]
            row = np.repeat(np.arange(start, stop), n)
            group = np.repeat(begin[start:stop] - (np.cumsum(n) - n), n) + np.arange(n.sum())
            key = self._group[group] * self._ticks
            upto, *since = (np.searchsorted(self._key, key + tick[row]) for tick in ticks)
            whole = self._bounds[group]
            yield Pairs(start, stop, row, self._group[group] % self._items, upto, [*since, whole])


def _chunks(pairs: Ints, budget: int) -> list[tuple[int, int]]:
    """Cut rows into runs of at most `budget` pairs, at least one row each.

    Examples:
        >>> _chunks(np.array([3, 3, 9, 1]), budget=6)
        [(0, 2), (2, 3), (3, 4)]
    """
    total = np.concatenate([[0], np.cumsum(pairs)])
    runs, start = [], 0
    while start < len(pairs):
        stop = max(start + 1, int(np.searchsorted(total, total[start] + budget, "right")) - 1)
        runs.append((start, stop))
        start = stop
    return runs
