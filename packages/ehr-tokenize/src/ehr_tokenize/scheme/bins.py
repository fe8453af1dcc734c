"""Values to bins: exact quantiles per code from a histogram that shards can make apart.

A value is handled as one 64-bit key, `code << 32 | order(value)`, in which `order` keeps the order
of float32: one sort gives the histogram of all codes, one binary search the bin of every event.

C codes, B edges in all, E events, H distinct (code, value) pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from ehr_tokenize.config import NumericConfig

_SIGN = np.uint32(0x8000_0000)
_SHIFT = np.uint64(32)


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """How often each finite value of each code occurs."""

    key: npt.NDArray[np.uint64]
    """[H] ascending"""
    count: npt.NDArray[np.int64]
    """[H]"""

    @classmethod
    def of(cls, code: npt.NDArray[np.uint32], value: npt.NDArray[np.float32]) -> Self:
        """Count the finite values of some events."""
        finite = np.isfinite(value)
        key = np.sort(_keys(code[finite], value[finite]))
        first = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]])[: len(key)])
        return cls(key[first], np.diff(np.append(first, len(key))))

    @classmethod
    def weighted(
        cls,
        code: npt.NDArray[np.uint32],
        value: npt.NDArray[np.float32],
        count: npt.NDArray[np.int64],
    ) -> Self:
        """From distinct (code, value) pairs in any order, with the count of each."""
        key = _keys(code, value)
        order = np.argsort(key)
        return cls(key[order], count[order])

    @classmethod
    def merge(cls, parts: Sequence[Self]) -> Self:
        """The histogram of the events of all parts together."""
        if not parts:
            return cls(np.zeros(0, np.uint64), np.zeros(0, np.int64))
        key, where = np.unique(np.concatenate([p.key for p in parts]), return_inverse=True)
        count = np.zeros(len(key), np.int64)
        np.add.at(count, where, np.concatenate([p.count for p in parts]))
        return cls(key, count)

    def by_code(self) -> tuple[npt.NDArray[np.int64], list[slice]]:
        """The codes that have values, and where in the arrays those of each are."""
        code = (self.key >> _SHIFT).astype(np.int64)
        present, first = np.unique(code, return_index=True)
        stops = np.append(first, len(code))[1:]
        return present, [slice(int(a), int(b)) for a, b in zip(first, stops, strict=True)]

    def values(self) -> npt.NDArray[np.float32]:
        """[H] the value of each key."""
        return _unorder((self.key & np.uint64(0xFFFF_FFFF)).astype(np.uint32))


def edges(
    value: npt.NDArray[np.float32], count: npt.NDArray[np.int64], config: NumericConfig
) -> npt.NDArray[np.float32]:
    """Inner bin edges of one code, ascending; none where it gets no bins.

    Edge k of n is the value of rank floor(k * N / n) among the N values in order: it is the lowest
    value of its bin. Ties give fewer bins, never an empty one; a constant gives none.

    Args:
        value: Distinct finite values, ascending.
        count: How often each occurs.
        config: Number of bins and fewest values.

    Examples:
        >>> one = np.ones(8, np.int64)
        >>> edges(np.arange(8, dtype=np.float32), one, NumericConfig(n_bins=4, min_values=2))
        array([2., 4., 6.], dtype=float32)
        >>> edges(np.array([5], np.float32), np.array([99]), NumericConfig(n_bins=4))
        array([], dtype=float32)
    """
    total = np.cumsum(count)
    if not len(total) or total[-1] < config.min_values:
        return np.zeros(0, np.float32)
    rank = np.arange(1, config.n_bins) * total[-1] // config.n_bins
    chosen = np.unique(np.searchsorted(total, rank, side="right"))
    inner: npt.NDArray[np.float32] = value[chosen[chosen > 0]]
    return inner


@dataclass(frozen=True, slots=True, eq=False)
class Bins:
    """The edges of C codes, ready to be searched."""

    key: npt.NDArray[np.uint64]
    """[B] ascending"""
    first: npt.NDArray[np.int64]
    """[C + 1] edges of code c are first[c]:first[c + 1]"""

    @classmethod
    def of(cls, per_code: Sequence[npt.NDArray[np.float32]]) -> Self:
        """From the edges of each code."""
        sizes = np.array([len(e) for e in per_code], np.int64)
        code = np.repeat(np.arange(len(sizes), dtype=np.uint32), sizes)
        value = np.concatenate([np.zeros(0, np.float32), *per_code]).astype(np.float32)
        return cls(_keys(code, value), np.concatenate([[0], np.cumsum(sizes)]))

    @property
    def slots(self) -> npt.NDArray[np.int64]:
        """[C + 1] first slot of each code: one for the plain code, then one a bin."""
        inner = np.diff(self.first)
        sizes = 1 + np.where(inner > 0, inner + 1, 0)
        return np.concatenate([[0], np.cumsum(sizes)])

    def slot(
        self, code: npt.NDArray[np.uint32], value: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.int64]:
        """[E] the slot of each event: plain where there is no value or no bins (NaN is no value).

        Examples:
            >>> bins = Bins.of([np.array([], np.float32), np.array([2, 4], np.float32)])
            >>> code = np.array([0, 1, 1, 1, 1, 1], np.uint32)
            >>> bins.slot(code, np.array([9, np.nan, -np.inf, 2, 3, np.inf], np.float32))
            array([0, 1, 2, 3, 3, 4])
        """
        slot = self.slots[code]
        binned = np.flatnonzero((np.diff(self.first) > 0)[code] & ~np.isnan(value))
        code = code[binned]
        found = np.searchsorted(self.key, _keys(code, value[binned]), side="right")
        slot[binned] += 1 + found - self.first[code]
        return slot


def _keys(code: npt.NDArray[np.uint32], value: npt.NDArray[np.float32]) -> npt.NDArray[np.uint64]:
    return (code.astype(np.uint64) << _SHIFT) | _order(value)


def _order(value: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    """Float32 as unsigned integers in the same order; -0.0 is 0.0."""
    bits = (value + np.float32(0)).view(np.uint32)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def _unorder(order: npt.NDArray[np.uint32]) -> npt.NDArray[np.float32]:
    return np.where(order & _SIGN, order & ~_SIGN, ~order).astype(np.uint32).view(np.float32)
