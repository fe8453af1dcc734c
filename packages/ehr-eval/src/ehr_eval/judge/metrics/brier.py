"""Brier score."""

import numpy as np

from ehr_eval.judge.metrics.ranked import Floats, Ranked


def brier(rows: Ranked) -> Floats:
    """Mean squared difference of probability and outcome."""
    return np.asarray(np.square(rows.probability_N - rows.label_N) @ rows.weight_NB / rows.total_B)
