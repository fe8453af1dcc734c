"""AUROC of many columns at once. n rows, d columns."""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

Floats = npt.NDArray[np.float64]


def auroc(x: npt.NDArray[Any], label: npt.NDArray[np.bool_]) -> Floats:
    """[d] how well each column alone tells yes from no: the rank statistic, ties count half.

    Args:
        x: [n, d]
        label: [n]; both classes present.

    Examples:
        >>> auroc(np.array([[1, 5], [2, 5], [3, 5]]), np.array([False, False, True])).tolist()
        [1.0, 0.5]
    """
    yes = int(label.sum())
    no = len(label) - yes
    ranks = rankdata(x, axis=0)[label].sum(axis=0)
    found: Floats = (ranks - yes * (yes + 1) / 2) / (yes * no)
    return found


def chance(area: Floats, yes: int, no: int) -> Floats:
    """[d] normal bound of the two-sided probability of an AUROC this far from .5 by chance (Mann and Whitney, 1947).

    Examples:
        >>> chance(np.array([0.5, 1.0]), 20, 20).round(6).tolist()
        [1.0, 0.0]
    """
    from scipy.stats import norm

    sd = np.sqrt((yes + no + 1) / (12 * yes * no))
    found: Floats = 2 * norm.sf(np.abs(area - 0.5) / sd)
    return found
