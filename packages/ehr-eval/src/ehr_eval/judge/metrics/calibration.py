"""Calibration error."""

import numpy as np

from ehr_eval.judge.metrics.ranked import Floats, Ranked

_EDGES = np.linspace(0, 1, 11)[1:-1]
"""Between ten bins of equal width; an edge belongs to the bin below."""


def calibration_error(rows: Ranked) -> Floats:
    """How far mean probability and frequency of the outcome are apart, the mean over ten bins.

    As meds-evaluation computes it: each bin that holds a row counts the same, whatever its rows.
    """
    bin_N = np.searchsorted(_EDGES, rows.probability_N)
    in_bin_KN = (bin_N == np.arange(len(_EDGES) + 1)[:, None]).astype(np.float64)
    rows_KB = in_bin_KN @ rows.weight_NB
    apart_KB = np.abs((in_bin_KN * (rows.label_N - rows.probability_N)) @ rows.weight_NB)
    gap_KB = np.divide(apart_KB, rows_KB, out=np.zeros_like(rows_KB), where=rows_KB > 0)
    return np.asarray(gap_KB.sum(axis=0) / (rows_KB > 0).sum(axis=0))
