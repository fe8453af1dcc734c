"""What becomes of a rare bin or text of a common code: a wider bin, else the plain code.

Only what is rare itself is unknown. A code is common if all of its events together are; then its rare
bins are merged with their neighbours, and what is still rare is told as the code alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from ehr_tokenize.codes.keys import Key, code_of
from ehr_tokenize.config import TokenizeConfig, VocabularyConfig
from ehr_tokenize.fit.selection import Count
from ehr_tokenize.scheme.words import Fitted, Speller, Word

_OF_CODES = ("value", "category", "code")


def siblings(words: Sequence[Word], config: TokenizeConfig) -> npt.NDArray[np.bool_]:
    """[W] words whose subjects `fall_back` asks for: of codes with several, where rare ones are cut."""
    if not _cuts(config.vocabulary):
        return np.zeros(len(words), bool)
    codes = [code_of(w.key) if w.key and w.kind in _OF_CODES else None for w in words]
    several: dict[str, int] = {}
    for code in codes:
        if code is not None:
            several[code] = several.get(code, 0) + 1
    return np.array([code is not None and several[code] > 1 for code in codes], bool)


@dataclass(slots=True)
class _Part:
    """Words that are told as one: neighbouring bins of a key, a text, or the plain code."""

    key: str
    first: int = 0
    """Bins first..last, from 1; 0 for a text and the plain code."""
    last: int = 0
    events: int = 0
    who: set[int] = field(default_factory=set)

    @property
    def size(self) -> tuple[int, int]:
        """Subjects, events."""
        return len(self.who), self.events

    def rare(self, limit: VocabularyConfig) -> bool:
        return self.events < limit.min_count or len(self.who) < limit.min_subjects

    def take(self, other: "_Part") -> None:
        self.events += other.events
        self.who |= other.who
        self.last = max(self.last, other.last)


def fall_back(
    found: Sequence[Count], fitted: Fitted, config: TokenizeConfig
) -> tuple[list[Count], Fitted]:
    """Counts and fit with rare bins merged, and what stays rare told as its plain code.

    The rarest bin (fewest subjects, then events, then the lower one) is merged with its rarer neighbour
    until none is rare; a code of which one bin is left has none. Rare texts are told as the plain code.
    Where too few subjects have that, the rarest bin or text joins it until it is had by enough.

    Args:
        found: Of each word that train has, with its subjects where `siblings` asks for them.
        fitted: With the edges that the words were made with.
        config: What is rare.
    """
    limit = config.vocabulary
    groups: dict[str, list[Count]] = {}
    for count in found if _cuts(limit) else ():
        if count.word.key and count.word.kind in _OF_CODES:
            groups.setdefault(code_of(count.word.key), []).append(count)
    made = _Made(Speller(config, fitted, {}), limit)
    for code, group in groups.items():
        if len(group) > 1 and any(_is_rare(c, limit) for c in group):
            made.settle(code, group)
    if not made.settled:
        return list(found), fitted
    edges = {k: made.edges.get(k, e) for k, e in fitted.edges.items()}
    fitted = replace(
        fitted,
        edges={k: e for k, e in edges.items() if len(e)},
        wider={k: made.wider[k] for k in sorted(made.wider)},
        plain={k: sorted(made.plain[k]) for k in sorted(made.plain)},
    )
    speller = Speller(config, fitted, {})
    rest = [c for c in found if c.word not in made.replaced]
    new = [
        Count(speller.words(Key.parse(p.key), p.first)[0], p.events, len(p.who), common=not p.last)
        for p in made.parts
    ]
    return rest + new, fitted


def _cuts(limit: VocabularyConfig) -> bool:
    return limit.min_count > 1 or limit.min_subjects > 1


def _is_rare(count: Count, limit: VocabularyConfig) -> bool:
    return count.events < limit.min_count or count.subjects < limit.min_subjects


class _Made:
    """What is gathered from code to code."""

    def __init__(self, speller: Speller, limit: VocabularyConfig) -> None:
        self.speller, self.limit = speller, limit
        self.edges: dict[str, npt.NDArray[np.float32]] = {}
        self.wider: dict[str, list[int]] = {}
        self.plain: dict[str, list[int]] = {}
        self.parts: list[_Part] = []
        """Each becomes a word; bins are numbered anew."""
        self.replaced: set[Word] = set()
        self.settled = False

    def settle(self, code: str, group: Sequence[Count]) -> None:
        """Merge within one code, if it is common as a whole."""
        everyone = set().union(*(c.who for c in group))
        whole = _Part(code, events=sum(c.events for c in group), who=everyone)
        if whole.rare(self.limit):
            return
        self.settled = True
        plain = _Part(code)
        kept: list[_Part] = []
        foldable = self.speller.words(Key(code), 0) == [Word(code, "code", code)]
        for key, parts in _by_key(code, group).items():
            if key == code and parts and not parts[0].first:
                plain.take(parts.pop(0))
            kept += self._bins(key, parts, plain, foldable=foldable) if parts else []
        if foldable:
            self._fold(kept, plain)
        self.replaced.update(c.word for c in group)
        self.parts += kept + ([plain] if plain.events else [])

    def _bins(self, key: str, parts: list[_Part], plain: _Part, *, foldable: bool) -> list[_Part]:
        """The parts of one key that stay; a text that is rare, or a single bin, goes into `plain`."""
        if not parts[0].first:
            if foldable and parts[0].rare(self.limit):
                plain.take(parts[0])
                self.plain[key] = [0]
                return []
            return parts
        merged = _merge(parts, self.limit, least=1 if foldable else 2)
        old = self.speller.fitted.edges[key]
        self.edges[key] = old[[p.last - 1 for p in merged[:-1]]]
        if len(merged) == 1:
            plain.take(_Part(key, events=merged[0].events, who=merged[0].who))
            self.plain[key] = [0]
            return []
        wider = [n for n, p in enumerate(merged, 1) if p.first < p.last]
        if wider:
            self.wider[key] = wider
        for number, part in enumerate(merged, 1):
            part.first = part.last = number
        return merged

    def _fold(self, kept: list[_Part], plain: _Part) -> None:
        """Let the rarest parts join the plain code where too few subjects have that."""
        while plain.events and len(plain.who) < self.limit.min_subjects and kept:
            part = kept.pop(_rarest(kept, range(len(kept))))
            self.plain.setdefault(part.key, []).append(part.first)
            plain.take(_Part(plain.key, events=part.events, who=part.who))


def _by_key(code: str, group: Sequence[Count]) -> dict[str, list[_Part]]:
    """The parts of each key in the order of their bins, every bin of them; the plain code first."""
    keys: dict[str, dict[int, _Part]] = {}
    for count in sorted(group, key=lambda c: (c.word.key != code, c.word.key or "", c.word.number)):
        word = count.word
        part = _Part(word.key or code, word.number, word.number, count.events, set(count.who))
        keys.setdefault(part.key, {})[word.number] = part
    return {key: list(parts.values()) for key, parts in keys.items()}


def _merge(parts: list[_Part], limit: VocabularyConfig, *, least: int) -> list[_Part]:
    """Bins of one key, in order, of which none is rare, or of which `least` are left."""
    parts = list(parts)
    while len(parts) > least and (rare := [i for i, p in enumerate(parts) if p.rare(limit)]):
        i = _rarest(parts, rare)
        j = _rarest(parts, [n for n in (i - 1, i + 1) if 0 <= n < len(parts)])
        low, high = min(i, j), max(i, j)
        parts[low].take(parts.pop(high))
    return parts


def _rarest(parts: Sequence[_Part], among: Iterable[int]) -> int:
    return min(among, key=lambda n: (*parts[n].size, n))
