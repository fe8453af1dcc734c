"""Age and visit of every event, each from events that are not after it.

Both run along the rows of a subject and look back only, so truncating a record changes nothing
before the cut, and a model that reads tokens in order is never told what comes next.

N subjects, E events.
"""

import numpy as np
import numpy.typing as npt

from ehr_tokenize.events import DAY_US, STATIC, Events

Mask = npt.NDArray[np.bool_]


def ages(events: Events, birth: Mask) -> npt.NDArray[np.float32]:
    """[E] days since birth; before a birth is recorded, since the first timed event; static: 0.

    Args:
        events: Whole subjects.
        birth: [E] which events are a birth; the first timed one of a subject counts.
    """
    subject = events.subject()
    timed = events.time != STATIC
    born_at = _first(np.flatnonzero(birth & timed), subject, len(events.subject_id), len(events))
    begin_at = _first(np.flatnonzero(timed), subject, len(events.subject_id), len(events))
    time = np.append(events.time, 0)  # index E: there is none, and nothing reads it
    born = np.arange(len(events)) >= born_at[subject]
    reference = np.where(born, time[born_at][subject], time[begin_at][subject])
    days: npt.NDArray[np.float32] = (
        np.where(timed, events.time - np.where(timed, reference, 0), 0) / DAY_US
    ).astype(np.float32)
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
    subject, time = events.subject(), events.time[row]
    begins = start[row]
    begins |= np.diff(subject[row], prepend=-1) != 0
    if gap_days is not None:
        begins |= np.diff(time, prepend=time[:1]) > gap_days * DAY_US
    row, time = row[begins], time[begins]
    again = (np.diff(subject[row], prepend=-1) == 0) & (np.diff(time, prepend=time[:1]) == 0)
    flags = np.zeros(len(events), bool)
    flags[row[~again]] = True
    total = np.concatenate([[0], np.cumsum(flags)])
    ordinal = total[1:] - np.repeat(total[events.offsets[:-1]], np.diff(events.offsets))
    return np.minimum(ordinal, np.iinfo(np.uint16).max).astype(np.uint16), flags


def _first(
    rows: npt.NDArray[np.int64], subject: npt.NDArray[np.int64], n: int, missing: int
) -> npt.NDArray[np.int64]:
    """[N] the first of `rows` (ascending) of each subject, else `missing`."""
    first = np.full(n, missing, np.int64)
    first[subject[rows[::-1]]] = rows[::-1]
    return first
