"""Many comparisons at once: p values of bootstraps, and what is left of them.

B bootstrap draws, n comparisons.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import false_discovery_control

from ehr_eval.judge.metrics.ranked import Floats


def bootstrap_p(draws: Floats) -> float | None:
    """Two-sided p of no difference: twice the share of draws on the rarer side of 0.

    0 counts on both sides, and one draw more on each, so that p is never 0 (Davison and Hinkley, 1997):
    with B draws it is at least 2 / (B + 1).

    Args:
        draws: [B] of a difference; those in which it is undefined are left out.

    Returns:
        None where no draw is defined.

    Examples:
        >>> bootstrap_p(np.array([0.1, 0.2, 0.3])), bootstrap_p(np.array([0.1, -0.2, np.nan]))
        (0.5, 1.0)
    """
    defined = draws[~np.isnan(draws)]
    if not len(defined):
        return None
    rarer = min(int((defined <= 0).sum()), int((defined >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (len(defined) + 1))


def holm(p: Sequence[float]) -> list[float]:
    """Correct p values for their number, so that any false one is as rare as said (Holm, 1979).

    Args:
        p: [n] in any order.

    Returns:
        [n] in that order.

    Examples:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    stepped = values[order] * np.arange(len(values), 0, -1)
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return [float(value) for value in corrected]


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """The smallest share of false ones at which each would be told (Benjamini and Hochberg, 1995).

    Args:
        p: [n] in any order.

    Returns:
        [n] in that order.

    Examples:
        >>> benjamini_hochberg([0.01, 0.04, 0.03])
        [0.03, 0.04, 0.04]
    """
    return [float(value) for value in false_discovery_control(p)] if len(p) else []
