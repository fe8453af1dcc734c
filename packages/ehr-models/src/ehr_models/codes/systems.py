"""Coding systems: how their codes are written, and which codes lie above one."""

import re
from collections.abc import Callable
from typing import NamedTuple

from ehr_models.codes.vectors import Key

_ICD10 = re.compile(r"[A-Z]\d[0-9A-Z][0-9A-Z]{0,4}")
_ICD9 = re.compile(r"(\d{3}|V\d\d|E\d{3})(\d{0,2})")
_ATC = re.compile(r"[A-Z](\d\d([A-Z]([A-Z](\d\d)?)?)?)?")
_ATC_LENGTHS = (5, 4, 3, 1)
"""Characters of the levels above a substance (WHO): chemical, pharmacological, therapeutic,
anatomical."""


class System(NamedTuple):
    """One coding system."""

    normal: Callable[[str], str]
    """A code as it is compared."""
    above: Callable[[str], list[str]]
    """From such a code to those above it, the nearest first."""


def _upper(code: str) -> str:
    return code.strip().upper()


def _none(code: str) -> list[str]:  # noqa: ARG001 -- the same for all
    return []


def _icd10(code: str) -> str:
    """Upper case, dot behind the third character.

    Examples:
        >>> [_icd10(c) for c in ("e1165", "E11.65", "S72001A", "c7a.00", "T36.0X1A", "I10.", "I10")]
        ['E11.65', 'E11.65', 'S72.001A', 'C7A.00', 'T36.0X1A', 'I10', 'I10']
    """
    bare = _upper(code).replace(".", "")
    return _dotted(bare) if _ICD10.fullmatch(bare) else _upper(code)


def _dotted(bare: str) -> str:
    return f"{bare[:3]}.{bare[3:]}" if len(bare) > 3 else bare


def _above_icd10(code: str) -> list[str]:
    """One character less at a time, down to the three of the category.

    Examples:
        >>> _above_icd10("S72.001A"), _above_icd10("O9A.111")[-1], _above_icd10("I10")
        (['S72.001', 'S72.00', 'S72.0', 'S72'], 'O9A', [])
    """
    bare = code.replace(".", "")
    if not _ICD10.fullmatch(bare):
        return []
    return [_dotted(bare[:n]) for n in range(len(bare) - 1, 2, -1)]


def _icd9(code: str) -> str:
    """Upper case, with the dot of a diagnosis where it was left out; a dot that is there stays.

    Examples:
        >>> [_icd9(c) for c in ("25001", "250.01", "v1582", "E8859", "00.39", "428", "250.")]
        ['250.01', '250.01', 'V15.82', 'E885.9', '00.39', '428', '250']
    """
    text = _upper(code).removesuffix(".")
    found = None if "." in text else _ICD9.fullmatch(text)
    return ".".join(part for part in found.groups() if part) if found else text


def _above_decimals(code: str) -> list[str]:
    """One decimal less at a time, down to none.

    Examples:
        >>> _above_decimals("250.11"), _above_decimals("V15.8"), _above_decimals("428")
        (['250.1', '250'], ['V15'], [])
    """
    head, _, tail = code.partition(".")
    return [f"{head}.{tail[:n]}" if n else head for n in range(len(tail) - 1, -1, -1)]


def _above_atc(code: str) -> list[str]:
    """The levels above, from any level.

    Examples:
        >>> _above_atc("N02BE01"), _above_atc("N02B"), _above_atc("paracetamol")
        (['N02BE', 'N02B', 'N02', 'N'], ['N02', 'N'], [])
    """
    if not _ATC.fullmatch(code):
        return []
    return [code[:n] for n in _ATC_LENGTHS if n < len(code)]


SYSTEMS = {
    "icd10cm": System(_icd10, _above_icd10),
    "icd9cm": System(_icd9, _above_decimals),
    "phecode": System(str.strip, _above_decimals),
    "atc": System(_upper, _above_atc),
    "cpt": System(_upper, _none),
}
"""Vocabulary -> its system. Codes of all others are compared as they stand and have nothing above."""
_PLAIN = System(str.strip, _none)


def normal(key: Key) -> Key:
    """A key as it is compared.

    Examples:
        >>> normal(Key("icd10cm", "e1165")), normal(Key("", " Aspirin"))
        (Key(vocabulary='icd10cm', code='E11.65'), Key(vocabulary='', code=' Aspirin'))
    """
    if not key.vocabulary:
        return key
    return Key(key.vocabulary, SYSTEMS.get(key.vocabulary, _PLAIN).normal(key.code))


def above(key: Key) -> list[Key]:
    """The codes above a normal key, the nearest first."""
    codes = SYSTEMS.get(key.vocabulary, _PLAIN).above(key.code)
    return [Key(key.vocabulary, code) for code in codes]
