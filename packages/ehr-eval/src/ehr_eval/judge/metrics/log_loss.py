"""Logarithmic loss."""

import numpy as np

from ehr_eval.judge.metrics.ranked import Floats, Ranked


def log_loss(rows: Ranked) -> Floats:
    """Mean over rows of minus the logarithm of the probability of what happened.

    As scikit-learn, 0 and 1 are taken as the least distance from them that float64 has.
    """
    least = np.finfo(np.float64).eps
    p_N = np.clip(rows.probability_N, least, 1 - least)
    return np.asarray(-np.log(np.where(rows.label_N, p_N, 1 - p_N)) @ rows.weight_NB / rows.total_B)
