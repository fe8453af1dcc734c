"""Calibration errors: how far mean probability and frequency of the outcome are apart."""

import numpy as np

from ehr_eval.judge.metrics.bins import equal_mass, equal_width
from ehr_eval.judge.metrics.ranked import Floats, Ranked


def calibration_error(rows: Ranked) -> Floats:
    """The mean over ten bins of equal width.

    As meds-evaluation computes it: each bin that holds a row counts the same, whatever its rows.
    """
    bins = equal_width(rows)
    return np.asarray(bins.gap_KB.sum(axis=0) / (bins.rows_KB > 0).sum(axis=0))


def expected_error(rows: Ranked) -> Floats:
    """The mean over rows, by ten bins of equal width (Naeini et al. 2015)."""
    bins = equal_width(rows)
    return np.asarray((bins.gap_KB * bins.rows_KB).sum(axis=0) / rows.total_B)


def expected_error_of_mass(rows: Ranked) -> Floats:
    """The mean over rows, by ten bins of equally many rows (Nguyen and O'Connor 2015)."""
    bins = equal_mass(rows)
    return np.asarray((bins.gap_KB * bins.rows_KB).sum(axis=0) / rows.total_B)
