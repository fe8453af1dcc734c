"""Events to tokens: a pure function of (events, fitted tokenizer), in flat array operations.

N subjects, E events, T tokens, F families of codes.
"""

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ehr_tokenize.config import TokenizeConfig
from ehr_tokenize.meds.events import Events
from ehr_tokenize.scheme.binding import Binding, Ids
from ehr_tokenize.scheme.chronology import Chronology, Rows, chronology
from ehr_tracking.arrow.meds import STATIC

COUNTED = 7
"""What is counted of a family of codes."""
Number = TypeVar("Number", bound=np.generic)


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
    families: npt.NDArray[np.int64]
    """[N, F, 7] events of each subject by family: told, of these with an [UNK], excluded; of those told
    by a wider bin, by the plain code, by a parent, since they are too rare; starts and ends of stays
    with an id of which the other side is not recorded."""


def sequences(raw: Events, config: TokenizeConfig, binding: Binding) -> Sequences:
    """Tokenise whole subjects, in the order of the events.

    Args:
        raw: Events whose codes index the list that `binding` was made for.
        config: Of the fitted tokenizer.
        binding: `Tokenizer.bind(codes)`.
    """
    events, stays = binding.intake(raw), binding.intake.stays(raw)
    told = chronology(events, config, binding, stays and stays[0])
    slot = binding.bins.slot(events.code, events.value)
    woven = weave(
        events,
        binding.spell(slot),
        told,
        lead=binding.added.lead,
        segments=config.scheme.visits != "none",
    )
    unpaired = stays[1] if stays else np.zeros(0, np.int64)
    return replace(woven, families=_families(raw, binding, slot, events, unpaired))


def _families(
    raw: Events, binding: Binding, slot: npt.NDArray[np.int64], events: Events, unpaired: Rows
) -> npt.NDArray[np.int64]:
    n, f = len(raw.subject_id), len(binding.families)

    def count(subject: Rows, code: Ids) -> npt.NDArray[np.int64]:
        return np.bincount(subject * f + binding.family[code], minlength=n * f).reshape(n, f)

    subject = events.subject()
    total = count(subject, events.code)
    missed = np.flatnonzero(binding.unknown()[slot])
    unknown = count(subject[missed], events.code[missed])
    excluded, alone = np.zeros_like(total), np.zeros_like(total)
    if len(events) < len(raw) or len(unpaired):
        subject_raw, code_raw = raw.subject(), binding.intake.recode(raw).code
        excluded = count(subject_raw, code_raw) - total
        alone = count(subject_raw[unpaired], code_raw[unpaired])
    step = binding.steps(events.code, events.value, slot)
    step[missed] = 0  # told by nothing
    fallen = [np.flatnonzero(step == n) for n in (1, 2, 3)]
    told = [count(subject[row], events.code[row]) for row in fallen]
    return np.stack([total, unknown, excluded, *told, alone], axis=2)


def weave(
    events: Events,
    spelled: tuple[Rows | None, Ids],
    told: Chronology,
    *,
    lead: Ids,
    segments: bool,
) -> Sequences:
    """Put the tokens of events and those that a scheme adds in one order.

    Args:
        events: E events.
        spelled: Event and id of each token of an event; no events where there is one each.
        told: Their ages and visits, and the tokens that come before theirs.
        lead: First tokens of every subject.
        segments: Whether to make them.

    Examples:
        >>> from ehr_tokenize.scheme.chronology import Added
        >>> e = Events(np.array([7]), np.array([0, 3]), np.array([STATIC, 10, 20]),
        ...            np.zeros(3, np.uint32), np.zeros(3, np.float32))
        >>> sep = Added(np.array([2]), np.array([3], np.uint32), closes=True)
        >>> told = Chronology(np.zeros(3, np.float32), np.array([0, 1, 2], np.uint16), [sep])
        >>> s = weave(e, (None, np.array([8, 9, 9], np.uint32)), told, lead=np.array([2], np.uint32), segments=True)
        >>> s.token, s.visit, s.segment
        (array([2, 8, 9, 3, 9], dtype=uint32), array([0, 0, 1, 1, 2], dtype=uint16), array([0, 0, 0, 0, 1], dtype=uint8))
    """
    n, (row, token) = len(events), spelled
    own = np.ones(n, np.int64) if row is None else np.bincount(row, minlength=n)
    added = [p for p in told.added if len(p.row)]
    counts = [np.bincount(p.row, minlength=n) for p in added]
    total = np.concatenate([[0], np.cumsum(sum(counts, start=own))])
    offsets = total[events.offsets] + len(lead) * np.arange(len(events.offsets))
    at = total[:-1] + len(lead) * (events.subject() + 1)  # so far [BOS] or [CLS] alone
    source = np.zeros(offsets[-1], np.int64)  # [T] the event that each token comes from
    out = np.zeros(offsets[-1], np.uint32)
    closing = []
    for piece, count in zip(added, counts, strict=True):
        where = at[piece.row] + _rank(piece.row, count)
        source[where], out[where] = piece.row, piece.token
        if piece.closes:
            closing.append(where)
        at += count
    where = at if row is None else at[row] + _rank(row, own)
    source[where] = np.arange(n) if row is None else row
    out[where] = token

    first = offsets[:-1, None] + np.arange(len(lead))
    out[first] = lead
    time, age, visit = _of(events.time, source), _of(told.age, source), _of(told.visit, source)
    time[first], age[first], visit[first] = STATIC, 0, 0
    for where in closing:
        visit[where] -= 1
    return Sequences(
        subject_id=events.subject_id,
        offsets=offsets,
        token=out,
        time=time,
        age=age,
        visit=visit,
        segment=_segment(visit) if segments else None,
        families=np.zeros((len(events.subject_id), 0, COUNTED), np.int64),
    )


def _of(column: npt.NDArray[Number], source: Rows) -> npt.NDArray[Number]:
    """[T] of the event that each token comes from; zeros where every event is excluded."""
    return column[source] if len(column) else np.zeros(len(source), column.dtype)


def _rank(row: Rows, count: npt.NDArray[np.int64]) -> Rows:
    """[K] how many entries before this one are of the same event; `row` ascends."""
    return np.arange(len(row)) - (np.cumsum(count) - count)[row]


def _segment(visit: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    return np.where(visit > 0, (visit + 1) % 2, 0).astype(np.uint8)
