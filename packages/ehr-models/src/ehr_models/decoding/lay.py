"""Which row is where: rows as their owner counts them, the slots they lie in, and the groups they form.

R rows lie in the slots 0..R-1 of the buffers, in any order: when rows end, only as many move as are
needed to fill the holes. Rows of one prefix form a group. All of this is known to the host, so no step
waits for the device to learn it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]


class Moves(NamedTuple):
    """What `Lay.keep` asks of the buffers."""

    source: Integers
    """Slots to copy from"""
    target: Integers
    """... to these, all of them free"""
    prefixes: list[int]
    """Prefixes that still have rows, in order"""


class Lay:
    """The rows of a decoder."""

    def __init__(self) -> None:
        self.slot: Integers = np.zeros(0, np.int64)
        """[R] where each row lies"""
        self.length: Integers = np.zeros(0, np.int64)
        """[R] by slot: tokens of its own"""
        self.group: Integers = np.zeros(0, np.int64)
        """[R] by slot: its prefix"""
        self.prefix: Integers = np.zeros(0, np.int64)
        """[S] tokens of each prefix"""

    def __len__(self) -> int:
        """R, the number of rows."""
        return len(self.slot)

    @property
    def spans(self) -> int:
        """S, the number of prefixes."""
        return len(self.prefix)

    def append(self, lengths: Sequence[int], copies: Sequence[int]) -> None:
        """More prefixes and rows behind those that there are; a prefix without copies is left out.

        Args:
            lengths: Tokens of each prefix.
            copies: Rows of each.
        """
        pairs = [(n, c) for n, c in zip(lengths, copies, strict=True) if c]
        new = np.repeat(np.arange(len(pairs)), [c for _, c in pairs]) + len(self.prefix)
        self.slot = np.concatenate([self.slot, len(self) + np.arange(len(new))])
        self.length = np.concatenate([self.length, np.zeros_like(new)])
        self.group = np.concatenate([self.group, new])
        self.prefix = np.concatenate([self.prefix, np.array([n for n, _ in pairs], np.int64)])

    def keep(self, rows: Integers) -> Moves:
        """Only these rows go on, in this order.

        Examples:
            >>> lay = Lay()
            >>> lay.append([7, 9], [2, 2])
            >>> lay.keep(np.array([3, 1]))
            Moves(source=array([3]), target=array([0]), prefixes=[0, 1])
            >>> lay.slot.tolist(), lay.group.tolist()
            ([0, 1], [1, 0])
        """
        stay, count = self.slot[rows], len(rows)
        source = stay[stay >= count]
        target = np.setdiff1d(np.arange(count), stay)
        where = np.arange(len(self))
        where[source] = target
        for name in ("length", "group"):
            values = getattr(self, name)
            values[target] = values[source]
            setattr(self, name, values[:count].copy())
        self.slot = where[stay]
        prefixes = np.unique(self.group)
        self.group = np.searchsorted(prefixes, self.group)
        self.prefix = self.prefix[prefixes]
        return Moves(source, target, prefixes.tolist())

    @property
    def position(self) -> Integers:
        """[R] by slot: of the next token."""
        return self.prefix[self.group] + self.length
