"""For each token of a vocabulary the vector that it starts from, and how that was found."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from ehr_models.codes.mapping import Mapping as CodeMapping
from ehr_models.codes.systems import above, normal
from ehr_models.codes.vectors import Key
from ehr_models.vocabulary import Word

How = Literal["exact", "description", "parent", "random"]
HOWS: tuple[How, ...] = ("exact", "description", "parent", "random")


class Found(NamedTuple):
    """What one token starts from."""

    word: Word
    key: Key | None
    """What its code stands for; None where no rule knows it."""
    how: How
    row: int = -1
    """Of the vectors, or of those of descriptions; -1 for none."""
    used: Key | None = None
    """Whose vector it is: its own, or that of the code above."""
    level: int = 0
    """How many steps above its own code that is."""
    noisy: bool = False
    """Whether it gets some noise: the vector is of a code above, or an earlier token has it too."""


@dataclass(frozen=True, slots=True, eq=False)
class Finder:
    """Where vectors are looked up."""

    mapping: CodeMapping
    rows: Mapping[Key, int]
    """Of `look_up`."""
    descriptions: Mapping[str, int] = field(default_factory=dict)
    """Of `look_up_texts`."""
    atc_of: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """RxCUI -> ATC codes."""
    hierarchy: bool = True
    """Whether a code without a vector starts from one above it."""

    def find(self, words: Sequence[Word]) -> list[Found]:
        """One for each token that stands for a code; specials, times and the like have none.

        The bins of a code's values share its vector.
        """
        parents = {w.code: w.parents for w in words if w.code is not None and w.parents}
        codes: dict[str, Found] = {}
        taken: set[tuple[bool, int]] = set()
        found = []
        for word in words:
            if word.code is None or word.kind == "special":
                continue
            if word.code not in codes:
                codes[word.code] = self._code(word, word.code, parents)
            this = codes[word.code]
            vector = (this.how == "description", this.row)
            noisy = this.row >= 0 and (this.how == "parent" or vector in taken)
            taken.add(vector)
            found.append(this._replace(word=word, noisy=noisy))
        return found

    def _code(self, word: Word, code: str, parents: Mapping[str, Sequence[str]]) -> Found:
        key = self.mapping.locate(code)
        for name in (Key("", code), key):
            if name is not None and name in self.rows:
                return Found(word, key, "exact", self.rows[name], name)
        for text in (code, word.description):
            row = self.descriptions.get(_plain(text)) if text else None
            if row is not None:
                return Found(word, key, "description", row, Key("", text or ""))
        for level, name in self._above(code, key, parents) if self.hierarchy else ():
            if name in self.rows:
                return Found(word, key, "parent", self.rows[name], name, level)
        return Found(word, key, "random")

    def _above(
        self, code: str, key: Key | None, parents: Mapping[str, Sequence[str]]
    ) -> Iterator[tuple[int, Key]]:
        """Steps up and code, first by the coding system, then by what the vocabulary says."""
        if key is not None:
            yield from enumerate(above(key), 1)
            if key.vocabulary == "rxnorm":
                for atc in self.atc_of.get(key.code, ()):
                    yield from enumerate(_with_above(normal(Key("atc", atc))), 1)
        here, seen, level = [code], {code}, 0
        while here:
            level += 1
            here = [p for c in here for p in parents.get(c, ()) if p not in seen]
            seen.update(here)
            for parent in here:
                yield level, Key("", parent)
                known = self.mapping.locate(parent)
                if known is not None:
                    yield from enumerate(_with_above(known), level)


def _with_above(key: Key) -> list[Key]:
    return [key, *above(key)]


def look_up(keys: Sequence[Key], mapping: CodeMapping) -> dict[Key, int]:
    """Row of each code: as it is written, and as it is compared; the first of several counts.

    A name without a vocabulary, `ICD10CM/E11.9` say, is found as well by what it stands for.
    """
    rows: dict[Key, int] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, row)
    for row, key in enumerate(keys):
        known = normal(key) if key.vocabulary else mapping.locate(key.code)
        if known is not None:
            rows.setdefault(known, row)
    return rows


def look_up_texts(keys: Sequence[Key]) -> dict[str, int]:
    """Row of each description, or code; letter case and blanks do not count."""
    rows: dict[str, int] = {}
    for row, key in enumerate(keys):
        rows.setdefault(_plain(key.code), row)
    return rows


def _plain(text: str) -> str:
    """As descriptions are compared.

    Examples:
        >>> _plain(" Type 2  Diabetes")
        'type 2 diabetes'
    """
    return " ".join(text.split()).casefold()
