"""What rows are called by a threshold that was chosen on the tuning rows, beside what they are."""

import numpy as np
import numpy.typing as npt

from ehr_eval.judge.metrics.ranked import Floats, Ranked


def found(rows: Ranked) -> Floats:
    """Sensitivity: the share of positives that are called so."""
    return _share(rows, of=rows.label_N, right=rows.decided_N)


def spared(rows: Ranked) -> Floats:
    """Specificity: the share of negatives that are called so."""
    return _share(rows, of=~rows.label_N, right=_not(rows))


def ppv(rows: Ranked) -> Floats:
    """Positive predictive value, or precision: the share of those called positive that are."""
    return _share(rows, of=rows.decided_N, right=rows.label_N)


def npv(rows: Ranked) -> Floats:
    """Negative predictive value: the share of those called negative that are."""
    return _share(rows, of=_not(rows), right=~rows.label_N)


def _not(rows: Ranked) -> npt.NDArray[np.bool_] | None:
    return None if rows.decided_N is None else ~rows.decided_N


def _share(
    rows: Ranked, *, of: npt.NDArray[np.bool_] | None, right: npt.NDArray[np.bool_] | None
) -> Floats:
    """[B] of some rows the share that are right as well; NaN where nothing is decided."""
    if of is None or right is None:
        return np.full(rows.weight_NB.shape[1], np.nan)
    all_B = rows.weight_NB[of].sum(axis=0)
    return np.asarray(rows.weight_NB[of & right].sum(axis=0) / all_B)
