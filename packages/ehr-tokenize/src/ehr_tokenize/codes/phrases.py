"""How a code is called in words: with its term where there is one, else by itself."""

import re
from collections.abc import Mapping

PREFIXES = {
    "DRG": "DRG",
    "INFUSION_END": "infusion end",
    "INFUSION_START": "infusion start",
    "INSURANCE": "insurance",
    "LAB//RESULT": "",
    "LAB//SPECIMEN_COLLECTED": "specimen collected",
    "LANGUAGE": "language",
    "MARITAL_STATUS": "marital status",
    "MEDICATION//START": "medication start",
    "MEDICATION//STOP": "medication stop",
    "PROCEDURE//END": "procedure end",
    "PROCEDURE//START": "procedure start",
    "RACE": "race",
    "SUBJECT_WEIGHT_AT_INFUSION": "weight",
}
"""How the beginning of a code is said where it tells something that the rest, or the term of the
whole code, does not. The longest counts; one that is in no table is left out: `ICD10CM//I10` is told
as what I10 means."""
EVENTS = {
    "ADMISSION": "admission",
    "ED_OUT": "emergency department out",
    "ED_REGISTRATION": "emergency department registration",
    "HOSPITAL_ADMISSION": "hospital admission",
    "HOSPITAL_DISCHARGE": "hospital discharge",
    "ICU_ADMISSION": "intensive care admission",
    "ICU_DISCHARGE": "intensive care discharge",
    "MEDS_BIRTH": "birth",
    "MEDS_DEATH": "death",
    "REGISTRATION": "registration",
    "TRANSFER_TO": "transfer to",
    "VISIT": "visit",
    "VISIT_END": "visit end",
    "VISIT_START": "visit start",
}
"""The same for beginnings that a term of the whole code says itself; said where there is none."""
SEXES = {"F": "female", "M": "male"}
_SAYS_NOTHING = {"", "?", "n/a", "na", "none", "null", "other", "unk", "unknown"}
"""A rest that is told with its beginning only: `SMOKING//UNKNOWN`, not a bare "UNKNOWN"."""
_SEX = re.compile(r"^(?i:GENDER|SEX)/+(?P<sex>[FM])$")


def say_code(code: str, term: str | None, prefixes: Mapping[str, str] = PREFIXES) -> str:
    """What a code is called.

    Args:
        code: Without its unit.
        term: What it means, where that is known.
        prefixes: How beginnings are said.

    Examples:
        >>> say_code("INFUSION_END//220949", "Dextrose 5%"), say_code("ICD10CM//I10", "Hypertension")
        ('infusion end Dextrose 5%', 'Hypertension')
        >>> say_code("MEDICATION//START//Insulin//00002821501", None), say_code("GENDER//F", None)
        ('medication start Insulin 00002821501', 'female')
        >>> say_code("HOSPITAL_ADMISSION//EW EMER.", None), say_code("SMOKING//UNKNOWN", None)
        ('hospital admission EW EMER.', 'SMOKING UNKNOWN')
    """
    if term is None:
        term = sex_term(code)
    begin = _beginning(code, prefixes)
    said = prefixes.get(begin, "")
    if term is None:
        said = said or EVENTS.get(begin, "")
        term = _readable(code[len(begin) :])
        if not said and term.lower() in _SAYS_NOTHING:
            term = _readable(code)
    return " ".join(p for p in (said, term) if p) or "(empty code)"


def sex_term(code: str) -> str | None:
    """The term of a code of a sex, where it is one."""
    found = _SEX.search(code)
    return SEXES[found["sex"].upper()] if found else None


def _beginning(code: str, prefixes: Mapping[str, str]) -> str:
    """The longest known beginning, else what stands before the first `//`."""
    parts = code.split("//")
    for n in range(len(parts), 0, -1):
        begin = "//".join(parts[:n])
        if begin in prefixes or begin in EVENTS:
            return begin
    return parts[0] if len(parts) > 1 else ""


def _readable(code: str) -> str:
    """`HEART_FAILURE//LEFT` -> `HEART FAILURE LEFT`."""
    return squeezed(code.replace("//", " ").replace("_", " "))


def squeezed(text: str) -> str:
    """On one line, with single spaces."""
    return " ".join(text.split())
