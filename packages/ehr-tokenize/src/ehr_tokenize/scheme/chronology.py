"""Age and visit of every event, each from events that are not after it.

Both run along the rows of a subject and look back only, so truncating a record changes nothing
before the cut, and a model that reads tokens in order is never told what comes next.

N subjects, E events.
"""

import numpy as np
import numpy.typing as npt

from ehr_tokenize.meds.events import Events
from ehr_tracking.arrow.meds import STATIC
from ehr_tracking.arrow.parquet import DAY_US

Mask = npt.NDArray[np.bool_]


def ages(events: Events, birth: Mask) -> npt.NDArray[np.float32]:
    """[E] days since birth; before a birth is recorded, since the first timed event; static: 0.

    Args:
        events: Whole subjects.
        birth: [E] which events are a birth; the first timed one of a subject counts.
    """
    timed = events.time != STATIC
    start = events.offsets[:-1]
    begin = timed.copy()  # the first timed row of each subject, since those without time come first
    begin[1:] &= ~timed[:-1]
    begin[start[start < len(events)]] |= timed[start[start < len(events)]]
    begins = np.flatnonzero(begin)
    owner = _owner(begins, events)
    reference = np.zeros(len(start), np.int64)
    reference[owner] = events.time[begins]
    births = np.flatnonzero(birth & timed)
    births = births[np.unique(_owner(births, events), return_index=True)[1]]
    since = _held(
        np.concatenate([start, births]),
        np.concatenate([reference, events.time[births]]),
        len(events),
    )
    days: npt.NDArray[np.float32] = (np.where(timed, events.time - since, 0) / DAY_US).astype(
        np.float32
    )
    return days


def visits(
    events: Events, birth: Mask, start: Mask, gap_days: float | None
) -> tuple[npt.NDArray[np.uint16], Mask]:
    """Visit ordinal of each event, and which events begin a visit.

    A visit begins at a subject's first timed event other than a birth, at a start event, and at an
    event more than `gap_days` after the one before; at most one begins at one time. Static events
    and a birth before any visit have ordinal 0.

    Args:
        events: Whole subjects.
        birth: [E]
        start: [E]
        gap_days: None for no gap rule.

    Returns:
        [E] ordinal from 1 (held at 65,535), [E] whether a visit begins.
    """
    row = np.flatnonzero((events.time != STATIC) & ~birth)
    time, begins = events.time[row], start[row]
    first = np.searchsorted(row, events.offsets)  # of each subject, in `row`
    begins[first[:-1][first[:-1] < first[1:]]] = True
    if gap_days is not None:
        begins |= np.diff(time, prepend=time[:1]) > gap_days * DAY_US
    row, time = row[begins], time[begins]
    owner = _owner(row, events)
    again = (np.diff(owner, prepend=-1) == 0) & (np.diff(time, prepend=time[:1]) == 0)
    row, owner = row[~again], owner[~again]
    flags = np.zeros(len(events), bool)
    flags[row] = True
    before = np.searchsorted(row, events.offsets[:-1])
    number = np.arange(len(row)) - before[owner] + 1
    ordinal = _held(
        np.concatenate([events.offsets[:-1], row]),
        np.concatenate([np.zeros(len(before), np.int64), number]),
        len(events),
    )
    return np.minimum(ordinal, np.iinfo(np.uint16).max).astype(np.uint16), flags


def _owner(row: npt.NDArray[np.int64], events: Events) -> npt.NDArray[np.int64]:
    """Which subject each of some rows belongs to."""
    return np.searchsorted(events.offsets, row, side="right") - 1


def _held(
    start: npt.NDArray[np.int64], value: npt.NDArray[np.int64], n: int
) -> npt.NDArray[np.int64]:
    """[n] the value of the last start that is not after each row; of equal starts, the later one.

    Examples:
        >>> _held(np.array([0, 3, 1, 3]), np.array([5, 6, 7, 8]), 5)
        array([5, 7, 7, 8, 8])
    """
    order = np.argsort(start, kind="stable")
    return np.repeat(value[order], np.diff(np.append(start[order], n)))
