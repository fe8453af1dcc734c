"""What a scheme adds between events: visit markers, time tokens, the age at the beginning.

All of it looks back only. A time token tells the time since the event before, so it is known at the
event after, and carries that event's time; so does the end of a visit.

E events.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ehr_tokenize.config import SchemeConfig
from ehr_tokenize.meds.events import Events
from ehr_tokenize.scheme.binding import Binding, Ids
from ehr_tokenize.scheme.spans import calendar_tokens, interval_tokens
from ehr_tracking.arrow.meds import STATIC

Rows = npt.NDArray[np.int64]
_YEAR = 365.25


@dataclass(frozen=True, slots=True, eq=False)
class Added:
    """Tokens put before events."""

    row: Rows
    """[K] which event, ascending; again for a further token there"""
    token: Ids
    """[K]"""
    closes: bool = False
    """Belongs to the visit before."""
    seconds: Rows | None = None
    """[K] that a time token tells"""


def added_tokens(
    events: Events,
    scheme: SchemeConfig,
    binding: Binding,
    birth: npt.NDArray[np.bool_],
    age: npt.NDArray[np.float32],
    visit: npt.NDArray[np.uint16],
    begins: npt.NDArray[np.bool_],
) -> list[Added]:
    """The added tokens, in their order before an event.

    Args:
        events: Whole subjects.
        scheme: Which tokens.
        binding: Their ids.
        birth: [E]
        age: [E] days
        visit: [E] ordinal
        begins: [E] whether a visit begins there.
    """
    ids = binding.added
    made = []
    later = np.flatnonzero(begins & (visit > 1))
    if scheme.visits != "none":
        end = ids.sep if scheme.visits == "sep" else ids.visit[1:]
        made.append(Added(later, np.repeat(end, len(later)), closes=True))
    if scheme.time == "interval":
        row, since = _spans(events, birth)
        which, number, seconds = interval_tokens(since)
        made.append(Added(row[which], ids.time[number], seconds=seconds))
    if scheme.time == "calendar":
        row, since = _spans(events, birth)
        since = since[np.isin(row, later, assume_unique=True)]
        made.append(Added(later, ids.time[calendar_tokens(since)], seconds=since // 1_000_000))
    if scheme.age:
        made.append(_age(events, birth, age, ids.age))
    if scheme.visits == "start_end":
        first = np.flatnonzero(begins)
        made.append(Added(first, np.repeat(ids.visit[:1], len(first))))
    return made


def _spans(events: Events, birth: npt.NDArray[np.bool_]) -> tuple[Rows, Rows]:
    """Timed events but births, without each subject's first, and the time since the one before."""
    row = np.flatnonzero((events.time != STATIC) & ~birth)
    same = np.diff(events.subject()[row]) == 0
    return row[1:][same], np.diff(events.time[row])[same]


def _age(
    events: Events, birth: npt.NDArray[np.bool_], age: npt.NDArray[np.float32], ids: Ids
) -> Added:
    """Tens and ones before the first timed event of each subject whose birth is recorded by then."""
    subject = events.subject()
    row = np.flatnonzero((events.time != STATIC) & ~birth)
    row = row[np.diff(subject[row], prepend=-1) != 0]
    births = np.concatenate([[0], np.cumsum(birth & (events.time != STATIC))])
    row = row[births[row] > births[events.offsets[subject[row]]]]
    years = np.clip(np.floor(age[row].astype(np.float64) / _YEAR), 0, 99).astype(np.int64)
    token = np.stack([ids[years // 10], ids[10 + years % 10]], axis=1).ravel()
    return Added(np.repeat(row, 2), token)
