"""Random numbers that depend on what they are for, not on who draws them or when.

A draw is a hash of its key, e.g. (seed, epoch, subject, position). So it is the same on any number
of processes, in any order, and after a resume, with no generator whose state must be kept.
"""

from math import isqrt

import numpy as np
import numpy.typing as npt

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_SMALL = 2**16
"""Below it a permutation goes through more rounds: there is less to tell its places apart by."""


def bits(*key: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    """64 random bits for each key, by the finalizer of splitmix64 chained over its parts.

    Args:
        key: Integers or integer arrays that broadcast together.

    Source:
        Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014.

    Examples:
        >>> bool(bits(1, 2, 3) == bits(1, 2, 3)), bool(bits(1, 2, 3) == bits(1, 3, 2))
        (True, False)
    """
    state = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for part in key:
            word = np.asarray(part).astype(np.int64).astype(np.uint64)
            state = (state ^ word) * _MIX_2 + _GAMMA
            state = (state ^ (state >> np.uint64(30))) * _MIX_1
            state = (state ^ (state >> np.uint64(27))) * _MIX_2
            state = state ^ (state >> np.uint64(31))
    return state


def uniform(*key: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """A number in [0, 1) for each key.

    Examples:
        >>> x = uniform(7, np.arange(100_000))
        >>> bool(0 <= x.min() < 1e-4), bool(1 - 1e-4 < x.max() < 1), round(float(x.mean()), 2)
        (True, True, 0.5)
    """
    return (bits(*key) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def below(bound: npt.ArrayLike, *key: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """An integer in [0, bound) for each key; bounds far below 2**53.

    Examples:
        >>> sorted(set(below(3, 5, np.arange(50)).tolist()))
        [0, 1, 2]
    """
    drawn: npt.NDArray[np.int64] = np.floor(uniform(*key) * np.asarray(bound)).astype(np.int64)
    return drawn


def order(*key: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """The permutation that sorts keys by their draws; equal draws stay in the order of the keys.

    Examples:
        >>> sorted(order(5, np.arange(6)).tolist()), order(5, np.zeros(4, np.int64)).tolist()
        ([0, 1, 2, 3, 4, 5], [0, 1, 2, 3])
    """
    drawn = bits(*key)
    found = np.argsort(drawn)  # three times as fast as a stable sort, and the same without ties
    behind = drawn[found]
    if (behind[1:] == behind[:-1]).any():
        found = np.argsort(drawn, kind="stable")
    return found


def permuted(index: npt.ArrayLike, size: int, *key: int) -> npt.NDArray[np.int64]:
    """What stands at some places of a permutation of 0..size-1, without the rest of it.

    A Feistel network over the pairs of two numbers whose product is just above `size`; what falls
    behind it is sent through again, until it does not.

    Args:
        index: Places.
        size: Below 2**62.
        key: Which permutation.

    Source:
        Black, Rogaway: Ciphers with arbitrary finite domains, CT-RSA 2002.

    Examples:
        >>> found = permuted(np.arange(1000), 1000, 7)
        >>> sorted(found.tolist()) == list(range(1000)), bool(permuted(3, 1000, 7) == found[3])
        (True, True)
    """
    rows = isqrt(max(size - 1, 0)) + 1
    columns = -(-size // rows)
    place = np.array(index, np.int64)
    outside = np.ones(place.shape, bool)
    while outside.any():
        left, right = np.divmod(place[outside], columns)
        width, other = rows, columns
        for number in range(8 if size < _SMALL else 4):
            drawn = bits(*key, number, right) >> np.uint64(32)
            left += ((drawn * np.uint64(width)) >> np.uint64(32)).astype(np.int64)
            left -= np.where(left >= width, width, 0)
            left, right, width, other = right, left, other, width
        place[outside] = left * columns + right
        outside = place >= size
    return place
