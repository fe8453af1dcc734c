"""Events by code, value, unit and text, and which codes of a data set they mean."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Literal

import polars as pl
from pydantic import Field
from pydantic.dataclasses import dataclass

from ehr_eval.tasks.config import Days
from ehr_tracking.config import STRICT, ConfigError, Regex

Count = Annotated[int, Field(ge=1)]
Age = Annotated[float, Field(ge=0, le=150)]
Factor = Annotated[float, Field(gt=0)]

_DIGITS = 6
"""Of a float32, what a decimal number that was written into it keeps for certain."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CodePattern:
    """Codes by a regular expression, or by a list."""

    code: Regex | None = None
    """Searched in codes."""
    codes: tuple[str, ...] = ()
    """These, whatever unit follows them (`LOINC/2823-3`, `LOINC/2823-3//mmol/L`). In a file, a table may
    stand here: `{file: codes.csv, column: code}`, its path beside the file."""
    children: bool = False
    """Those below `codes` in the data set's ontology (`parent_codes` of metadata/codes.parquet) as well.
    Labels alone."""
    without: tuple[str, ...] = ()
    """But these, and those below them with `children`. Labels alone."""

    def __post_init__(self) -> None:
        """Refuse what names no code, or names it twice.

        Raises:
            ValueError: Saying so.
        """
        if (self.code is None) == (not self.codes):
            raise ValueError("give either code, a regular expression, or codes, a list")
        if (self.children or self.without) and not self.codes:
            raise ValueError("children and without go with codes, a list")

    @property
    def regex(self) -> str:
        """The regular expression; children are in the ontology of a data set alone.

        Examples:
            >>> CodePattern(codes=("K", "LOINC/1")).regex
            '^K($|//)|^LOINC/1($|//)'
        """
        return self.code or "|".join(f"^{re.escape(code)}($|//)" for code in self.codes)

    def said(self) -> str:
        """For people: the expression, or the first few codes."""
        if self.code is not None:
            return self.code
        more = f" and {len(self.codes) - 3} more" if len(self.codes) > 3 else ""
        return ", ".join(self.codes[:3]) + more + (" and children" if self.children else "")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Span:
    """A kind of visit."""

    code: Regex
    """What begins it."""
    until: Regex
    """What ends it."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EventPattern(CodePattern):
    """Events by their code and, where a bound is set, their value; one without a value then does not count."""

    above: float | None = None
    """Only values strictly above it."""
    below: float | None = None
    """Only values strictly below it."""
    at_least: float | None = None
    """Only values that are it or above."""
    at_most: float | None = None
    """Only values that are it or below."""
    units: Mapping[str, Factor] | None = None
    """How many of a unit make one of the bounds' (`mg/dL: 18`); letter case, and what follows, do not
    matter, and an event in none of these does not count. Labels alone."""
    text: Regex | None = None
    """Only events whose text (`text_value`) it is found in. Labels alone."""
    min_age: Age | None = None
    """Only events at this age in years or later. Labels alone."""
    during: Span | None = None
    """Only events within such a visit, its ends included. Labels alone."""

    @property
    def bounded(self) -> bool:
        """Whether values matter."""
        return any(x is not None for x in (self.above, self.below, self.at_least, self.at_most))

    def holds(self, value: float) -> bool:
        """Whether a value, in the unit of the bounds, lies within them.

        Examples:
            >>> [EventPattern(code="K", above=5, at_most=6).holds(x) for x in (5, 5.5, 6, 7)]
            [False, True, True, False]
        """
        above = self.above is None or value > self.above
        below = self.below is None or value < self.below
        least = self.at_least is None or value >= self.at_least
        return above and below and least and (self.at_most is None or value <= self.at_most)

    def said(self) -> str:
        """For people, with the bounds.

        Examples:
            >>> EventPattern(code="^K", above=5, at_most=6).said()
            '^K above 5 at most 6'
        """
        bounds = ((name, getattr(self, name)) for name in ("above", "below", "at_least", "at_most"))
        told = (f"{name.replace('_', ' ')} {x:g}" for name, x in bounds if x is not None)
        return " ".join([super().said(), *told])

    def for_labels_alone(self) -> set[str]:
        """Those of its settings that only real records can tell."""
        names = ("children", "without", "units", "text", "min_age", "during")
        return {name for name in names if getattr(self, name) not in (None, False, ())}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class History(EventPattern):
    """Events up to the prediction time."""

    days: Days | None = None
    """Only so many days back, that moment included; null: ever."""
    since: Literal["record", "stay", "end"] = "record"
    """Only since the beginning of the stay, or later than its end."""
    times: Count = 1
    """At how many times at least."""


class Codebook:
    """The codes of a data set, and its ontology."""

    def __init__(
        self, codes: Sequence[str] | pl.Series, parents: Mapping[str, Sequence[str | None] | None]
    ) -> None:
        """Take them in.

        Args:
            codes: The distinct codes.
            parents: Code -> those right above it.
        """
        self.codes = pl.Series("code", codes, dtype=pl.String)
        self._below: dict[str, list[str]] = {}
        for code, above in parents.items():
            for parent in above or ():
                if parent is not None:
                    self._below.setdefault(parent, []).append(code)
        self._found: dict[tuple[object, ...], list[str]] = {}

    def of(self, pattern: CodePattern) -> list[str]:
        """The codes of the data set that a pattern means.

        Examples:
            >>> book = Codebook(["D//1", "D//12", "D//2"], {"D//12": ["D//1"], "D//2": ["E"]})
            >>> book.of(CodePattern(codes=("D//1",))), book.of(CodePattern(codes=("D//1", "E"), children=True))
            (['D//1'], ['D//1', 'D//12', 'D//2'])
        """
        key = (pattern.code, pattern.codes, pattern.children, pattern.without)
        if key not in self._found:
            if pattern.code is not None:
                found = self.codes.filter(matching(self.codes, pattern.code))
            else:
                wide = self.below if pattern.children else set
                sought, but = wide(pattern.codes), wide(pattern.without)
                is_one = [_is_named(c, sought) and not _is_named(c, but) for c in self.codes]
                found = self.codes.filter(is_one)
            self._found[key] = found.to_list()
        return self._found[key]

    def below(self, codes: Sequence[str]) -> set[str]:
        """Some codes with all below them, at any depth."""
        found, left = set(codes), list(codes)
        while left:
            new = [code for code in self._below.get(left.pop(), ()) if code not in found]
            found.update(new)
            left += new
        return found

    def regex(self, pattern: CodePattern) -> str:
        """An expression that matches these codes of the data set, or none."""
        if not (pattern.children or pattern.without):
            return pattern.regex
        return "|".join(f"^{re.escape(code)}$" for code in self.of(pattern)) or NEVER

    def events(self, pattern: EventPattern) -> pl.Expr:
        """Which events it means.

        Returns:
            Of bool, in terms of code, numeric_value, and `unit`, `text_value` and `age` (years) where
            the pattern looks at them.
        """
        found = pl.col("code").is_in(self.of(pattern))
        if pattern.bounded or pattern.units:
            found &= _within(pattern)
        if pattern.text is not None:
            matching([], pattern.text)  # said in one line, not while events are read
            found &= pl.col("text_value").str.contains(pattern.text).fill_null(False)
        if pattern.min_age is not None:
            found &= (pl.col("age") >= pattern.min_age).fill_null(False)
        return found


NEVER = "^$"
"""Matches no code of MEDS."""


def matching(codes: Sequence[str] | pl.Series, pattern: str) -> pl.Series:
    """Which of some codes a regular expression matches anywhere.

    Raises:
        ConfigError: If the expression is beyond polars, which has no look-around.

    Examples:
        >>> matching(["MEDS_DEATH", "MEDS_BIRTH"], "^MEDS_DEATH").to_list()
        [True, False]
    """
    try:
        return pl.Series(codes, dtype=pl.String).str.contains(pattern)
    except pl.exceptions.ComputeError as e:
        raise ConfigError(f"pattern {pattern!r}: {' '.join(str(e).split())}") from None


def _is_named(code: str, sought: Collection[str]) -> bool:
    """Whether a code is one of some, perhaps with parts behind it that `//` sets off."""
    end = len(code)
    while end > 0:
        if code[:end] in sought:
            return True
        end = code.rfind("//", 0, end)
    return False


def _within(pattern: EventPattern) -> pl.Expr:
    value = pl.col("numeric_value")
    there = value.is_not_null() & value.is_not_nan()
    if pattern.units is not None:
        # as written, not as float32 has it, so that 70.2 mg/dL divides as on paper
        value = value.cast(pl.Float64).round_sig_figs(_DIGITS) / _factor(pattern.units)
        there &= value.is_not_null()
    for bound, holds in (
        (pattern.above, value.gt),
        (pattern.below, value.lt),
        (pattern.at_least, value.ge),
        (pattern.at_most, value.le),
    ):
        if bound is not None:
            there &= holds(bound).fill_null(False)
    return there


def _factor(units: Mapping[str, float]) -> pl.Expr:
    """Of the unit of each event: in its column, else the last part of its code; null where it is none of these."""
    behind = pl.col("code").str.extract(r"//([^/]+(?:/[^/]+)?)$")
    unit = pl.coalesce("unit", behind).str.to_lowercase()
    found = pl.lit(None, pl.Float64)
    for name in sorted(units, key=len):  # the longest that fits counts
        found = (
            pl.when(unit.str.starts_with(name.lower())).then(pl.lit(units[name])).otherwise(found)
        )
    return found
