"""Calibration slope and intercept: the outcome regressed on the logit of the probability (Cox 1958).

N rows, B draws.
"""

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit

from ehr_eval.judge.metrics.ranked import Floats, Ranked

_LEAST = 1e-7
"""Probabilities are kept as far from 0 and 1, about what float32 tells apart from 1: their logit is finite."""
_STEPS, _SMALL, _LARGE = 100, 1e-11, 4.0
"""Most Newton steps; when to end; the longest step."""


def logits(probability: Floats) -> Floats:
    """log(p / (1 - p)), finite.

    Examples:
        >>> logits(np.array([0.5, 1.0])).round(3).tolist()
        [0.0, 16.118]
    """
    return np.asarray(logit(np.clip(probability, _LEAST, 1 - _LEAST)))


def slope(rows: Ranked) -> Floats:
    """The likeliest b of logit P(outcome) = a + b logit(p): 1 is right, below 1 probabilities are too extreme.

    NaN where no finite b is the likeliest: a threshold parts the classes, or all probabilities are equal.
    """
    known_B = _overlap(rows)
    found_B = np.full(len(known_B), np.nan)
    if known_B.any():
        z_N, y_N = logits(rows.probability_N), rows.label_N.astype(np.float64)
        found_B[known_B] = fit(z_N, y_N, rows.weight_NB[:, known_B])[1]
    return found_B


def intercept(rows: Ranked) -> Floats:
    """The likeliest a of logit P(outcome) = a + logit(p): above 0, risks are told too low in the large."""
    z_N1, y_N1 = logits(rows.probability_N)[:, None], rows.label_N.astype(np.float64)[:, None]
    known_B = (rows.positives_B > 0) & (rows.positives_B < rows.total_B)
    found_B = np.where(known_B, 0.0, np.nan)
    for _ in range(_STEPS):
        off_NB, curve_NB = _terms(z_N1 + found_B, y_N1, rows.weight_NB)
        step_B = off_NB.sum(axis=0) / curve_NB.sum(axis=0)
        found_B = found_B + np.clip(step_B, -_LARGE, _LARGE)
        if not np.any(np.abs(step_B) > _SMALL):  # NaN is no reason to go on
            break
    return found_B


def fit(z_N: Floats, target_N: Floats, weight_NB: Floats) -> tuple[Floats, Floats]:
    """The likeliest a and b of logit P = a + b z, by Newton's method with shortened steps.

    Args:
        z_N: [N].
        target_N: [N] outcomes, or their expected values, in [0, 1].
        weight_NB: [N, B] of which in each draw the likeliest b is finite.

    Returns:
        a and b, each [B].

    Examples:
        >>> a, b = fit(np.array([0., 0., 1., 1.]), np.array([0., 1., 1., 1.]), np.ones((4, 1)))
        >>> bool(b[0] > 5)  # not finite: parted
        True
    """
    draws = weight_NB.shape[1]
    a_B, b_B = np.zeros(draws), np.zeros(draws)
    z_N1, y_N1 = z_N[:, None], target_N[:, None]
    loss_B = _loss(z_N1, y_N1, weight_NB, a_B, b_B)
    for _ in range(_STEPS):
        off_NB, curve_NB = _terms(a_B + b_B * z_N1, y_N1, weight_NB)
        g0_B, g1_B = off_NB.sum(axis=0), z_N @ off_NB
        h00_B, h01_B, h11_B = curve_NB.sum(axis=0), z_N @ curve_NB, z_N**2 @ curve_NB
        size_B = h00_B * h11_B - h01_B**2
        size_B = np.where(size_B > 0, size_B, np.inf)  # flat: stay
        da_B = (h11_B * g0_B - h01_B * g1_B) / size_B
        db_B = (h00_B * g1_B - h01_B * g0_B) / size_B
        share_B = np.minimum(1, _LARGE / np.maximum(np.abs(da_B), np.abs(db_B)).clip(1e-300))
        for _ in range(30):
            next_B = _loss(z_N1, y_N1, weight_NB, a_B + share_B * da_B, b_B + share_B * db_B)
            worse_B = next_B > loss_B * (1 + 1e-12)
            if not worse_B.any():
                break
            share_B = np.where(worse_B, share_B / 2, share_B)
        a_B, b_B, loss_B = a_B + share_B * da_B, b_B + share_B * db_B, next_B
        if max(np.abs(da_B).max(), np.abs(db_B).max()) < _SMALL:
            break
    return a_B, b_B


def _terms(eta_NB: Floats, y_N1: Floats, weight_NB: Floats) -> tuple[Floats, Floats]:
    """[N, B] outcome minus probability, and p (1 - p), by weight; without 1 - p, which loses digits."""
    p_NB, q_NB = expit(eta_NB), expit(-eta_NB)
    return weight_NB * (y_N1 * q_NB - (1 - y_N1) * p_NB), weight_NB * p_NB * q_NB


def _loss(z_N1: Floats, y_N1: Floats, weight_NB: Floats, a_B: Floats, b_B: Floats) -> Floats:
    eta_NB = a_B + b_B * z_N1
    return np.asarray((weight_NB * (np.logaddexp(0, eta_NB) - y_N1 * eta_NB)).sum(axis=0))


def _overlap(rows: Ranked) -> npt.NDArray[np.bool_]:
    """[B] whether each class has a row above one of the other: then the likeliest b is finite."""
    some_GB, none_GB = rows.true_GB > 0, rows.all_GB > rows.true_GB
    groups = len(rows.first_G)
    highest = [
        x_GB.argmax(axis=0) for x_GB in (some_GB, none_GB)
    ]  # falling order: 0 is the highest
    lowest = [groups - 1 - x_GB[::-1].argmax(axis=0) for x_GB in (some_GB, none_GB)]
    both_B = some_GB.any(axis=0) & none_GB.any(axis=0)
    return np.asarray(both_B & (highest[0] < lowest[1]) & (highest[1] < lowest[0]))
