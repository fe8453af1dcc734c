"""What MIMIC-IV's own dictionaries say of its codes: descriptions, and parents in public vocabularies."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

Row = tuple[str, str | None, list[str] | None]
Titles = dict[tuple[str, ...], str]


@dataclass(slots=True)
class Dictionaries:
    """The d_* tables, as (key) -> text; empty where a table is missing."""

    labs: Titles = field(default_factory=dict)
    loinc: Titles = field(default_factory=dict)
    items: Titles = field(default_factory=dict)
    diagnoses: Titles = field(default_factory=dict)
    procedures: Titles = field(default_factory=dict)
    hcpcs: Titles = field(default_factory=dict)
    seen: dict[str, str] = field(default_factory=dict)
    """Code -> description, as the tables of events themselves name it."""


def describe(codes: list[str], known: Dictionaries) -> Iterator[Row]:
    """Rows of codes.parquet for the codes that are known and for their ancestors.

    Args:
        codes: Of the data.
        known: What the source says.
    """
    for code in codes:
        for pattern, rule in _RULES:
            found = re.match(pattern, code)
            if found:
                yield from rule(code, found.groups(), known)
                break
        else:
            if code in known.seen:
                yield code, known.seen[code], None


def icd_name(code: str, version: str, *, procedure: bool) -> str | None:
    """An ICD code as its vocabulary writes it, dotted; None for a version that is neither 9 nor 10.

    Examples:
        >>> icd_name("A0472", "10", procedure=False), icd_name("E8859", "9", procedure=False)
        ('ICD10CM/A04.72', 'ICD9CM/E885.9')
        >>> icd_name("0039", "9", procedure=True), icd_name("0FT44ZZ", "10", procedure=True)
        ('ICD9Proc/00.39', 'ICD10PCS/0FT44ZZ')
    """
    if version not in {"9", "10"}:
        return None
    if procedure and version == "10":
        return f"ICD10PCS/{code}"
    at = 2 if procedure else 4 if version == "9" and code.startswith("E") else 3
    vocabulary = "ICD9Proc" if procedure else f"ICD{version}CM"
    return f"{vocabulary}/{code[:at]}.{code[at:]}" if len(code) > at else f"{vocabulary}/{code}"


def _icd(code: str, parts: tuple[str, ...], known: Dictionaries) -> Iterator[Row]:
    """The code, and its shorter forms up to the category, each the parent of the one before."""
    kind, version, icd = parts
    procedure = kind == "PROCEDURE"
    titles = known.procedures if procedure else known.diagnoses
    name = icd_name(icd, version, procedure=procedure)
    title = titles.get((version, icd))
    yield code, title, [name] if name else None
    if name is None:
        return
    while True:
        shorter = "" if name.startswith("ICD10PCS") or "." not in name else icd[:-1]
        parent = icd_name(shorter, version, procedure=procedure) if shorter else None
        yield name, titles.get((version, icd)), [parent] if parent else None
        if parent is None:
            return
        name, icd = parent, shorter


def _lab(code: str, parts: tuple[str, ...], known: Dictionaries) -> Iterator[Row]:
    loinc = known.loinc.get(parts)
    yield code, known.labs.get(parts), [f"LOINC/{loinc}"] if loinc else None


def _item(code: str, parts: tuple[str, ...], known: Dictionaries) -> Iterator[Row]:
    yield code, known.items.get(parts), None


def _hcpcs(code: str, parts: tuple[str, ...], known: Dictionaries) -> Iterator[Row]:
    coded = re.fullmatch(r"[A-Z\d]\d{3}[A-Z\d]", parts[0])  # else a short description
    yield code, known.hcpcs.get(parts), [f"HCPCS/{parts[0]}"] if coded else None


def _drg(code: str, parts: tuple[str, ...], known: Dictionaries) -> Iterator[Row]:
    vocabulary = "MS-DRG" if parts[0] == "HCFA" else "APR-DRG"
    yield code, known.seen.get(code), [f"{vocabulary}/{parts[1].zfill(3)}"]


def _ndc(code: str, parts: tuple[str, ...], known: Dictionaries) -> Iterator[Row]:  # noqa: ARG001
    yield code, None, [f"NDC/{parts[0].zfill(11)}"]


_RULES: tuple[tuple[str, Callable[[str, tuple[str, ...], Dictionaries], Iterator[Row]]], ...] = (
    (r"(DIAGNOSIS|PROCEDURE)//ICD//(\w+)//(.+)$", _icd),
    (r"LAB//(?:RESULT|SPECIMEN_COLLECTED)//(\d+)//", _lab),
    (r"(?:LAB|DATETIME|PROCEDURE//START|PROCEDURE//END)//(\d+)", _item),
    (r"(?:INFUSION_START|INFUSION_END|SUBJECT_FLUID_OUTPUT)//(\d+)", _item),
    (r"HCPCS//(.+)$", _hcpcs),
    (r"DRG//(\w+)//(.+)$", _drg),
    (r"MEDICATION//.*//(\d{1,11})$", _ndc),
)
