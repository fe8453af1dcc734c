"""Other codes for the codes of a data set: from tables a user brings, or by cutting to a level.

Works on the list of distinct codes, never on events, so its cost does not grow with the data. One
code becomes exactly one code: an event stays one event, and none is lost.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag
from pydantic.dataclasses import dataclass

from ehr_tokenize.codes.pairs import read_pairs
from ehr_tracking.config import STRICT, ConfigError
from ehr_tracking.errors import UserError

_ALIASED = ConfigDict(**STRICT, validate_by_alias=True, validate_by_name=True)
"""`from` is no Python name: the field is `from_`, and either spelling is read."""
_EXAMPLES = 10
_ATC_CHARACTERS = (1, 3, 4, 5, 7)
"""Of levels 1 to 5: anatomical, therapeutic, pharmacological, chemical, substance (WHO)."""
_ATC = re.compile(r"[A-Z](\d\d([A-Z]([A-Z](\d\d)?)?)?)?")
_ICD9 = re.compile(r"(\d{3}|V\d\d|E\d{3})(?:\.?(\d{1,2}))?")
_PHECODE = re.compile(r"(\d{1,3})(?:\.(\d{1,2}))?")
_ICD10 = re.compile(r"([A-Z]\d[0-9A-Z])(?:\.?([0-9A-Z]{1,4}))?")


@dataclass(frozen=True, kw_only=True, config=_ALIASED)
class TableMap:
    """Codes by a table with the columns `from` and `to`: ICD-9 to ICD-10, ICD to phecode, NDC to ATC."""

    kind: Literal["table"] = "table"
    table: Path | None = None
    """CSV (UTF-8) or Parquet, relative to the working directory."""
    entries: dict[str, str] | None = None
    """The table itself, in place of `table`; what `resolve` makes of it."""
    from_: str = Field(default="", validation_alias="from")
    """Only codes that begin so are mapped; what follows is looked up, exactly as it stands."""
    to: str = ""
    """Written before what was found."""
    many: Literal["error", "first"] = "error"
    """A key with several targets: refuse the table, or take the first in its order."""


@dataclass(frozen=True, kw_only=True, config=_ALIASED)
class Icd10Level:
    """ICD-10 and ICD-10-CM codes cut to a number of characters, the dot not counted."""

    kind: Literal["icd10"] = "icd10"
    from_: str = Field(validation_alias="from", min_length=1)
    """Only codes that begin so are cut; the beginning stays."""
    characters: int = Field(ge=3, le=7)
    """3 is the category (E11.9 -> E11)."""


@dataclass(frozen=True, kw_only=True, config=_ALIASED)
class Icd9Level:
    """ICD-9-CM diagnoses cut to a number of characters, neither the dot nor a leading E counted."""

    kind: Literal["icd9"] = "icd9"
    from_: str = Field(validation_alias="from", min_length=1)
    """Only codes that begin so are cut; the beginning stays."""
    characters: int = Field(ge=3, le=5)
    """3 is the category (250.02 -> 250, E885.9 -> E885)."""


@dataclass(frozen=True, kw_only=True, config=_ALIASED)
class PhecodeLevel:
    """Phecodes cut to a number of decimals."""

    kind: Literal["phecode"] = "phecode"
    from_: str = Field(validation_alias="from", min_length=1)
    """Only codes that begin so are cut; the beginning stays."""
    decimals: int = Field(ge=0, le=2)
    """0 is the category (250.11 -> 250)."""


@dataclass(frozen=True, kw_only=True, config=_ALIASED)
class AtcLevel:
    """ATC codes cut to a level."""

    kind: Literal["atc"] = "atc"
    from_: str = Field(validation_alias="from", min_length=1)
    """Only codes that begin so are cut; the beginning stays."""
    level: int = Field(ge=1, le=5)
    """1 to 5: 1, 3, 4, 5 and 7 characters."""


_Level = Icd10Level | Icd9Level | PhecodeLevel | AtcLevel


def _kind(step: Any) -> str:  # noqa: ANN401 -- what pydantic was given
    found = step.get("kind", "table") if isinstance(step, Mapping) else getattr(step, "kind", "")
    return str(found)


MapStep = Annotated[
    Annotated[TableMap, Tag("table")]
    | Annotated[Icd10Level, Tag("icd10")]
    | Annotated[Icd9Level, Tag("icd9")]
    | Annotated[PhecodeLevel, Tag("phecode")]
    | Annotated[AtcLevel, Tag("atc")],
    Discriminator(_kind),
]
"""One step; `kind` may be left out of a table."""


@plain_dataclass(frozen=True, slots=True)
class MapReport:
    """What one step did, in distinct codes."""

    name: str
    candidates: int
    """Codes that begin with `from`."""
    mapped: int
    """Of these, those for which the step has an answer, the same code included."""
    unmapped: int
    """Of these, those that it does not know; they are kept as they are."""
    ambiguous: int
    """Of those mapped, by the first of several targets."""
    events_mapped: int
    """Events behind these codes; 0 where no counts were given."""
    events_unmapped: int
    examples: tuple[str, ...]
    """A few unmapped codes: those with most events, ties by code."""

    def line(self) -> str:
        """For a terminal."""
        share = f"{self.mapped:,} of {self.candidates:,} codes mapped, {self.unmapped:,} kept as they were"
        first = f" ({self.ambiguous:,} by the first of several targets)" if self.ambiguous else ""
        events = f" ({self.events_unmapped:,} events)" if self.events_unmapped else ""
        example = f", such as {', '.join(self.examples[:3])}" if self.examples else ""
        return f"{self.name}: {share}{events}{first}{example}"


@plain_dataclass(frozen=True, slots=True)
class MappedCodes:
    """Codes after all steps."""

    codes: list[str]
    """As many as went in, in their order."""
    report: tuple[MapReport, ...]
    """One a step."""


def resolve(maps: Sequence[MapStep]) -> tuple[MapStep, ...]:
    """The same steps with their tables read in, so that they no longer depend on any file.

    Raises:
        ConfigError: If a step names both or neither of `table` and `entries`.
        UserError: If a table cannot be read, or has a key with several targets and `many: error`.
    """
    return tuple(_read(s) if isinstance(s, TableMap) else s for s in maps)


def apply_maps(
    codes: Sequence[str], maps: Sequence[MapStep], counts: Sequence[int] | None = None
) -> MappedCodes:
    """Give every code its other code; what a step does not know is kept and counted.

    Steps run in order, each on what the one before made of the codes.

    Args:
        codes: Distinct codes of a data set.
        maps: Steps; tables that are not yet read in are.
        counts: Events of each code, for the report.

    Raises:
        ConfigError: If a step names both or neither of `table` and `entries`.
        UserError: If a table cannot be read, or has a key with several targets and `many: error`.

    Examples:
        >>> steps = [
        ...     TableMap(entries={"250.00": "E11.9"}, from_="ICD9CM//", to="ICD10CM//"),
        ...     Icd10Level(from_="ICD10CM//", characters=3),
        ... ]
        >>> done = apply_maps(["ICD9CM//250.00", "ICD9CM//V99", "LAB//1"], steps)
        >>> done.codes
        ['ICD10CM//E11', 'ICD9CM//V99', 'LAB//1']
        >>> [(r.mapped, r.unmapped) for r in done.report]
        [(1, 1), (1, 0)]
    """
    events = [0] * len(codes) if counts is None else list(counts)
    current, reports = list(codes), []
    for step in maps:
        current, report = _apply(step, current, events)
        reports.append(report)
    return MappedCodes(current, tuple(reports))


def cut_icd10(code: str, characters: int) -> str | None:
    """An ICD-10 code cut to so many characters, the dot not counted; None for what is no such code.

    Examples:
        >>> cut_icd10("E11.65", 4), cut_icd10("E1165", 4), cut_icd10("E11.65", 3), cut_icd10("I10", 4)
        ('E11.6', 'E116', 'E11', 'I10')
        >>> cut_icd10("250.00", 3)
    """
    return _cut(_ICD10.fullmatch(code), code, characters - 3)


def cut_icd9(code: str, characters: int) -> str | None:
    """An ICD-9-CM diagnosis cut to so many characters; None for what is no such code.

    Examples:
        >>> cut_icd9("250.02", 4), cut_icd9("25002", 3), cut_icd9("E885.9", 3), cut_icd9("V58.67", 4)
        ('250.0', '250', 'E885', 'V58.6')
        >>> cut_icd9("E11.9", 3)
    """
    return _cut(_ICD9.fullmatch(code), code, characters - 3)


def cut_phecode(code: str, decimals: int) -> str | None:
    """A phecode cut to so many decimals; None for what is no such code.

    Examples:
        >>> [cut_phecode("250.11", n) for n in (2, 1, 0)], cut_phecode("008.5", 0)
        (['250.11', '250.1', '250'], '008')
    """
    return _cut(_PHECODE.fullmatch(code), code, decimals)


def _cut(match: re.Match[str] | None, code: str, length: int) -> str | None:
    """The category, and so many characters of what follows it."""
    if not match:
        return None
    rest = (match[2] or "")[:length]
    dot = "." if rest and "." in code else ""
    return f"{match[1]}{dot}{rest}"


def cut_atc(code: str, level: int) -> str | None:
    """An ATC code cut to a level; one that is above it stays; None for what is no ATC code.

    Examples:
        >>> [cut_atc("A10BA02", level) for level in (1, 2, 3, 4, 5)], cut_atc("A10", 4)
        (['A', 'A10', 'A10B', 'A10BA', 'A10BA02'], 'A10')
        >>> cut_atc("metformin", 1)
    """
    return code[: _ATC_CHARACTERS[level - 1]] if _ATC.fullmatch(code) else None


def _apply(step: MapStep, codes: list[str], events: list[int]) -> tuple[list[str], MapReport]:
    find, several = _finder(step)
    out, unmapped = list(codes), list[int]()
    candidates = ambiguous = events_mapped = 0
    for i, code in enumerate(codes):
        if not code.startswith(step.from_):
            continue
        candidates += 1
        rest = code[len(step.from_) :]
        found = find(rest)
        if found is None:
            unmapped.append(i)
            continue
        out[i] = found
        events_mapped += events[i]
        ambiguous += rest in several
    unmapped.sort(key=lambda i: (-events[i], codes[i]))
    report = MapReport(
        name=map_name(step),
        candidates=candidates,
        mapped=candidates - len(unmapped),
        unmapped=len(unmapped),
        ambiguous=ambiguous,
        events_mapped=events_mapped,
        events_unmapped=sum(events[i] for i in unmapped),
        examples=tuple(codes[i] for i in unmapped[:_EXAMPLES]),
    )
    return out, report


def _finder(step: MapStep) -> tuple[Callable[[str], str | None], set[str]]:
    """What finds the new code of a rest, and the rests that have several."""
    if isinstance(step, TableMap):
        entries, several = _entries(step)
        to = step.to
        return lambda rest: to + entries[rest] if rest in entries else None, several
    begin = step.from_

    def find(rest: str) -> str | None:
        cut = _cut_to(step, rest)
        return None if cut is None else begin + cut

    return find, set()


def _cut_to(step: _Level, rest: str) -> str | None:
    match step:
        case Icd10Level():
            return cut_icd10(rest, step.characters)
        case Icd9Level():
            return cut_icd9(rest, step.characters)
        case PhecodeLevel():
            return cut_phecode(rest, step.decimals)
        case AtcLevel():
            return cut_atc(rest, step.level)


def _read(step: TableMap) -> TableMap:
    return TableMap(entries=_entries(step)[0], from_=step.from_, to=step.to, many=step.many)


def _entries(step: TableMap) -> tuple[dict[str, str], set[str]]:
    if (step.table is None) == (step.entries is None):
        raise ConfigError(f"map from {step.from_!r}: name its table, or give its entries")
    if step.entries is not None:
        return step.entries, set()
    assert step.table is not None
    entries: dict[str, str] = {}
    first: dict[str, int] = {}
    several: set[str] = set()
    for pair in read_pairs(step.table, "from", "to"):
        if entries.setdefault(pair.key, pair.value) == pair.value:
            first.setdefault(pair.key, pair.row)
            continue
        if step.many == "error":
            raise UserError(
                f"{step.table} row {pair.row}: {pair.key!r} maps to {pair.value!r}, but row "
                f"{first[pair.key]} maps it to {entries[pair.key]!r}; one code becomes one code: "
                "drop a row, or set many: first"
            )
        several.add(pair.key)
    return entries, several


def map_name(step: MapStep) -> str:
    """For a report; a table is named by its file where it is not yet read in."""
    if isinstance(step, TableMap):
        how = step.table.name if step.table else "table"
        return f"{step.from_ or 'any code'} -> {step.to or 'other codes'} by {how}"
    match step:
        case AtcLevel():
            how = f"level {step.level}"
        case PhecodeLevel():
            how = f"{step.decimals} decimals"
        case _:
            how = f"{step.characters} characters"
    return f"{step.from_} cut to {how}"
