"""Rows in bins by their probability, under many draws.

N rows, B draws, G distinct probabilities, K bins.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ehr_eval.judge.metrics.ranked import Floats, Ranked

BINS = 10
_EDGES = np.linspace(0, 1, BINS + 1)[1:-1]
"""Between bins of equal width; an edge belongs to the bin below."""


class Bins(NamedTuple):
    """Sums over the rows of each bin."""

    rows_KB: Floats
    apart_KB: Floats
    """Of outcome minus probability."""

    @property
    def gap_KB(self) -> Floats:
        """Distance between frequency of the outcome and mean probability; 0 in empty bins."""
        apart_KB = np.abs(self.apart_KB)
        return np.divide(
            apart_KB, self.rows_KB, out=np.zeros_like(apart_KB), where=self.rows_KB > 0
        )


def equal_width(rows: Ranked, value_N: Floats | None = None) -> Bins:
    """Ten bins of equal width, as meds-evaluation and scikit-learn have them.

    Args:
        rows: Of which probabilities are binned.
        value_N: [N] summed in place of outcome minus probability.
    """
    value_N = rows.label_N - rows.probability_N if value_N is None else value_N
    bin_N = np.searchsorted(_EDGES, rows.probability_N)
    in_bin_KN = (bin_N == np.arange(BINS)[:, None]).astype(np.float64)
    return Bins(in_bin_KN @ rows.weight_NB, (in_bin_KN * value_N) @ rows.weight_NB)


def equal_mass(rows: Ranked) -> Bins:
    """Ten bins of as many rows as can be: equal probabilities, which stay together, go by their middle."""
    upto_GB = np.cumsum(rows.all_GB, axis=0)
    place_GB = (
        upto_GB - rows.all_GB / 2
    ) * BINS  # exact, as are its bounds: no row falls beside one
    # groups are in order, so a bin ends where the next begins: sums are differences of running sums
    end_KB = np.stack([(place_GB < k * rows.total_B).sum(axis=0) for k in range(1, BINS + 1)])
    apart_GB = np.cumsum(rows.true_GB - rows.all_GB * rows.probability_G[:, None], axis=0)
    return Bins(*(_between(running_GB, end_KB) for running_GB in (upto_GB, apart_GB)))


def _between(running_GB: Floats, end_KB: npt.NDArray[np.int64]) -> Floats:
    padded = np.pad(running_GB, ((1, 0), (0, 0)))
    return np.diff(np.take_along_axis(padded, end_KB, axis=0), axis=0, prepend=0.0)
