"""Brier score, and its parts."""

import numpy as np

from ehr_eval.judge.metrics.bins import equal_width
from ehr_eval.judge.metrics.ranked import Floats, Ranked


def brier(rows: Ranked) -> Floats:
    """Mean squared difference of probability and outcome."""
    return np.asarray(np.square(rows.probability_N - rows.label_N) @ rows.weight_NB / rows.total_B)


def reliability(rows: Ranked) -> Floats:
    """How far mean probability and frequency of the outcome are apart: squared, the mean over rows.

    Murphy (1973) parts the Brier score into reliability - resolution + uncertainty, over groups of rows
    with one probability each. Here a group is one of ten bins of equal width, so what probabilities
    differ within a bin is in none of the three.
    """
    bins = equal_width(rows)
    return np.asarray((bins.gap_KB**2 * bins.rows_KB).sum(axis=0) / rows.total_B)


def resolution(rows: Ranked) -> Floats:
    """How far the frequencies of the outcome in the bins are from that in all: squared, over rows."""
    bins = equal_width(rows, rows.label_N.astype(np.float64))
    apart_KB = bins.gap_KB - rows.positives_B / rows.total_B
    return np.asarray((apart_KB**2 * bins.rows_KB).sum(axis=0) / rows.total_B)


def uncertainty(rows: Ranked) -> Floats:
    """The Brier score of whoever says the frequency of the outcome of every row."""
    share_B = rows.positives_B / rows.total_B
    return np.asarray(share_B * (1 - share_B))
