"""Which codes are forecast, which tokens tell them, and how often they come: fitted to train records.

W vocabulary, K codes, B bins of time, V values of all codes, F tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ehr_train.data import draws
from ehr_train.data.codes import matching
from ehr_train.data.examples import Examples
from ehr_train.data.upcoming import Upcoming, ends_of_moments, next_occurrences

if TYPE_CHECKING:
    from ehr_models.data.tokens import Tokens
    from ehr_models.vocabulary import Word

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_TOKENS = 2**21
"""Tokens of train records, drawn by a hash of their subjects, that are looked at."""
_MOMENTS = 4
"""Moments of each of these records that times are measured from."""
_VALUES = 64
"""Most values of a code."""
_BIRTH = "MEDS_BIRTH"
_CODED = ("code", "value", "category", "part")
"""Kinds of tokens that stand for what happened."""
_RECORD, _MOMENT = 51, 52  # so that two uses of one hash draw differently


@dataclass(frozen=True, eq=False)
class EventCodes:
    """What tokens say of the K codes."""

    names: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    """[K] tokens of each."""
    value_ids: tuple[tuple[int, ...], ...]
    """[K] tokens that tell its value, none or at least two."""
    code_of: Integers
    """[W] the code of each token, -1 for none."""
    value_of: Integers
    """[W] which value of its code each token is, -1 for none."""
    bin_of: Integers
    """[W] which shared bin each token is, -1 for none."""
    shared: npt.NDArray[np.bool_]
    """[K] whether the value is a shared bin behind the code."""
    birth: npt.NDArray[np.bool_]
    """[W] whether each token tells of the birth."""

    def moments(self, tokens: "Tokens", index: Integers, end: Integers) -> Integers:
        """Which of some tokens are asked of: the last of each moment that something follows, but for births.

        Of a birth nothing is known, and decades may follow it without a word.

        Args:
            tokens: One split.
            index: [n] where the tokens lie in the flat arrays.
            end: [n] where what may be known of their records ends.

        Returns:
            [M] places in `index`, ascending.
        """
        asked = ends_of_moments(tokens, index, end) & ~self.birth[tokens.token[index]]
        return np.flatnonzero(asked)

    def values(self, tokens: "Tokens", found: Upcoming, end: Integers) -> Integers:
        """The value of each occurrence [P], by place in `value_ids`; -1 where it has none.

        Args:
            tokens: One split.
            found: The occurrences.
            end: [P] where what may be known of each one's record ends.
        """
        own = self.value_of[tokens.token[found.at]]
        behind = self.shared[found.code] & (found.at + 1 < end)
        following = self.bin_of[tokens.token[np.where(behind, found.at + 1, found.at)]]
        return np.where(behind, following, own)


def event_codes(
    words: "Sequence[Word]",
    train: Examples,
    most: int,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    *,
    valued: bool = True,
) -> EventCodes:
    """The codes that most train subjects have later than at the first moment of their record.

    So what is there from the start, like a birth, is none of them. A code is all tokens with its name,
    whatever value they tell; a token that is part of a code is one by itself.

    Args:
        words: Of the vocabulary.
        train: Records to count in.
        most: K at most.
        include: Patterns, one of which must be found in a code, where there are any.
        exclude: Patterns none of which may.
        valued: Whether codes have values.
    """
    names: dict[str, list[int]] = {}
    called = [word.code or word.token for word in words]
    wanted = matching(include, called) if include else np.ones(len(words), bool)
    wanted &= ~matching(exclude, called)
    for word, name, asked in zip(words, called, wanted, strict=True):
        if asked and word.kind in _CODED:
            names.setdefault(name, []).append(word.id)
    every = list(names)
    code_of = _places(len(words), [names[name] for name in every])
    bins = [w.id for w in sorted(words, key=lambda w: w.bin or 0) if w.kind == "bin"]
    bins = bins[: _VALUES * valued] if len(bins) > 1 else []
    bin_of = np.full(len(words), -1)
    bin_of[bins] = np.arange(len(bins))

    sample = _Sample.of(train)
    subjects, binned = sample.count(code_of, bin_of, len(every))
    ranked = np.argsort(-subjects, kind="stable")[:most]
    chosen = [int(k) for k in ranked if subjects[k]]
    ids = [names[every[k]] for k in chosen]
    shared = np.array(
        [len(own) == 1 and bool(binned[k]) for k, own in zip(chosen, ids, strict=True)]
    )
    value_ids = [
        bins if behind else own[: _VALUES * valued] if len(own) > 1 else []
        for own, behind in zip(ids, shared, strict=True)
    ]
    value_of = np.full(len(words), -1)
    for own, behind in zip(value_ids, shared, strict=True):
        if not behind:
            value_of[own] = np.arange(len(own))
    return EventCodes(
        names=tuple(every[k] for k in chosen),
        ids=tuple(map(tuple, ids)),
        value_ids=tuple(map(tuple, value_ids)),
        code_of=_places(len(words), ids),
        value_of=value_of,
        bin_of=bin_of,
        shared=shared.astype(bool),
        birth=np.array([(word.code or "").startswith(_BIRTH) for word in words], bool),
    )


def _places(size: int, ids: Sequence[Sequence[int]]) -> Integers:
    """[size] the list that each id is in, -1 for none."""
    place = np.full(size, -1)
    for number, own in enumerate(ids):
        place[list(own)] = number
    return place


@dataclass(frozen=True, eq=False)
class Waits:
    """Times to next occurrences from some moments of train records."""

    moment: Integers
    """[P] place of its moment among those of `seen`"""
    code: Integers
    """[P]"""
    seconds: Floats
    """[P]"""
    value: Integers
    """[P] as `EventCodes.values`"""
    seen: Floats
    """[M] from each moment to the end of its record"""

    def edges(self, bins: int) -> tuple[float, ...]:
        """0 and `bins` log-spaced seconds: from what 1% of the times are below to the longest one."""
        low = max(1.0, float(np.quantile(self.seconds, 0.01)))
        high = max(float(self.seconds.max()), 2 * low)
        return (0.0, *np.geomspace(low, high, bins).tolist())

    def hazards(self, edges: Sequence[float], codes: int) -> Floats:
        """[B, K] what is expected of each code in each bin, from events and the time that was seen.

        A bin in which little was seen takes after the code's mean rate: as if one more whole bin had
        been seen with as many events as that says.
        """
        lower, upper = np.array(edges[:-1]), np.array(edges[1:])
        bins, width = len(lower), upper - lower

        def over(seconds: Floats, b: int) -> Floats:
            share: Floats = np.clip((seconds - lower[b]) / width[b], 0, 1)
            return share

        place = np.minimum(np.searchsorted(upper, self.seconds), bins - 1)
        inside = self.seconds <= upper[-1]
        events = np.bincount(
            place[inside] * codes + self.code[inside], minlength=bins * codes
        ).reshape(bins, codes)
        exposure = np.zeros((bins, codes))
        for b in range(bins):  # as if nothing had come, without what is behind what did
            seen = over(self.seen, b)
            behind = seen[self.moment] - over(self.seconds, b)
            exposure[b] = seen.sum() - np.bincount(self.code, behind, minlength=codes)
        exposure = np.maximum(exposure, 0)
        rate = (events.sum(0) + 0.5) / (exposure * width[:, None]).sum(0).clip(min=1.0)
        found: Floats = np.clip((events + rate * width[:, None]) / (exposure + 1), 1e-8, 20.0)
        return found

    def shares(self, value_ids: Sequence[Sequence[int]]) -> Floats:
        """[V] of each value among those of its code; one more of each is counted than there were."""
        count = np.array([len(ids) for ids in value_ids])
        start = np.cumsum(count) - count
        valued = self.value >= 0
        found = 1.0 + np.bincount(
            start[self.code[valued]] + self.value[valued], minlength=int(count.sum())
        )
        owner = np.repeat(np.arange(len(count)), count)
        shares: Floats = found / np.bincount(owner, found, minlength=len(count))[owner]
        return shares


def waits(codes: EventCodes, train: Examples) -> Waits:
    """Times from a few moments of each of some train records."""
    sample = _Sample.of(train)
    tokens = train.tokens
    at, group = sample.at, sample.group
    asked = codes.moments(tokens, at, sample.end[group])
    at, group = at[asked], group[asked]
    kept = drawn(group, _MOMENTS, tokens.subject_id[sample.record[group]], at - sample.first[group])
    at, group = at[kept], group[kept]
    found = next_occurrences(tokens.token, codes.code_of, at, group, sample.end)
    seconds = (tokens.time[found.at] - tokens.time[at[found.moment]]) / 1e6
    end = sample.end[group]
    return Waits(
        moment=found.moment,
        code=found.code,
        seconds=seconds,
        value=codes.values(tokens, found, end[found.moment]),
        seen=(tokens.time[end - 1] - tokens.time[at]) / 1e6,
    )


def drawn(group: Integers, most: int, *key: npt.ArrayLike) -> Integers:
    """At most so many of each group, by the draws of their keys; ascending.

    Args:
        group: [n] never decreasing.
        most: Of each.
        key: Parts of the key of each, that broadcast to [n].
    """
    if not len(group):
        return np.zeros(0, np.int64)
    chance = np.broadcast_to(draws.bits(*key, _MOMENT), group.shape)
    order = np.lexsort((chance, group))
    _, start, count = np.unique(group, return_index=True, return_counts=True)
    rank = np.arange(len(group)) - np.repeat(start, count)
    return np.sort(order[rank < most])


@dataclass(frozen=True, eq=False)
class _Sample:
    """Some train records, one after the other."""

    record: Integers
    """[G] row of the split"""
    first: Integers
    """[G] where each begins in the flat arrays"""
    end: Integers
    """[G]"""
    at: Integers
    """[F] where each token lies in the flat arrays"""
    group: Integers
    """[F] which record it is of"""
    tokens: Any

    @classmethod
    def of(cls, train: Examples) -> "_Sample":
        """Records in the order of a hash of their subjects, as many as there is room for; at least one."""
        tokens = train.tokens
        record, place = np.unique(train.subject, return_inverse=True)
        visible = np.zeros(len(record), np.int64)
        np.maximum.at(visible, place, train.visible)
        order = draws.order(_RECORD, tokens.subject_id[record])
        kept = np.sort(order[: max(1, int((np.cumsum(visible[order]) <= _TOKENS).sum()))])
        record, visible = record[kept], visible[kept]
        first = tokens.offsets[record]
        group = np.repeat(np.arange(len(record)), visible)
        at = np.arange(len(group)) + (first - (np.cumsum(visible) - visible))[group]
        return cls(record, first, first + visible, at, group, tokens)

    def count(self, code_of: Integers, bin_of: Integers, codes: int) -> tuple[Integers, Integers]:
        """Of each code the records that have it later than at their first moment; how often a bin follows."""
        from ehr_models.data.tokens import STATIC

        time, code = self.tokens.time[self.at], code_of[self.tokens.token[self.at]]
        dated = np.flatnonzero(time != STATIC)
        groups, start = np.unique(self.group[dated], return_index=True)
        begin = np.full(len(self.record), np.iinfo(np.int64).max)
        begin[groups] = time[dated[start]]
        later = np.flatnonzero((time > begin[self.group]) & (code >= 0))
        pairs = np.unique(self.group[later] * codes + code[later])
        follows = np.zeros(len(self.at), bool)
        follows[:-1] = (bin_of[self.tokens.token[self.at[1:]]] >= 0) & (
            self.group[1:] == self.group[:-1]
        )
        return (
            np.bincount(pairs % max(codes, 1), minlength=codes),
            np.bincount(code[later][follows[later]], minlength=codes),
        )
