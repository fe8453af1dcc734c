"""Novel codes: unknown to every table, below a parent that is known.

They try out what a model does with a code that it never saw: each looks like a code of its
vocabulary (three a code) and is none of `codes.ICD10CM` or `codes.ATC`. CPT has no hierarchy and
LOINC codes carry values; neither gets any.
"""

import numpy as np

from ehr_tokenize.synthetic import codes
from ehr_tokenize.synthetic.disease import Ints
from ehr_tokenize.synthetic.records import CODE_ID, VOCABULARY

VARIANTS = 3
ICD10CM_LENGTH = 7
"""Most letters and digits of a code."""


def novel_icd10cm(code: str) -> list[str]:
    """Codes one level below `code`; beside it where there is no level below.

    Examples:
        >>> novel_icd10cm("E11.9"), novel_icd10cm("I10"), novel_icd10cm("S72.001A")[:1]
        (['E11.97', 'E11.98', 'E11.99'], ['I10.7', 'I10.8', 'I10.9'], ['S72.0017'])
    """
    stem = code if len(code) > 3 else code + "."
    full = len(code.replace(".", "")) == ICD10CM_LENGTH
    found = [(stem[:-1] if full else stem) + digit for digit in "789"]
    return [x for x in found if x not in codes.ICD10CM]


def novel_atc(code: str) -> list[str]:
    """Substances of the same chemical subgroup.

    Examples:
        >>> novel_atc("N02BE01")
        ['N02BE97', 'N02BE98', 'N02BE99']
    """
    return [x for x in (f"{code[:5]}{n}" for n in (97, 98, 99)) if x not in codes.ATC]


def _table() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Known code -> its novel ones; novel code -> parents."""
    below: dict[str, list[str]] = {}
    parents: dict[str, list[str]] = {}
    for code in codes.ICD10CM:
        below[codes.diagnosis(code)] = [codes.diagnosis(x) for x in novel_icd10cm(code)]
    for code in codes.ATC:
        below[codes.medication(code)] = [codes.medication(x) for x in novel_atc(code)]
    known = {code: above for code, _, above in codes.code_table()}
    for code, variants in below.items():
        parents |= dict.fromkeys(variants, known[code])
    return below, parents


_BELOW, PARENTS = _table()
"""PARENTS: novel code -> parents, which `codes.code_table` describes."""
NOVEL = sorted(PARENTS)
_POSITION = {code: len(VOCABULARY) + i for i, code in enumerate(NOVEL)}
_VARIANTS = np.full((len(VOCABULARY), VARIANTS), -1)
for _code, _variants in _BELOW.items():
    _VARIANTS[CODE_ID[_code], : len(_variants)] = [_POSITION[x] for x in _variants]


def renamed(rng: np.random.Generator, code: Ints, probability: float) -> Ints:
    """Give each event that may have one a novel code, with some probability.

    Args:
        rng: Source of all randomness.
        code: [N], rows of `VOCABULARY`.
        probability: Of a diagnosis or medication being written in a novel code.

    Returns:
        [N], rows of `VOCABULARY + NOVEL`.
    """
    hit = rng.random(len(code)) < probability
    drawn = _VARIANTS[code, rng.integers(0, VARIANTS, size=len(code))]
    return np.where(hit & (drawn >= 0), drawn, code)
