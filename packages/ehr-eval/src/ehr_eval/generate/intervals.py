"""How far estimates of a risk from simulated futures may be off. P prompts, N futures of each.

An exact interval for counts of futures; for means of chances one by Student's t on the log-odds: sums and
products of small chances are skewed to the right, and a risk is never below 0 or above 1.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.special import expit, logit

Floats = npt.NDArray[np.float64]
_FEWEST = 2
"""Futures that tell how far these are apart."""


class Estimate(NamedTuple):
    """A risk, and the interval that holds the true one with the confidence asked for."""

    risk: Floats
    """[P]; NaN where no future has an answer."""
    lower: Floats
    """[P]; NaN where no interval can be given."""
    upper: Floats
    """[P]"""


def of_counts(hits: Floats, asked: Floats, confidence: float) -> Estimate:
    """Shares, with the interval of Clopper and Pearson (1934), which holds at least as often as it says.

    Args:
        hits: [P] futures with the outcome.
        asked: [P] futures with an answer.
        confidence: E.g. .95.

    Examples:
        >>> e = of_counts(np.array([0.0, 5.0]), np.array([100.0, 100.0]), 0.95)
        >>> e.lower.round(4).tolist(), e.upper.round(4).tolist()
        ([0.0, 0.0164], [0.0362, 0.1128])
    """
    tail = (1 - confidence) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        risk = hits / asked
    lower = np.where(hits > 0, stats.beta.ppf(tail, hits, asked - hits + 1), 0.0)
    upper = np.where(hits < asked, stats.beta.ppf(1 - tail, hits + 1, asked - hits), 1.0)
    none = asked == 0
    return Estimate(risk, np.where(none, np.nan, lower), np.where(none, np.nan, upper))


def of_chances(value: Floats, weight: Floats, confidence: float) -> Estimate:
    """Means, or ratios of means, of what each future says.

    With m the estimate and s its standard error (of a ratio, by the delta method), the interval is
    logit(m) - d to logit(m) + d with d = t s / (m (1 - m)), t of N - 1 degrees of freedom. Where every future
    says 0, the upper bound is that of no hit in N futures; where they say 1 or more, the lower one is m - t s.

    Args:
        value: [P, N], in the mean the chance of the outcome.
        weight: [P, N], in the mean the chance of an answer; 1 where every future has one.
        confidence: E.g. .95.

    Examples:
        >>> e = of_chances(np.array([[0.1, 0.2, 0.3]]), np.ones((1, 3)), 0.95)
        >>> e.risk.round(3).item(), e.lower.round(3).item(), e.upper.round(3).item()
        (0.2, 0.05, 0.541)
    """
    n = value.shape[1]
    mean, asked = value.mean(1), weight.mean(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        risk = mean / asked
        off = value - risk[:, None] * weight
        error = np.sqrt((off**2).sum(1) / max(n - 1, 1) / n) / asked
        far = stats.t.ppf((1 + confidence) / 2, max(n - 1, 1)) * error
        d = far / (risk * (1 - risk))
        lower, upper = expit(logit(risk) - d), expit(logit(risk) + d)
    none = of_counts(np.zeros(len(mean)), np.full(len(mean), float(n)), confidence)
    lower = np.select([risk <= 0, risk >= 1], [0.0, risk - far], lower)
    upper = np.select([risk <= 0, risk >= 1], [none.upper, 1.0], upper)
    known = asked > 0
    kept = [np.where(known, np.clip(x, 0, 1), np.nan) for x in (risk, lower, upper)]
    if n < _FEWEST:
        kept[1:] = [np.full(len(mean), np.nan)] * 2
    return Estimate(*kept)
