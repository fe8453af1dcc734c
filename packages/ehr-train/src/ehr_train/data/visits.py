"""Visits of records: where each begins, what is known before it, how long it lasts.

T tokens, N subjects, V visits.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ehr_tracking.contracts import SEP_ID, SPECIALS

if TYPE_CHECKING:
    from ehr_models.data.tokens import Tokens

Integers = npt.NDArray[np.int64]
_DAY_US = 86_400_000_000.0
_VISITS = 2**16  # ordinals are uint16


@dataclass(frozen=True, eq=False)
class NextVisits:
    """Visits that something was known before."""

    subject: Integers
    """[V] row of the split"""
    visible: Integers
    """[V] tokens of the subject that were known before the visit began"""
    bounds: Integers
    """[V, 2] the stretch of the split's flat arrays in which the visit's tokens lie"""


def next_visits(tokens: "Tokens", history: int) -> NextVisits:
    """Every visit with an ordinary token and enough visits that began before it.

    What is known before a visit are the tokens of earlier times: what is written at the very moment
    at which it begins (the gap since the last, its [SEP]) could tell of it.

    Args:
        tokens: One split.
        history: Least visits of which something was known before.
    """
    from ehr_models.data.cutoff import visible_tokens
    from ehr_models.data.tokens import STATIC

    inside = np.flatnonzero((tokens.visit[:] > 0) & (tokens.time[:] != STATIC))
    row = np.searchsorted(tokens.offsets, inside, side="right") - 1
    key = row * _VISITS + tokens.visit[inside]
    names, first = np.unique(key, return_index=True)
    last = len(key) - 1 - np.unique(key[::-1], return_index=True)[1]
    told = np.isin(names, key[tokens.token[inside] >= len(SPECIALS)])
    begin, end, subject = inside[first], inside[last] + 1, names // _VISITS
    visible = visible_tokens(tokens, subject, tokens.time[begin] - 1)
    begins, start = np.sort(begin), tokens.offsets[subject]
    before = np.searchsorted(begins, start + visible) - np.searchsorted(begins, start)
    kept = np.flatnonzero(told & (visible > 0) & (before >= history))
    kept = kept[np.argsort(begin[kept], kind="stable")]
    return NextVisits(subject[kept], visible[kept], np.stack([begin, end], 1)[kept])


def stay_days(
    row: npt.NDArray[np.integer],
    visit: npt.NDArray[np.integer],
    time: Integers,
    token: npt.NDArray[np.integer],
) -> tuple[Integers, npt.NDArray[np.float64]]:
    """How long each visit lasts: from its first token to its last.

    [SEP] does not count: one that closes a visit is written when the next begins.

    Args:
        row: [T] which subject or span each token is of.
        visit: [T] ordinals, 0 outside any visit.
        time: [T] microseconds, `STATIC` where always known.
        token: [T] ids.

    Returns:
        [V] row of each visit and [V] its days.

    Examples:
        >>> day = 86_400_000_000
        >>> stay_days(np.zeros(4, int), np.array([1, 1, 2, 2]), day * np.array([0, 3, 9, 9]), np.full(4, 8))
        (array([0, 0]), array([3., 0.]))
    """
    from ehr_models.data.tokens import STATIC

    inside = np.flatnonzero((visit > 0) & (time != STATIC) & (token != SEP_ID))
    key = row[inside].astype(np.int64) * _VISITS + visit[inside]
    names, place = np.unique(key, return_inverse=True)
    first = np.full(len(names), np.iinfo(np.int64).max)
    last = np.full(len(names), np.iinfo(np.int64).min)
    np.minimum.at(first, place, time[inside])
    np.maximum.at(last, place, time[inside])
    return names // _VISITS, (last - first) / _DAY_US
