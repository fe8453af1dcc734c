"""Probabilities made to fit the outcomes of the tuning rows.

n tuning rows, m other rows.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression

from ehr_eval.judge.metrics.cox import fit, logits
from ehr_eval.judge.metrics.ranked import Floats

Recalibrated: TypeAlias = Callable[[Floats], Floats]
"""[m] probabilities -> [m] other probabilities."""
NONE = "none"


def platt(label: npt.NDArray[np.bool_], probability: Floats) -> Recalibrated:
    """P = 1 / (1 + exp(-a - b logit(p))), by Platt (1999): outcomes are smoothed, so a and b are finite.

    Args:
        label: [n] of tuning rows.
        probability: [n] of the same.

    Examples:
        >>> p = np.array([0.2, 0.2, 0.8, 0.8])
        >>> platt(np.array([0, 1, 1, 1], bool), p)(np.array([0.2, 0.8])).round(3).tolist()
        [0.567, 0.8]
    """
    positives = int(label.sum())
    negatives = len(label) - positives
    target = np.where(label, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    z = logits(probability)
    if np.ptp(z) == 0:  # no slope can be told: the frequency of the outcome
        return lambda p: np.full(len(p), target.mean())
    (a,), (b,) = fit(z, target, np.ones((len(z), 1)))
    return lambda p: np.asarray(expit(a + b * logits(p)))


def isotonic(label: npt.NDArray[np.bool_], probability: Floats) -> Recalibrated:
    """The function that never falls and is nearest to the outcomes (Zadrozny and Elkan 2002).

    Straight between the tuning rows' probabilities, flat beyond them.

    Args:
        label: [n] of tuning rows.
        probability: [n] of the same.

    Examples:
        >>> isotonic(np.array([0, 1, 0, 1], bool), np.array([.1, .2, .3, .4]))(np.array([.2, .5])).tolist()
        [0.5, 1.0]
    """
    model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    model.fit(probability, label.astype(np.float64))
    return lambda p: np.clip(model.predict(p), 0, 1)


RECALIBRATIONS: Mapping[str, Callable[[npt.NDArray[np.bool_], Floats], Recalibrated]] = (
    MappingProxyType({"platt": platt, "isotonic": isotonic})
)
"""Every way by name."""
