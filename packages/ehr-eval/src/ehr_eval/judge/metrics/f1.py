"""F1, at a threshold that was chosen on the tuning rows."""

import numpy as np
import numpy.typing as npt

from ehr_eval.judge.metrics.ranked import Floats, Ranked


def f1(rows: Ranked) -> Floats:
    """2 true positives / (2 true positives + false ones of both kinds); NaN where nothing is decided."""
    if rows.decided_N is None:
        return np.full(rows.weight_NB.shape[1], np.nan)
    right_B = rows.weight_NB[rows.decided_N & rows.label_N].sum(axis=0)
    wrong_B = rows.weight_NB[rows.decided_N != rows.label_N].sum(axis=0)
    return np.asarray(2 * right_B / (2 * right_B + wrong_B))


def best_threshold(label: npt.NDArray[np.bool_], probability: Floats) -> float:
    """The least probability that is called positive where F1 is highest; of equals the highest.

    Args:
        label: [n] with a positive.
        probability: [n].

    Examples:
        >>> best_threshold(np.array([True, False, True, False]), np.array([0.9, 0.7, 0.7, 0.2]))
        0.7
    """
    order = np.argsort(-probability, kind="stable")
    last_G = np.flatnonzero(np.append(np.diff(probability[order]) != 0, True))
    right_G = np.cumsum(label[order])[last_G]
    # called so are last + 1 rows, and 2 right + wrong is these and all positives
    f1_G = 2 * right_G / (last_G + 1 + label.sum())
    return float(probability[order][last_G[np.argmax(f1_G)]])
