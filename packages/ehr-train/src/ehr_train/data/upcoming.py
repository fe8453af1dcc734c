"""What comes next in a record, seen from some of its moments.

M moments that are asked of, G groups of them (windows), F tokens behind them, P occurrences.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from ehr_models.data.tokens import Tokens

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Upcoming:
    """Next occurrences, in the order of their moments."""

    moment: Integers
    """[P] place among the M moments."""
    code: Integers
    """[P]"""
    at: Integers
    """[P] where the occurrence lies in the flat arrays."""


def ends_of_moments(tokens: "Tokens", index: Integers, end: Integers) -> npt.NDArray[np.bool_]:
    """[n] whether each token is dated and the next of its record is strictly later.

    Args:
        tokens: One split.
        index: [n] where tokens lie in the flat arrays.
        end: [n] where what may be known of their records ends.

    Examples:
        >>> from ehr_models.data.tokens import STATIC, Tokens
        >>> time = np.array([STATIC, 5, 5, 8, 9])
        >>> t = Tokens(None, None, None, None, time, None, None, None)
        >>> ends_of_moments(t, np.arange(5), np.full(5, 4)).tolist()
        [False, False, True, False, False]
    """
    from ehr_models.data.tokens import STATIC

    inside = index + 1 < end
    time = tokens.time[index]
    later = tokens.time[np.where(inside, index + 1, index)] > time
    found: npt.NDArray[np.bool_] = inside & (time != STATIC) & later
    return found


def next_occurrences(
    token: npt.NDArray[np.integer],
    code_of: Integers,
    asked: Integers,
    group: Integers,
    end: Integers,
) -> Upcoming:
    """The next occurrence of every code that comes at all, from each moment.

    An occurrence is the next one from all moments between it and the one before it of its code. So one
    pass over the tokens behind the first moment of each group finds them all: no moment is looked at
    twice, and what costs is what is found.

    Args:
        token: [T] ids in the flat arrays.
        code_of: [vocabulary] code of each id, below 0 for none.
        asked: [M] where the last tokens of the moments lie, ascending within each group: what lies
            behind one is strictly later.
        group: [M] never decreasing, from 0; moments of one record.
        end: [G] where what may be known of each group's record ends.

    Examples:
        >>> token, code_of = np.array([0, 2, 1, 2, 2]), np.array([-1, 0, 1])
        >>> found = next_occurrences(token, code_of, np.array([0, 1]), np.zeros(2, int), np.array([5]))
        >>> list(zip(found.moment.tolist(), found.code.tolist(), found.at.tolist()))
        [(0, 0, 2), (0, 1, 1), (1, 0, 2), (1, 1, 3)]
    """
    groups, start, count = np.unique(group, return_index=True, return_counts=True)
    begin = asked[start]
    length = end[groups] - begin
    base = np.cumsum(length) - length
    own = np.repeat(np.arange(len(groups)), length)  # [F]
    at = np.arange(length.sum()) + (begin - base)[own]
    marked = np.zeros(len(at), np.int64)
    marked[asked + np.repeat(base - begin, count)] = 1
    before = np.cumsum(marked) - marked  # moments before each token, over all groups

    code = code_of[token[at]]
    kept = np.flatnonzero(code >= 0)
    code, at, before, own = code[kept], at[kept], before[kept], own[kept]
    key = own * (int(code.max(initial=0)) + 1) + code
    order = np.argsort(key, kind="stable")
    key, code, at, before, own = key[order], code[order], at[order], before[order], own[order]
    first = np.ones(len(key), bool)
    first[1:] = key[1:] != key[:-1]
    since = np.where(first, start[own], np.roll(before, 1))
    number = before - since
    total = np.cumsum(number)
    moment = np.arange(total[-1] if len(total) else 0) + np.repeat(since - (total - number), number)
    code, at = np.repeat(code, number), np.repeat(at, number)
    order = np.lexsort((code, moment))
    return Upcoming(moment[order], code[order], at[order])
