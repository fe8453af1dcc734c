"""The codes in which regular expressions are found. C codes."""

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


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
