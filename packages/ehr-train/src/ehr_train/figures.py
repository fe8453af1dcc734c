"""Figures of a validation, from answers and truth; each with the direction that is better.

E examples, C classes or labels.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Mode = Literal["min", "max"]

MODES: Mapping[str, Mode] = {
    "loss": "min",
    "perplexity": "min",
    "accuracy": "max",
    "auroc": "max",
    "auprc": "max",
    "f1": "max",
    "mae": "min",
    "rmse": "min",
    "r2": "max",
    "c_index": "max",
}
"""Name of every figure -> whether a low or a high one is better."""


def mode_of(name: str) -> Mode:
    """The better direction of a figure, or of the figure of a part of a sum.

    Examples:
        >>> mode_of("c_index"), mode_of("mlm_loss")
        ('max', 'min')
    """
    return next(
        mode for figure, mode in MODES.items() if name == figure or name.endswith(f"_{figure}")
    )


def known(**figures: float | None) -> dict[str, float]:
    """Those that are defined."""
    return {name: value for name, value in figures.items() if value is not None}


def binary(positive: Bools, logit: Floats) -> dict[str, float]:
    """`auroc`, `auprc`, `f1` and `accuracy` (the last two at probability 0.5) of yes or no.

    Args:
        positive: [E]
        logit: [E]
    """
    said = logit > 0
    return known(
        auroc=auroc(positive, logit),
        auprc=average_precision(positive, logit),
        f1=f1(positive, said),
        accuracy=float((said == positive).mean()),
    )


def macro(positive: Bools, logit: Floats, said: Bools) -> dict[str, float]:
    """`auroc`, `auprc` and `f1`: means over the columns that hold both classes (f1: a positive or one said).

    Args:
        positive: [E, C]
        logit: [E, C] a higher one for what is likelier.
        said: [E, C] answers.
    """
    functions: dict[str, tuple[Any, Any]] = {
        "auroc": (auroc, logit),
        "auprc": (average_precision, logit),
        "f1": (f1, said),
    }
    found = {}
    for name, (function, answers) in functions.items():
        each = [function(p, a) for p, a in zip(positive.T, answers.T, strict=True)]
        values = [value for value in each if value is not None]
        if values:
            found[name] = float(np.mean(values))
    return found


def numeric(truth: Floats, answer: Floats) -> dict[str, float]:
    """`mae` and `rmse` in the unit of the labels, and `r2`.

    Args:
        truth: [E]
        answer: [E]
    """
    error, spread = answer - truth, float(np.square(truth - truth.mean()).sum())
    squares = float(np.square(error).sum())
    return known(
        mae=float(np.abs(error).mean()),
        rmse=(squares / len(truth)) ** 0.5,
        r2=1 - squares / spread if spread else None,
    )


def auroc(positive: Bools, score: Floats) -> float | None:
    """Probability that a positive scores above a negative, ties counted half; None without both.

    Examples:
        >>> auroc(np.array([False, False, True, True]), np.array([0.1, 0.4, 0.4, 0.8]))
        0.875
    """
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        return None
    _, rank, count = np.unique(score, return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - (count - 1) / 2  # mean rank, from 1, among equal scores
    above = float(middle[rank][positive].sum()) - n_positive * (n_positive + 1) / 2
    return above / (n_positive * n_negative)


def average_precision(positive: Bools, score: Floats) -> float | None:
    """Precision at each threshold, weighted by the recall that it adds; None without both classes.

    Examples:
        >>> average_precision(np.array([False, True, True]), np.array([0.4, 0.4, 0.8]))
        0.8333333333333333
    """
    if positive.all() or not positive.any():
        return None
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)  # of equal scores
    right = np.cumsum(positive[order])[last]
    gained = np.diff(right, prepend=0) / right[-1]
    return float((right / (last + 1) * gained).sum())


def f1(positive: Bools, said: Bools) -> float | None:
    """Harmonic mean of precision and recall; None where nothing is positive and nothing said to be.

    Examples:
        >>> f1(np.array([True, True, False]), np.array([True, False, False]))
        0.6666666666666666
    """
    total = int(positive.sum()) + int(said.sum())
    return 2 * int((positive & said).sum()) / total if total else None


def concordance(days: Floats, happened: Bools, risk: Floats) -> float | None:
    """Harrell's C: share of pairs in which who had the event earlier has the higher risk, ties half.

    A pair counts where the earlier time is that of an event; at equal times, where one had the event
    and the other did not. None without such a pair.

    Args:
        days: [E] to the event, or to where nothing is known any more.
        happened: [E] whether the event came then.
        risk: [E]

    Source:
        Harrell et al., Multivariable prognostic models, Statistics in Medicine 15, 1996.

    Examples:
        >>> days, risk = np.array([1.0, 2.0, 3.0]), np.array([0.2, 0.9, 0.1])
        >>> concordance(days, np.array([True, True, False]), risk)
        0.6666666666666666
    """
    pairs, right = 0, 0.0
    for event in np.flatnonzero(happened):
        later = (days > days[event]) | ((days == days[event]) & ~happened)
        others = risk[later]
        pairs += len(others)
        right += float((others < risk[event]).sum()) + float((others == risk[event]).sum()) / 2
    return right / pairs if pairs else None
