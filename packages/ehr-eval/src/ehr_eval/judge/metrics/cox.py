"""Calibration slope and intercept: the outcome regressed on the logit of the probability (Cox 1958).

N rows, B draws.
"""

import numpy as np
import numpy.typing as npt
from scipy.special import logit

from ehr_eval.judge.metrics.ranked import Floats, Ranked

_LEAST = 1e-7
"""Probabilities are kept as far from 0 and 1, about what float32 tells apart from 1: their logit is finite."""
_STEPS, _SMALL, _LARGE = 100, 1e-7, 4.0
"""Most Newton steps; a step after which the next is below 1e-12, by its square; the longest step."""
_QUICK = 6
"""Steps within which most draws are done from the solution of all, without a look at the loss."""


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
    z_N, y_N = logits(rows.probability_N), rows.label_N.astype(np.float64)
    together_N1 = rows.weight_NB.sum(axis=1, keepdims=True)
    start = _alone(z_N, y_N, together_N1, np.zeros(1))  # that of all is near that of each draw
    known_B = (rows.positives_B > 0) & (rows.positives_B < rows.total_B)
    return _alone(z_N, y_N, rows.weight_NB, np.where(known_B, start, np.nan))


def _alone(z_N: Floats, y_N: Floats, weight_NB: Floats, a_B: Floats) -> Floats:
    """The likeliest a where b = 1, from a start; NaN stays."""
    for _ in range(_STEPS):
        g_B, h_B = _sums(a_B + z_N[:, None], y_N, weight_NB, np.ones((1, len(z_N))))
        step_B = g_B[0] / h_B[0]
        a_B = a_B + np.clip(step_B, -_LARGE, _LARGE)
        if not np.any(np.abs(step_B) > _SMALL):  # NaN is no reason to go on
            break
    return a_B


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
    together_N1 = weight_NB.sum(axis=1, keepdims=True)
    (a,), (b,) = _carefully(z_N, target_N, together_N1)
    a_B, b_B = (np.full(weight_NB.shape[1], value) for value in (a, b))
    for _ in range(_QUICK):
        da_B, db_B = _step(z_N, target_N, weight_NB, a_B, b_B)
        a_B, b_B = a_B + da_B, b_B + db_B
        far_B = ~(np.maximum(np.abs(da_B), np.abs(db_B)) < _SMALL)
        if not far_B.any():
            return a_B, b_B
    a_B[far_B], b_B[far_B] = _carefully(z_N, target_N, weight_NB[:, far_B])
    return a_B, b_B


def _carefully(z_N: Floats, target_N: Floats, weight_NB: Floats) -> tuple[Floats, Floats]:
    """From 0, with steps that are shortened until they gain."""
    a_B, b_B = np.zeros((2, weight_NB.shape[1]))
    loss_B = _loss(z_N, target_N, weight_NB, a_B, b_B)
    for _ in range(_STEPS):
        da_B, db_B = map(np.nan_to_num, _step(z_N, target_N, weight_NB, a_B, b_B))  # flat: stay
        size_B = np.maximum(np.abs(da_B), np.abs(db_B))
        share_B = np.minimum(1, _LARGE / size_B.clip(1e-300))
        for _ in range(30):
            next_B = _loss(z_N, target_N, weight_NB, a_B + share_B * da_B, b_B + share_B * db_B)
            worse_B = next_B > loss_B * (1 + 1e-12)
            if not worse_B.any():
                break
            share_B = np.where(worse_B, share_B / 2, share_B)
        a_B, b_B, loss_B = a_B + share_B * da_B, b_B + share_B * db_B, next_B
        if size_B.max() < _SMALL:
            break
    return a_B, b_B


def _step(
    z_N: Floats, target_N: Floats, weight_NB: Floats, a_B: Floats, b_B: Floats
) -> tuple[Floats, Floats]:
    """Newton's, of a and b; NaN where the likelihood is flat."""
    powers = np.stack([np.ones_like(z_N), z_N, z_N**2])
    g_B, (h0_B, h1_B, h2_B) = _sums(a_B + b_B * z_N[:, None], target_N, weight_NB, powers)
    size_B = h0_B * h2_B - h1_B**2
    size_B = np.where(size_B > 0, size_B, np.nan)
    return (h2_B * g_B[0] - h1_B * g_B[1]) / size_B, (h0_B * g_B[1] - h1_B * g_B[0]) / size_B


def _sums(eta_NB: Floats, y_N: Floats, weight_NB: Floats, by_PN: Floats) -> tuple[Floats, Floats]:
    """[P, B] of outcome minus probability, and of p (1 - p), by weight and each of some factors.

    Without 1 - p, which loses digits.
    """
    odds_NB = np.exp(np.minimum(-eta_NB, 500.0))  # of no
    p_NB = 1 / (1 + odds_NB)
    weighed_NB = weight_NB * p_NB
    odds_NB *= p_NB  # 1 - p
    curve_NB = weighed_NB * odds_NB
    odds_NB *= weight_NB
    off_PB = (by_PN * y_N) @ odds_NB - (by_PN * (1 - y_N)) @ weighed_NB
    return off_PB, by_PN @ curve_NB


def _loss(z_N: Floats, target_N: Floats, weight_NB: Floats, a_B: Floats, b_B: Floats) -> Floats:
    eta_NB = a_B + b_B * z_N[:, None]
    loss_NB = np.logaddexp(0, eta_NB) - target_N[:, None] * eta_NB
    return np.asarray((weight_NB * loss_NB).sum(axis=0))


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
