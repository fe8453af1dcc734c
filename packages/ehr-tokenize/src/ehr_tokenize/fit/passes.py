"""Fit a tokenizer on the train split: values to bins, then words to a vocabulary.

Both passes add up what independent stretches of events give, so they can be run over shards in any
order and by any number of workers.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from ehr_tokenize.codes.keys import code_of
from ehr_tokenize.config import TokenizeConfig
from ehr_tokenize.fit.fallback import fall_back, siblings
from ehr_tokenize.fit.rollup import roll_up
from ehr_tokenize.fit.selection import Count, select_tokens
from ehr_tokenize.meds.events import Events
from ehr_tokenize.meds.table import Stretch
from ehr_tokenize.scheme.binding import Binding, Ids, bind
from ehr_tokenize.scheme.bins import Histogram, edges
from ehr_tokenize.scheme.chronology import Rows, chronology
from ehr_tokenize.scheme.intake import Intake
from ehr_tokenize.scheme.spans import usual_seconds
from ehr_tokenize.scheme.subwords import read_subwords, train_subwords
from ehr_tokenize.scheme.words import SPANS, Fitted, Word
from ehr_tokenize.tokenizer.tokenizer import Tokenizer, descriptions
from ehr_tokenize.tokenizer.vocabulary import with_time
from ehr_tracking.arrow.meds import NO_INFO, CodeInfo

T = TypeVar("T")
_WAIT = 8
"""Parts that are waited for, at least, before they are merged."""
_DENSE = 8
"""Entries of a table for each token that is counted with it, at most."""


def fit(
    stretches: Sequence[Stretch],
    codes: Sequence[str],
    infos: Mapping[str, CodeInfo],
    config: TokenizeConfig,
    *,
    workers: int = 1,
) -> tuple[Tokenizer, Binding]:
    """Two passes over the train split.

    Args:
        stretches: The train split, in parts that fit into memory and share no subject.
        codes: Which the events' codes index.
        infos: From codes.parquet.
        config: What to fit.
        workers: Threads; each works on a stretch.

    Returns:
        The tokenizer, and it bound to the same codes: spelling them takes time where they are many.
    """
    intake = Intake.of(codes, config)
    observed = merged(_each(stretches, lambda e: observe(intake(e), config), workers))
    fitted = learn(observed, intake.codes, infos, config)
    binding, words = bind(intake, config, fitted, descriptions(infos, config))
    asked = siblings(words, config)
    parts = _each(stretches, lambda e: count_words(e, config, binding, asked), workers)
    found, settled = fall_back(counts(parts, words), fitted, config)
    if settled is not fitted:
        fitted = settled
        binding, words = bind(intake, config, fitted, descriptions(infos, config))
    tokenizer = finish(found, fitted, infos, config)
    return tokenizer, tokenizer.bind_words(binding, words)


def _each(stretches: Sequence[Stretch], apply: Callable[[Events], T], workers: int) -> Iterator[T]:
    with ThreadPoolExecutor(workers) as pool:
        work = pool.map(lambda stretch: apply(stretch()), stretches)
        yield from tqdm(work, "fitting", len(stretches), disable=None)


@dataclass(frozen=True, slots=True, eq=False)
class Observed:
    """What the first pass sees of some events, whose codes index one list of C codes."""

    histogram: Histogram
    carrier: npt.NDArray[np.int64]
    """[2, P] distinct (code, subject id) pairs; none where nothing asks for them."""
    events: npt.NDArray[np.int64]
    """[C] of each code; empty where there are none after the last that occurs."""

    @classmethod
    def merge(cls, parts: Sequence[Self]) -> Self:
        """Of the events of all parts together, which share no subject."""
        longest = max((len(p.events) for p in parts), default=0)
        events = np.zeros(longest, np.int64)
        for part in parts:
            events[: len(part.events)] += part.events
        none = np.zeros((2, 0), np.int64)
        return cls(
            Histogram.merge([p.histogram for p in parts]),
            np.concatenate([none, *(p.carrier for p in parts)], axis=1),
            events,
        )

    def __len__(self) -> int:
        """Distinct values and pairs held."""
        return len(self.histogram.key) + int(self.carrier.shape[1])


def merged(parts: Iterable[Observed]) -> Observed:
    """All parts as one, of which no more is held at a time than twice the whole and a few parts.

    Args:
        parts: Which share no subject.
    """
    found: list[Observed] = []
    for part in parts:
        found.append(part)
        rest = found[1:]
        if len(rest) >= _WAIT and sum(map(len, rest)) >= len(found[0]):  # so each is merged seldom
            found = [Observed.merge(found)]
    return Observed.merge(found)


def observe(events: Events, config: TokenizeConfig) -> Observed:
    """The first pass over whole subjects."""
    carrier = np.zeros((2, 0), np.int64)
    if config.vocabulary.roll_up or config.vocabulary.min_subjects > 1:
        n = len(events.subject_id)
        pair = np.unique(events.code.astype(np.int64) * n + events.subject())
        carrier = np.stack([pair // n, events.subject_id[pair % n]])
    return Observed(Histogram.of(events.code, events.value), carrier, np.bincount(events.code))


def learn(
    observed: Observed,
    codes: Sequence[str],
    infos: Mapping[str, CodeInfo],
    config: TokenizeConfig,
) -> Fitted:
    """Bin edges, roll-ups and subwords, from the first pass over all of train."""
    edges = choose_edges(observed.histogram, codes, config)
    few = _few(observed, codes, config.vocabulary.min_subjects)
    rolled = _rolled(observed, codes, infos, config) if config.vocabulary.roll_up else {}
    fitted = Fitted(
        edges={k: e for k, e in edges.items() if k not in few and code_of(k) not in rolled},
        rolled=rolled,
    )
    if config.scheme.codes == "whole":
        return fitted
    present = {code_of(codes[i]) for i in np.flatnonzero(observed.events).tolist()}
    described = {c: d for c in present if (d := infos.get(c, NO_INFO).description)}
    if config.scheme.codes == "hierarchy":
        return replace(fitted, descriptions=described)
    subwords = (
        read_subwords(config.subwords.path)
        if config.subwords.path
        else train_subwords([described.get(c, c) for c in present], config.subwords.size)
    )
    return replace(fitted, subwords=subwords, descriptions=described)


def _few(observed: Observed, codes: Sequence[str], min_subjects: int) -> set[str]:
    """Codes that too few subjects have for edges, which are values of theirs, to be told."""
    if min_subjects <= 1:
        return set()
    subjects = np.bincount(observed.carrier[0], minlength=len(codes))
    return {codes[i] for i in np.flatnonzero(subjects < min_subjects).tolist()}


def _rolled(
    observed: Observed,
    codes: Sequence[str],
    infos: Mapping[str, CodeInfo],
    config: TokenizeConfig,
) -> dict[str, str]:
    """Units and texts of a code are rolled up together."""
    events: dict[str, int] = {}
    for i in np.flatnonzero(observed.events).tolist():
        code = code_of(codes[i])
        events[code] = events.get(code, 0) + int(observed.events[i])
    number = {code: i for i, code in enumerate(events)}
    lookup = np.array([number.get(code_of(c), -1) for c in codes], np.int64)
    pairs = np.unique(np.stack([lookup[observed.carrier[0]], observed.carrier[1]]), axis=1)
    cuts = np.searchsorted(pairs[0], np.arange(len(events) + 1))
    subjects = {c: pairs[1, cuts[i] : cuts[i + 1]] for c, i in number.items()}
    return roll_up(events, subjects, infos, config.vocabulary)


@dataclass(frozen=True, slots=True, eq=False)
class Counted:
    """What the second pass sees of some events, whose tokens index W words."""

    total: npt.NDArray[np.int64]
    """[3, W] how often they have each word, how many subjects do, seconds it told."""
    word: npt.NDArray[np.uint32]
    """[P] ascending; of distinct pairs of a word that `siblings` asks for"""
    subject: npt.NDArray[np.int64]
    """[P] and the id of a subject that has it."""


def count_words(
    events: Events, config: TokenizeConfig, binding: Binding, asked: npt.NDArray[np.bool_]
) -> Counted:
    """Count the words of whole subjects.

    Args:
        events: Whose codes index the list that `binding` was made for.
        config: Scheme and visits.
        binding: Whose tokens index the words.
        asked: [W] of `siblings`.
    """
    n_words = len(asked)
    stays = binding.intake.stays(events)
    events = binding.intake(events)
    subject = events.subject()
    scheme = config.scheme
    adds = scheme.visits != "none" or scheme.time != "none" or scheme.age
    added = chronology(events, config, binding, stays and stays[0]).added if adds else []
    row, token = binding.spell(binding.bins.slot(events.code, events.value))
    n = len(events.subject_id)
    lead = np.repeat(binding.added.lead, n)
    all_tokens = np.concatenate([lead, token, *(p.token for p in added)])
    of = [np.arange(n), subject if row is None else subject[row], *(subject[p.row] for p in added)]
    seconds = np.zeros(n_words, np.int64)
    for piece in added:
        if piece.seconds is not None:
            np.add.at(seconds, piece.token, piece.seconds)
    owner = np.concatenate(of)
    at = np.flatnonzero(asked[all_tokens]) if asked.any() else np.zeros(0, np.int64)
    pair = np.unique(all_tokens[at].astype(np.int64) * max(1, n) + owner[at])
    return Counted(
        np.stack([*_occurrences(owner, all_tokens, (n, n_words)), seconds]),
        (pair // max(1, n)).astype(np.uint32),
        events.subject_id[pair % max(1, n)],
    )


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


def counts(parts: Iterable[Counted], words: Sequence[Word]) -> list[Count]:
    """The words that occur, from the counts of parts that share no subject."""
    total = np.zeros((3, len(words)), np.int64)
    pairs = [(np.zeros(0, np.uint32), np.zeros(0, np.int64))]
    for part in parts:
        total += part.total
        pairs.append((part.word, part.subject))
    word, subject = (np.concatenate(x) for x in zip(*pairs, strict=True))
    subject = subject[np.argsort(word, kind="stable")]
    cuts = np.concatenate([[0], np.cumsum(np.bincount(word, minlength=len(words)))])
    return [
        Count(w, row[0], row[1], row[2], who=subject[cuts[i] : cuts[i + 1]].tolist())
        for i, (w, row) in enumerate(zip(words, total.T.tolist(), strict=True))
        if row[0]
    ]


def finish(
    found: Sequence[Count],
    fitted: Fitted,
    infos: Mapping[str, CodeInfo],
    config: TokenizeConfig,
) -> Tokenizer:
    """The tokenizer, from the second pass over all of train."""
    told = {c.word.text: c.seconds / c.events for c in found if c.word.kind == "time"}
    usual = {s.text: usual_seconds(s) for s in SPANS[config.scheme.time]}
    tokens = select_tokens(found, fitted.edges, infos, config)
    if config.subwords.path:  # its content goes with the tokenizer, its place on this disk does not
        config = replace(
            config, subwords=replace(config.subwords, path=Path(config.subwords.path.name))
        )
    return Tokenizer(
        config=config,
        tokens=with_time(tokens, usual | told, config),
        fitted=fitted,
    )


def choose_edges(
    histogram: Histogram, codes: Sequence[str], config: TokenizeConfig
) -> dict[str, npt.NDArray[np.float32]]:
    """The inner bin edges of each code that gets bins."""
    values = histogram.values()
    present, where = histogram.by_code()
    chosen = {
        codes[code]: edges(values[at], histogram.count[at], config.numeric)
        for code, at in zip(present.tolist(), where, strict=True)
    }
    return {code: found for code, found in chosen.items() if len(found)}
