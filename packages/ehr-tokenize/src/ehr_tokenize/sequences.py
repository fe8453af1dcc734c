"""Events to tokens: a pure function of (events, fitted tokenizer), in flat array operations.

N subjects, E events, T tokens, F families of codes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ehr_tokenize.binding import Binding, Ids
from ehr_tokenize.config import TokenizeConfig
from ehr_tokenize.events import STATIC, Events
from ehr_tokenize.structure import Piece, Rows, pieces
from ehr_tokenize.timeline import ages, visits
from ehr_tokenize.tokenizer import Tokenizer

Number = TypeVar("Number", bound=np.generic)

_DENSE = 8
"""Entries of a table for each token that is counted with it, at most."""


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
    """[N, F, 3] events of each subject by family: told, of these with an [UNK], and excluded."""


def sequences(events: Events, tokenizer: Tokenizer, binding: Binding) -> Sequences:
    """Tokenise whole subjects, in the order of the events.

    Args:
        events: Whose codes index the list that `binding` was made for.
        tokenizer: Fitted.
        binding: `tokenizer.bind(codes)`.
    """
    config, raw = tokenizer.config, events
    events = binding.intake(raw)
    birth, start = binding.birth[events.code], binding.start[events.code]
    age = ages(events, birth)
    visit, begins = visits(events, birth, start, config.visits.gap_days)
    added = pieces(events, config.scheme, binding, birth, age, visit, begins)
    slot = binding.bins.slot(events.code, events.value)
    woven = weave(
        events,
        binding.spell(slot),
        added,
        age,
        visit,
        lead=int(binding.structure.lead[0]),
        segments=config.scheme.visits != "none",
    )
    return replace(woven, families=_families(raw, binding, slot, events))


def count_words(
    events: Events, config: TokenizeConfig, binding: Binding, n_words: int
) -> npt.NDArray[np.int64]:
    """[3, n_words] how often whole subjects have each word, how many have it, seconds it told.

    Args:
        events: Whose codes index the list that `binding` was made for.
        config: Scheme and visits.
        binding: Whose tokens index the words.
        n_words: How many there are.
    """
    events = binding.intake(events)
    subject = events.subject()
    added: list[Piece] = []
    if config.scheme.visits != "none" or config.scheme.time != "none" or config.scheme.age:
        birth, start = binding.birth[events.code], binding.start[events.code]
        visit, begins = visits(events, birth, start, config.visits.gap_days)
        added = pieces(events, config.scheme, binding, birth, ages(events, birth), visit, begins)
    row, token = binding.spell(binding.bins.slot(events.code, events.value))
    n = len(events.subject_id)
    lead = np.repeat(binding.structure.lead, n)
    all_tokens = np.concatenate([lead, token, *(p.token for p in added)])
    of = [np.arange(n), subject if row is None else subject[row], *(subject[p.row] for p in added)]
    seconds = np.zeros(n_words, np.int64)
    for piece in added:
        if piece.seconds is not None:
            np.add.at(seconds, piece.token, piece.seconds)
    return np.stack([*_occurrences(np.concatenate(of), all_tokens, (n, n_words)), seconds])


def _occurrences(subject: Rows, token: Ids, shape: tuple[int, int]) -> tuple[Rows, Rows]:
    """How often each token occurs, and in how many subjects.

    Args:
        subject: [T]
        token: [T]
        shape: Subjects and tokens that there are.

    Examples:
        >>> _occurrences(np.array([0, 0, 1]), np.array([2, 2, 2], np.uint32), (2, 3))
        (array([0, 0, 3]), array([0, 0, 2]))
    """
    n, n_tokens = shape
    pair = subject * n_tokens + token
    if n * n_tokens <= _DENSE * len(pair):  # a table of all pairs is faster than to sort them
        table = np.bincount(pair, minlength=n * n_tokens).reshape(shape)
        return table.sum(axis=0), (table > 0).sum(axis=0)
    pair.sort()
    distinct = pair[np.concatenate([[True], pair[1:] != pair[:-1]])[: len(pair)]]
    counts = (np.bincount(x, minlength=n_tokens) for x in (token, distinct % n_tokens))
    return next(counts), next(counts)


def _families(
    raw: Events, binding: Binding, slot: npt.NDArray[np.int64], events: Events
) -> npt.NDArray[np.int64]:
    n, f = len(raw.subject_id), len(binding.families)

    def count(subject: Rows, code: Ids) -> npt.NDArray[np.int64]:
        return np.bincount(subject * f + binding.family[code], minlength=n * f).reshape(n, f)

    subject = events.subject()
    total = count(subject, events.code)
    missed = np.flatnonzero(binding.unknown()[slot])
    unknown = count(subject[missed], events.code[missed])
    excluded = np.zeros_like(total)
    if len(events) < len(raw):
        excluded = count(raw.subject(), binding.intake.recode(raw).code) - total
    return np.stack([total, unknown, excluded], axis=2)


def weave(
    events: Events,
    spelled: tuple[Rows | None, Ids],
    added: Sequence[Piece],
    age: npt.NDArray[np.float32],
    visit: npt.NDArray[np.uint16],
    *,
    lead: int,
    segments: bool,
) -> Sequences:
    """Put the tokens of events and those that a scheme adds in one order.

    Args:
        events: E events.
        spelled: Event and id of each token of an event; no events where there is one each.
        added: Come before the tokens of their event, in this order.
        age: [E]
        visit: [E]
        lead: First token of every subject.
        segments: Whether to make them.

    Examples:
        >>> e = Events(np.array([7]), np.array([0, 3]), np.array([STATIC, 10, 20]),
        ...            np.zeros(3, np.uint32), np.zeros(3, np.float32))
        >>> sep = Piece(np.array([2]), np.array([3], np.uint32), closes=True)
        >>> s = weave(e, (None, np.array([8, 9, 9], np.uint32)), [sep], np.zeros(3, np.float32),
        ...           np.array([0, 1, 2], np.uint16), lead=2, segments=True)
        >>> s.token, s.visit, s.segment
        (array([2, 8, 9, 3, 9], dtype=uint32), array([0, 0, 1, 1, 2], dtype=uint16), array([0, 0, 0, 0, 1], dtype=uint8))
    """
    n, (row, token) = len(events), spelled
    own = np.ones(n, np.int64) if row is None else np.bincount(row, minlength=n)
    counts = [np.bincount(p.row, minlength=n) for p in added if len(p.row)]
    added = [p for p in added if len(p.row)]
    total = np.concatenate([[0], np.cumsum(sum(counts, start=own))])
    offsets = total[events.offsets] + np.arange(len(events.offsets))
    at = total[:-1] + events.subject() + 1  # one [BOS]/[CLS] a subject so far
    source = np.zeros(offsets[-1], np.int64)  # [T] the event that each token comes from
    out = np.full(offsets[-1], lead, np.uint32)
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

    first = offsets[:-1]
    time, age, visit = _of(events.time, source), _of(age, source), _of(visit, source)
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
        families=np.zeros((len(events.subject_id), 0, 3), np.int64),
    )


def _of(column: npt.NDArray[Number], source: Rows) -> npt.NDArray[Number]:
    """[T] of the event that each token comes from; zeros where every event is excluded."""
    return column[source] if len(column) else np.zeros(len(source), column.dtype)


def _rank(row: Rows, count: npt.NDArray[np.int64]) -> Rows:
    """[K] how many entries before this one are of the same event; `row` ascends."""
    return np.arange(len(row)) - (np.cumsum(count) - count)[row]


def _segment(visit: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    return np.where(visit > 0, (visit + 1) % 2, 0).astype(np.uint8)
