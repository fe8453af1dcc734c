"""What an event is called: the words of a code with a bin or a text, under each scheme.

A word is a token before it is known whether the vocabulary keeps it.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ehr_tokenize.codes.keys import Key
from ehr_tokenize.config import HierarchyConfig, Scheme, TokenizeConfig
from ehr_tokenize.scheme.spans import CALENDAR, INTERVALS, Span
from ehr_tokenize.scheme.subwords import Subwords
from ehr_tracking.contracts import SPECIALS

SPANS: dict[str, tuple[Span, ...]] = {"none": (), "interval": INTERVALS, "calendar": CALENDAR}
"""`scheme.time` -> its tokens."""
VISIT_START, VISIT_END = "[VS]", "[VE]"
_ICD10CM = re.compile(r"[A-Z]\d[0-9A-Z](\.?[0-9A-Z]{1,4})?")
_ICD10PCS = re.compile(r"[0-9A-HJ-NP-Z]{7}")
_ATC = re.compile(r"[A-Z]\d\d([A-Z]([A-Z](\d\d)?)?)?")


class Word(NamedTuple):
    """A token to be."""

    text: str
    kind: str
    key: str | None = None
    """Of the one code (with unit or text) that it stands for."""
    number: int = 0
    """Bin of the value, from 1; 0 where it carries none."""


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """What is learned from the train split beside the vocabulary."""

    edges: Mapping[str, npt.NDArray[np.float32]]
    """Inner bin edges of each key that has bins, ascending."""
    rolled: Mapping[str, str] = field(default_factory=dict)
    """Rare code -> the parent that stands for it."""
    subwords: str | None = None
    """A `tokenizer.json` of the library tokenizers."""
    descriptions: Mapping[str, str] = field(default_factory=dict)
    """Of train's codes, where a code is more than one token."""
    wider: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Key -> its bins that were made of several, since too few subjects or events were in one."""
    plain: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Key -> its bins that are told as the plain code for that reason; 0: its text, or all values."""


class Speller:
    """Words under one config and fit."""

    def __init__(
        self, config: TokenizeConfig, fitted: Fitted, descriptions: Mapping[str, str]
    ) -> None:
        """Get ready.

        Args:
            config: Whose scheme to spell in.
            fitted: Edges, rolled codes and subwords.
            descriptions: Of codes that the fit has not seen.
        """
        self.scheme: Scheme = config.scheme
        self.fitted = fitted
        self.falls_back = bool(fitted.rolled or fitted.wider or fitted.plain)
        """Whether any event is told by less than it says."""
        self.descriptions = {**descriptions, **fitted.descriptions}
        self.systems = _systems(config.hierarchy)
        self.subwords = Subwords(fitted.subwords) if fitted.subwords else None

    def words(self, key: Key, number: int) -> list[Word]:
        """The words of an event, at least one."""
        if self.falls_back:
            if key.code in self.fitted.rolled:
                parent = self.fitted.rolled[key.code]
                return [Word(parent, "code", parent)]
            if number in self.fitted.plain.get(str(key), ()):
                return self._code(key._replace(text=""))
        if number and self.scheme.values == "joint":
            return [self._joint(key, number)]
        if key.text and self.scheme.codes != "description":
            return [Word(f"{key.code} || {key.text}", "category", str(key))]
        words = self._code(key)
        return [*words, quantile(number)] if number and self.scheme.values == "shared" else words

    def step(self, key: Key, number: int) -> int:
        """How far an event falls back: 0 not, 1 to a wider bin, 2 to the plain code, 3 to a parent."""
        if not self.falls_back:
            return 0
        if key.code in self.fitted.rolled:
            return 3
        name = str(key)
        if number in self.fitted.plain.get(name, ()):
            return 2 if number or key.text else 0
        return int(number in self.fitted.wider.get(name, ()))

    def _joint(self, key: Key, number: int) -> Word:
        if not self.scheme.units:
            return Word(f"{key.code}//Q{number}", "value", str(key), number)
        lower, upper = bounds(self.fitted.edges[str(key)], number)
        unit = f"{key.unit} || " if key.unit else ""
        return Word(f"{key.code} || {unit}{lower} - {upper}", "value", str(key), number)

    def _code(self, key: Key) -> list[Word]:
        if self.subwords:
            text = f"{self.descriptions.get(key.code) or key.code} {key.text}"
            pieces = self.subwords.split(text)
            words = [Word("[UNK]", "special") if p in SPECIALS else Word(p, "text") for p in pieces]
        else:
            words = levels(key.code, self.systems) if self.scheme.codes == "hierarchy" else []
        return words or [Word(key.code, "code", key.code)]


Edge = float | np.float32


def bounds(edges: Sequence[float] | npt.NDArray[np.float32], number: int) -> tuple[Edge, Edge]:
    """Lower (inclusive) and upper (exclusive) bound of a bin; the outer ones are infinite.

    Examples:
        >>> bounds([1.0, 2.0], 3)
        (2.0, inf)
    """
    lower = edges[number - 2] if number > 1 else -math.inf
    upper = edges[number - 1] if number <= len(edges) else math.inf
    return lower, upper


def quantile(number: int) -> Word:
    """The shared token of a bin."""
    return Word(f"Q{number}", "bin", None, number)


def added_words(config: TokenizeConfig) -> list[Word]:
    """Words that a scheme adds between events; always in the vocabulary, whatever train holds."""
    scheme = config.scheme
    words = [Word(text, "special") for text in (*scheme.leads, "[SEP]")]
    words += [Word(span.text, "time") for span in SPANS[scheme.time]]
    if scheme.age:
        words += [Word(f"AGE//{10 * tens}", "age") for tens in range(10)]
        words += [Word(f"AGE//+{ones}", "age") for ones in range(10)]
    if scheme.visits == "start_end":
        words += [Word(VISIT_START, "visit"), Word(VISIT_END, "visit")]
    if scheme.values == "shared":
        words += [quantile(n) for n in range(1, config.numeric.n_bins + 1)]
    return words


Systems = list[tuple[re.Pattern[str], str]]


def _systems(config: HierarchyConfig) -> Systems:
    return [
        (re.compile(pattern), name)
        for name in ("icd10cm", "icd10pcs", "atc")
        for pattern in getattr(config, name)
    ]


def levels(code: str, systems: Systems) -> list[Word]:
    """A code of a known system as its levels; none for any other code.

    Examples:
        >>> s = _systems(HierarchyConfig())
        >>> [w.text for w in levels("ICD10CM/S72.001A", s)]
        ['ICD10CM/S72', 'ICD10CM/3-6//.001', 'ICD10CM/SFX//A']
        >>> [w.text for w in levels("ATC//A10BA02", s)], levels("LAB//1", s)
        (['ATC//A10', 'ATC//4//B', 'ATC//SFX//A02'], [])
        >>> [w.text for w in levels("ICD10PCS/0DTJ4ZZ", s)][:3]
        ['ICD10PCS/0', 'ICD10PCS/CHAR//D', 'ICD10PCS/CHAR//T']
    """
    for pattern, system in systems:
        found = pattern.search(code)
        if found:
            prefix, rest = code[: found.end()], code[found.end() :]
            pieces = _PIECES[system](rest)
            if pieces:
                head, *tail = pieces
                words = [Word(prefix + head, "code", prefix + head)]
                return words + [Word(f"{prefix}{name}", "part") for name in tail]
    return []


def _icd10cm(code: str) -> list[str]:
    if not _ICD10CM.fullmatch(code):
        return []
    cut = 7 if code[3:4] == "." else 6  # the dot stays with what follows it
    return _named(code[:3], ("3-6", code[3:cut]), ("SFX", code[cut:]))


def _icd10pcs(code: str) -> list[str]:
    if not _ICD10PCS.fullmatch(code):
        return []
    return _named(code[0], *(("CHAR", c) for c in code[1:]))


def _atc(code: str) -> list[str]:
    return _named(code[:3], ("4", code[3:4]), ("SFX", code[4:])) if _ATC.fullmatch(code) else []


def _named(head: str, *parts: tuple[str, str]) -> list[str]:
    return [head, *(f"{name}//{piece}" for name, piece in parts if piece)]


_PIECES = {"icd10cm": _icd10cm, "icd10pcs": _icd10pcs, "atc": _atc}
