"""Sensitivity at a specificity that is asked for."""

import numpy as np

from ehr_eval.judge.metrics.ranked import Floats, Ranked


def sensitivity(rows: Ranked) -> Floats:
    """The highest share of positives found by a threshold that calls at least so many negatives right.

    Of the held-out rows themselves, and without interpolation between thresholds: where the negative
    that comes first is already too many, it is 0.
    """
    negatives_B = rows.total_B - rows.positives_B
    called_GB = np.cumsum(rows.all_GB - rows.true_GB, axis=0)
    # as a count: the share itself could be a last digit above what is allowed
    allowed_GB = called_GB <= (1 - rows.specificity) * negatives_B * (1 + 1e-12)
    found_B = np.max(np.where(allowed_GB, rows.above_GB, 0), axis=0, initial=0)
    return np.where(negatives_B > 0, found_B / rows.positives_B, np.nan)
