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


def chance(area: Floats, yes: float, no: float) -> Floats:
    """[d] normal bound of the two-sided probability of an AUROC this far from .5 by chance (Mann and Whitney, 1947).

    Examples:
        >>> chance(np.array([0.5, 1.0]), 20, 20).round(6).tolist()
        [1.0, 0.0]
    """
    from scipy.stats import norm

    sd = np.sqrt((yes + no + 1) / (12 * max(yes, 1) * max(no, 1)))
    found: Floats = 2 * norm.sf(np.abs(area - 0.5) / sd)
    return found


def lower_end(area: Floats, yes: float, no: float) -> Floats:
    """[d] lower end of the one-sided 95% interval of each AUROC's distance from chance (Hanley and McNeil, 1982).

    Args:
        area: [d]; one below .5 counts as much as the one above that mirrors it.
        yes: Independent rows of the class; may be a fraction.
        no: The same of the other.

    Examples:
        >>> lower_end(np.array([1.0, 0.9, 0.1]), 20, 20).round(3).tolist()
        [1.0, 0.816, 0.816]
    """
    a = np.maximum(area, 1 - area)
    twice = (a / (2 - a) - a**2) * (max(yes, 1) - 1) + (2 * a**2 / (1 + a) - a**2) * (
        max(no, 1) - 1
    )
    found: Floats = a - 1.645 * np.sqrt((a * (1 - a) + twice) / (max(yes, 1) * max(no, 1)))
    return found
