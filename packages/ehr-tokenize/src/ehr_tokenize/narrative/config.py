"""How a record is told."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from ehr_tokenize.codes.units import NO_UNIT, UNIT_CODES
from ehr_tracking.config import STRICT, Regex, regex


def _unit_regex(pattern: str) -> str:
    if "unit" not in re.compile(regex(pattern)).groupindex:
        raise ValueError(f"{pattern!r} has no group (?P<unit>...)")
    return pattern


def _nine(edges: tuple[float, ...]) -> tuple[float, ...]:
    if len(edges) != 9 or list(edges) != sorted(edges):
        raise ValueError("deciles have nine edges, none below the one before")
    return edges


UnitRegex = Annotated[str, AfterValidator(_unit_regex)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TermTable:
    """A table of terms that wins over codes.parquet."""

    table: Path
    """CSV or Parquet with the columns `code` and `term`, relative to the working directory."""
    prefix: str = ""
    """Written before each code of the table, e.g. `LAB//`; compared exactly."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NarrateConfig:
    """All of `ehr-tokenize narrate`; the defaults run."""

    gap_days: float = Field(default=0.0, ge=0, le=36_525)
    """With a gap, events before (prediction time - gap) only; without, up to and including it."""
    gap_months: int = Field(default=0, ge=0, le=1200)
    """The same in months of the calendar, before the days of `gap_days`."""
    separator: str = Field(default=", ", min_length=1)
    """Between two pieces of text."""
    age: Literal["years", "decile"] = "years"
    """`age 52 years`, or `AGE_decile 5`: among the subjects of train at the end of their records."""
    age_edges: Annotated[tuple[float, ...], AfterValidator(_nine)] | None = None
    """Nine ages in years between the deciles, as the manifest of other narratives has them; null: fitted."""
    dates: Literal["none", "relative", "absolute"] = "none"
    """Before the first event of a day: nothing, `12 days before:`, or `2150-01-31:`."""
    max_words: int | None = Field(default=None, ge=1)
    """Leave out the oldest events until no more words remain; demographics always stay."""
    max_characters: int | None = Field(default=None, ge=1)
    """The same in characters; with both, both hold."""
    terms: dict[str, str] = Field(default_factory=dict)
    """Code -> term, before `lookups`."""
    lookups: tuple[TermTable, ...] = ()
    """In order of precedence, before codes.parquet."""
    prefixes: dict[str, str] = Field(default_factory=dict)
    """How the beginning of a code is said, e.g. `{INSURANCE: insurance}`; added to `terms.PREFIXES`.
    One that is in neither is left out."""
    demographics: tuple[Regex, ...] = (
        r"^(?i:GENDER|SEX|RACE|ETHNICITY)(/|$)",
        r"^(?i:MARITAL_STATUS|LANGUAGE|INSURANCE)(/|$)",
    )
    """Searched in a code: told first and never left out, like static events. Of those with a time,
    the last that is visible counts."""
    delay: dict[Regex, Annotated[float, Field(ge=0, le=36_525)]] | None = None
    """Searched in a code -> days after which its events become known, the first that fits; null: as
    the tokens that are given, or that `bins` names, have it."""
    exclude: tuple[Regex, ...] = ()
    """Searched in a code: not told."""
    unit_codes: tuple[UnitRegex, ...] = UNIT_CODES
    """Searched in a code: its group `unit` is the unit, not part of what is measured."""
    no_unit: tuple[str, ...] = NO_UNIT
    """What stands for an absent unit."""
    bins: Path | None = None
    """A token data set or tokenizer: a value is told by its bin there (`Glucose 5 to 7 mmol/L`), where
    its code has bins; else by its number."""
    bin_names: Literal["range", "number"] = "range"
    """How a bin is told: by its bounds and unit, or by its number, from 1 (`Glucose 5`)."""
    text_values: bool = True
    """Tell `text_value` where there is no `numeric_value`; a clinical note is one too."""
    seed: int = 0
    """Of the split by hash, where the data set names no splits."""
