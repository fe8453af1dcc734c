"""Events to tokens: a pure function of (events, fitted tokenizer), in flat array operations.

N subjects, E events, T tokens.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ehr_tokenize.config import Scheme, Visits
from ehr_tokenize.events import STATIC, Events
from ehr_tokenize.timeline import ages, visits
from ehr_tokenize.tokenizer import Binding, Tokenizer
from ehr_tokenize.vocabulary import BOS, CLS, SEP


@dataclass(frozen=True, slots=True, eq=False)
class Sequences:
    """Tokens of whole subjects, one after the other, oldest first."""

    subject_id: npt.NDArray[np.int64]
    """[N]"""
    offsets: npt.NDArray[np.int64]
    """[N + 1]"""
    token: npt.NDArray[np.uint32]
    """[T] rows of the vocabulary."""
    time: npt.NDArray[np.int64]
    """[T] microseconds since 1970, or `STATIC`."""
    age: npt.NDArray[np.float32]
    """[T] days"""
    visit: npt.NDArray[np.uint16]
    """[T] ordinal from 1, 0 outside any visit"""
    segment: npt.NDArray[np.uint8] | None
    """[T] 0/1; None where the scheme has none"""


def sequences(events: Events, tokenizer: Tokenizer, binding: Binding) -> Sequences:
    """Tokenise whole subjects: one token an event, in the order of the events.

    Args:
        events: Whose codes index the list that `binding` was made for.
        tokenizer: Fitted.
        binding: `tokenizer.bind(codes)`.
    """
    birth, start = binding.birth[events.code], binding.start[events.code]
    age = ages(events, birth)
    visit, begins = visits(events, birth, start, tokenizer.config.visits.gap_days)
    token = binding.token[binding.bins.slot(events.code, events.value)]
    return lay_out(events, token, age, visit, begins, tokenizer.config.scheme)


def lay_out(
    events: Events,
    token: npt.NDArray[np.uint32],
    age: npt.NDArray[np.float32],
    visit: npt.NDArray[np.uint16],
    begins: npt.NDArray[np.bool_],
    scheme: Scheme,
) -> Sequences:
    """Add the special tokens of a scheme.

    `joint` puts [BOS] first. `visits` puts [CLS] first, and [SEP] where a later visit begins: it
    closes the visit before, and is known when the next one starts. The last visit is left open,
    since the end of the data is no event.

    Args:
        events: E events.
        token: [E]
        age: [E]
        visit: [E]
        begins: [E] whether a visit begins there.
        scheme: Which layout.

    Examples:
        >>> e = Events(np.array([7]), np.array([0, 3]), np.array([STATIC, 10, 20]),
        ...            np.zeros(3, np.uint32), np.zeros(3, np.float32))
        >>> s = lay_out(e, np.array([8, 9, 9], np.uint32), np.array([0, 1, 2], np.float32),
        ...             np.array([0, 1, 2], np.uint16), np.array([False, True, True]), Visits())
        >>> s.token, s.visit, s.segment
        (array([2, 8, 9, 3, 9], dtype=uint32), array([0, 0, 1, 1, 2], dtype=uint16), array([0, 0, 0, 0, 1], dtype=uint8))
    """
    with_visits = isinstance(scheme, Visits)
    closes = np.flatnonzero(begins & (visit > 1)) if with_visits else np.zeros(0, np.int64)
    # a token moves right by one [BOS]/[CLS] a subject so far, and by one a [SEP] so far
    shift = np.zeros(len(events), np.int64)
    shift[closes] = 1
    closed = np.cumsum(shift)
    at = np.arange(len(events)) + events.subject() + 1 + closed
    offsets = events.offsets + np.arange(len(events.offsets))
    offsets += np.concatenate([[0], closed])[events.offsets]
    first, sep = offsets[:-1], at[closes] - 1

    source = np.zeros(offsets[-1], np.int64)  # [T] the event that each token comes from
    source[at] = np.arange(len(events))
    source[sep] = closes
    token, time, age, visit = token[source], events.time[source], age[source], visit[source]
    token[first], time[first], age[first], visit[first] = CLS if with_visits else BOS, STATIC, 0, 0
    token[sep] = SEP
    visit[sep] -= 1
    return Sequences(
        subject_id=events.subject_id,
        offsets=offsets,
        token=token,
        time=time,
        age=age,
        visit=visit,
        segment=_segment(visit) if with_visits else None,
    )


def _segment(visit: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    return np.where(visit > 0, (visit + 1) % 2, 0).astype(np.uint8)
