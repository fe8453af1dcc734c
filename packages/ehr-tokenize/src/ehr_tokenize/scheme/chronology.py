"""What looking back along a record tells: age and visit of every event, and the tokens that a scheme adds.

All of it runs along the rows of a subject and looks back only, so truncating a record changes nothing
before the cut, and a model that reads tokens in order is never told what comes next. A time token
tells the time since the event before, so it is known at the event after, and carries that event's
time; so does the end of a visit.

N subjects, E events.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ehr_tokenize.config import SchemeConfig, TokenizeConfig
from ehr_tokenize.meds.events import Events
from ehr_tokenize.scheme.binding import Binding, Ids
from ehr_tokenize.scheme.spans import calendar_tokens, interval_tokens
from ehr_tokenize.scheme.stays import Stays, lasting
from ehr_tracking.arrow.meds import STATIC
from ehr_tracking.arrow.parquet import DAY_US

Mask = npt.NDArray[np.bool_]
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


@dataclass(frozen=True, slots=True, eq=False)
class Chronology:
    """Of E events."""

    age: npt.NDArray[np.float32]
    """[E] days"""
    visit: npt.NDArray[np.uint16]
    """[E] ordinal from 1, 0 outside any visit"""
    added: list[Added]
    """In their order before an event."""


def chronology(
    events: Events, config: TokenizeConfig, binding: Binding, stays: Stays | None = None
) -> Chronology:
    """Look back from every event.

    Args:
        events: Whole subjects, as they become known.
        config: Scheme and visits.
        binding: Which codes are a birth or start a visit, and the ids of added tokens.
        stays: In which no visit begins.
    """
    birth, start = binding.birth[events.code], binding.start[events.code]
    age = ages(events, birth)
    visit, begins = visits(events, birth, start, config.visits.gap_days, stays)
    return Chronology(age, visit, _added(events, config.scheme, binding, birth, age, visit, begins))


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
    events: Events,
    birth: Mask,
    start: Mask,
    gap_days: float | None,
    stays: Stays | None = None,
) -> tuple[npt.NDArray[np.uint16], Mask]:
    """Visit ordinal of each event, and which events begin a visit.

    A visit begins at a subject's first timed event other than a birth, at a start event, and at an
    event more than `gap_days` after the one before; at most one begins at one time. Static events
    and a birth before any visit have ordinal 0. While a stay lasts that began before, no visit begins:
    what starts then is part of it.

    Args:
        events: Whole subjects.
        birth: [E]
        start: [E]
        gap_days: None for no gap rule.
        stays: Whose start and end are paired by an id.

    Returns:
        [E] ordinal from 1 (held at 65,535), [E] whether a visit begins.
    """
    row = np.flatnonzero((events.time != STATIC) & ~birth)
    time, begins = events.time[row], start[row]
    within = None if stays is None else lasting(stays, events.subject(), events.time)
    if within:
        begins &= ~within[0][row]
    first = np.searchsorted(row, events.offsets)  # of each subject, in `row`
    begins[first[:-1][first[:-1] < first[1:]]] = True
    if gap_days is not None:
        late = np.diff(time, prepend=time[:1]) > gap_days * DAY_US
        begins |= late & ~within[1][row] if within else late
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


def _added(
    events: Events,
    scheme: SchemeConfig,
    binding: Binding,
    birth: Mask,
    age: npt.NDArray[np.float32],
    visit: npt.NDArray[np.uint16],
    begins: Mask,
) -> list[Added]:
    """The added tokens, in their order before an event."""
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


def _spans(events: Events, birth: Mask) -> tuple[Rows, Rows]:
    """Timed events but births, without each subject's first, and the time since the one before."""
    row = np.flatnonzero((events.time != STATIC) & ~birth)
    same = np.diff(events.subject()[row]) == 0
    return row[1:][same], np.diff(events.time[row])[same]


def _age(events: Events, birth: Mask, age: npt.NDArray[np.float32], ids: Ids) -> Added:
    """Tens and ones before the first timed event of each subject whose birth is recorded by then."""
    subject = events.subject()
    row = np.flatnonzero((events.time != STATIC) & ~birth)
    row = row[np.diff(subject[row], prepend=-1) != 0]
    births = np.concatenate([[0], np.cumsum(birth & (events.time != STATIC))])
    row = row[births[row] > births[events.offsets[subject[row]]]]
    years = np.clip(np.floor(age[row].astype(np.float64) / _YEAR), 0, 99).astype(np.int64)
    token = np.stack([ids[years // 10], ids[10 + years % 10]], axis=1).ravel()
    return Added(np.repeat(row, 2), token)


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
