"""Split conformal prediction: sets of outcomes that hold the true one at least so often.

n tuning rows, m other rows. Vovk, Gammerman and Shafer (2005); Angelopoulos and Bates (2021).
"""

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from ehr_eval.judge.metrics.ranked import Floats

Labels = npt.NDArray[np.bool_]


def limit(score: Floats, miss: float) -> float:
    """The ceil((n + 1) (1 - miss))-th smallest score; infinite where n is too small for one.

    Args:
        score: [n] of rows with known outcome: 1 minus the probability of what came.
        miss: How often sets may miss the outcome.

    Examples:
        >>> limit(np.array([0.4, 0.1, 0.2, 0.3]), miss=0.2), limit(np.array([0.4]), miss=0.2)
        (0.4, inf)
    """
    place = math.ceil((len(score) + 1) * (1 - miss) - 1e-9)
    return float(np.sort(score)[place - 1]) if place <= len(score) else math.inf


def marginal(label: Labels, probability: Floats, new: Floats, miss: float) -> Labels:
    """One limit for all: sets hold the outcome with probability 1 - miss over all rows.

    Args:
        label: [n] of tuning rows.
        probability: [n] of the same.
        new: [m] probabilities of other rows.
        miss: How often sets may miss.

    Returns:
        [m, 2] whether no, and whether yes, is in the set of each row.

    Examples:
        >>> marginal(np.array([0, 0, 1, 1], bool), np.array([.1, .3, .6, .9]), np.array([.5, .8]), 0.2)
        array([[False, False],
               [False,  True]])
    """
    at = limit(np.where(label, 1 - probability, probability), miss)
    return _sets(new, at, at)


def by_class(label: Labels, probability: Floats, new: Floats, miss: float) -> Labels:
    """A limit for each class (Mondrian): sets hold the outcome with 1 - miss within either.

    Arguments and result as of `marginal`.
    """
    return _sets(new, limit(probability[~label], miss), limit(1 - probability[label], miss))


def _sets(new: Floats, at_no: float, at_yes: float) -> Labels:
    return np.stack([new <= at_no, 1 - new <= at_yes], axis=1)


METHODS = MappingProxyType({"marginal": marginal, "by_class": by_class})
"""Every way by name."""


def measures(label: Labels, sets: Labels, weight: npt.NDArray[np.uint16]) -> Mapping[str, Floats]:
    """How often sets hold the outcome, and how large they are.

    Args:
        label: [m] what came.
        sets: [m, 2] from `METHODS`.
        weight: [m, B] how often each row counts in each draw.

    Returns:
        Name -> [B]; NaN in a draw without such a row.
    """
    held, size = sets[np.arange(len(label)), label.astype(int)], sets.sum(axis=1)
    everyone = np.ones(len(label), bool)
    of = {
        "coverage": (held, everyone),
        "coverage_of_positives": (held, label),
        "coverage_of_negatives": (held, ~label),
        "size": (size, everyone),
        "empty": (size == 0, everyone),
        "single": (size == 1, everyone),
        "both": (size == 2, everyone),
        "right_where_single": (held, size == 1),
    }
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            name: (value * among) @ weight.astype(float) / (among @ weight.astype(float))
            for name, (value, among) in of.items()
        }
