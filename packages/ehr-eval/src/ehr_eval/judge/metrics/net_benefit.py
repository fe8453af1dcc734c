"""Net benefit of treating whoever is at a risk of at least a threshold (Vickers and Elkin 2006)."""

import numpy as np

from ehr_eval.judge.metrics.ranked import Floats, Ranked


def net_benefit(rows: Ranked) -> Floats:
    """(true positives - false positives * t / (1 - t)) / rows, at the risk t that is asked for."""
    treated_N = rows.probability_N >= rows.at_risk
    weight_NB = rows.weight_NB[treated_N]
    right_B = weight_NB[rows.label_N[treated_N]].sum(axis=0)
    odds = rows.at_risk / (1 - rows.at_risk)
    return np.asarray((right_B - (weight_NB.sum(axis=0) - right_B) * odds) / rows.total_B)
