"""Stays whose start and end carry one id: while one of them lasts, no other visit begins.

Whether a stay lasts is told by looking back: it has begun, and its end has not come. So truncating a
record changes nothing before the cut; and since times alone decide, no order of rows at one time does.

E events, M of them marks (a start or an end that has an id), K stays.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ehr_tracking.arrow.meds import STATIC
from ehr_tracking.arrow.parquet import DAY_US

Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Stays:
    """K stays of some subjects."""

    subject: Rows
    """[K] which of the subjects"""
    start: npt.NDArray[np.int64]
    """[K] microseconds"""
    end: npt.NDArray[np.int64]
    """[K] microseconds; where none is recorded, or a later one, when the stay is taken as over"""


def pair(
    subject: Rows,
    time: npt.NDArray[np.int64],
    visit_id: npt.NDArray[np.int64],
    marks: tuple[Mask, Mask],
    most_days: float,
) -> tuple[Stays, Rows]:
    """Match starts with ends by id: the first start, and the first end that is not before it.

    Args:
        subject: [E] which of the subjects each event belongs to.
        time: [E] microseconds, or `STATIC`.
        visit_id: [E] 0 where there is none.
        marks: [E] which events start a stay, which end one.
        most_days: How long a stay lasts at most.

    Returns:
        The stays, and [U] rows of marks whose other side is not recorded.

    Examples:
        >>> day = np.array([0, 2, 3, 5, 9]) * DAY_US
        >>> starts, ends = np.array([1, 1, 0, 0, 1], bool), np.array([0, 0, 1, 1, 0], bool)
        >>> stays, unpaired = pair(np.zeros(5, int), day, np.array([7, 8, 8, 7, 9]), (starts, ends), 90)
        >>> stays.start // DAY_US, stays.end // DAY_US, unpaired
        (array([0, 2, 9]), array([ 5,  3, 99]), array([4]))
    """
    named = (visit_id != 0) & (time != STATIC)
    starts, ends = (np.flatnonzero(mark & named) for mark in marks)
    row = np.concatenate([starts, ends])
    pairs = np.stack([subject[row], visit_id[row]], axis=1)
    which, of = np.unique(pairs, axis=0, return_inverse=True)
    of = of.reshape(-1)
    of_start, of_end = of[: len(starts)], of[len(starts) :]
    never = np.iinfo(np.int64).max
    start, end = np.full(len(which), never), np.full(len(which), never)
    np.minimum.at(start, of_start, time[starts])
    after = time[ends] >= start[of_end]
    np.minimum.at(end, of_end[after], time[ends][after])
    begun, over = start != never, end != never
    unpaired = np.concatenate([starts[~over[of_start]], ends[~after]])
    longest = start[begun] + round(most_days * DAY_US)
    stays = Stays(which[begun, 0], start[begun], np.minimum(end[begun], longest))
    return stays, unpaired


def lasting(stays: Stays, subject: Rows, time: npt.NDArray[np.int64]) -> tuple[Mask, Mask]:
    """At which events a stay lasts that began before.

    Args:
        stays: From `pair`.
        subject: [E] ascending.
        time: [E] ascending within a subject.

    Returns:
        [E] whether one goes on; [E] the same, or ends at that very time.

    Examples:
        >>> stays = Stays(np.array([0]), np.array([2]), np.array([5]))
        >>> [m.astype(int).tolist() for m in lasting(stays, np.zeros(5, int), np.array([1, 2, 3, 5, 6]))]
        [[0, 0, 1, 0, 0], [0, 0, 1, 1, 0]]
    """
    # times as ranks, so that subject and time fit into one number that ascends over events
    _, rank = np.unique(np.concatenate([time, stays.start, stays.end]), return_inverse=True)
    rank = rank.reshape(-1)
    n, k = len(time), len(stays.start)
    base = stays.subject * (n + 2 * k)
    at = subject * (n + 2 * k) + rank[:n]
    begin = np.searchsorted(at, base + rank[n : n + k], side="right")

    def depth(stop: Rows) -> Mask:
        change = np.zeros(n + 1, np.int64)
        np.add.at(change, begin, 1)
        np.add.at(change, np.maximum(stop, begin), -1)
        return np.asarray(np.cumsum(change[:-1]) > 0)

    ends = base + rank[n + k :]
    return depth(np.searchsorted(at, ends)), depth(np.searchsorted(at, ends, side="right"))
