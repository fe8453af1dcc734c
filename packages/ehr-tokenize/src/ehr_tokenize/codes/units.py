"""Units that are part of a code, as in `LAB//50912//mg/dL`."""

import re
from collections.abc import Sequence
from functools import lru_cache

UNIT_CODES = (
    r"^(?>(?:LAB|VITAL|MEASUREMENT)(?://(?:LOINC|RESULT))?)//[^/]+//(?P<unit>/?[^/]+(?:/[^/]+)*)$",
    r"^SUBJECT_FLUID_OUTPUT//[^/]+//(?P<unit>[^/]+)$",
    r"^SUBJECT_WEIGHT_AT_INFUSION//(?P<unit>[^/]+)$",
)
"""Searched in a code: the group `unit` is the unit, not part of what is measured."""
NO_UNIT = ("UNK", "N/A", "")
"""What stands for an absent unit."""


def split_unit(
    code: str, patterns: Sequence[str] = UNIT_CODES, none: Sequence[str] = NO_UNIT
) -> tuple[str, str]:
    """What is measured, and in which unit; the latter is empty where the code holds none.

    Examples:
        >>> split_unit("LAB//LOINC//2823-3//mmol/L"), split_unit("LAB//RESULT//51464//UNK")
        (('LAB//LOINC//2823-3', 'mmol/L'), ('LAB//RESULT//51464', ''))
        >>> split_unit("LOINC/2823-3")
        ('LOINC/2823-3', '')
    """
    for pattern in patterns:
        found = _compiled(pattern).search(code)
        if found:
            unit = found["unit"].strip()
            return code[: found.start("unit")].removesuffix("//"), "" if unit in none else unit
    return code, ""


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)
