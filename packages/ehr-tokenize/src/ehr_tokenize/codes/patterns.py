"""Regular expressions that users give in a config, and the codes in which they are found. C codes."""

import re
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator


def regex(pattern: str) -> str:
    """The same pattern.

    Raises:
        ValueError: If it is no regular expression.

    Examples:
        >>> regex("^LAB//")
        '^LAB//'
    """
    try:
        re.compile(pattern)
    except re.error as e:
        raise ValueError(f"{pattern!r} is no regular expression: {e}") from None
    return pattern


Regex = Annotated[str, AfterValidator(regex)]
"""A field of a config that holds one, searched in codes."""


def matching(patterns: Sequence[str], codes: Sequence[str]) -> npt.NDArray[np.bool_]:
    """[C] whether any of the patterns is found in each code.

    Examples:
        >>> matching(["^A$", "B"], ["A", "AB", "C"])
        array([ True,  True, False])
    """
    found = np.zeros(len(codes), bool)
    for pattern in patterns:
        hits = map(re.compile(pattern).search, codes)
        found |= np.array([hit is not None for hit in hits], bool)
    return found
