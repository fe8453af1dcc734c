"""Area under the receiver operating characteristic where few negatives are called positive."""

import numpy as np

from ehr_eval.judge.metrics.ranked import Floats, Ranked

MOST = 0.2
"""Highest false positive rate."""


def partial_auroc(rows: Ranked) -> Floats:
    """The area up to a false positive rate of 0.2, standardised: 0.5 is chance, 1 perfect.

    McClish's (1989) correction, (1 + (area - least) / (most - least)) / 2 with least 0.2^2 / 2 and most
    0.2, as in scikit-learn's `roc_auc_score(max_fpr=0.2)`. Worse than chance is below 0.5.
    """
    negatives_B = rows.total_B - rows.positives_B
    alarms_GB = np.cumsum(rows.all_GB - rows.true_GB, axis=0) / negatives_B
    hits_GB, alarms_GB = (
        np.pad(x_GB, ((1, 0), (0, 0))) for x_GB in (rows.above_GB / rows.positives_B, alarms_GB)
    )
    wide_GB, high_GB = np.diff(alarms_GB, axis=0), np.diff(hits_GB, axis=0)
    inside_GB = np.clip(MOST - alarms_GB[:-1], 0, wide_GB)
    share_GB = np.divide(inside_GB, wide_GB, out=np.zeros_like(wide_GB), where=wide_GB > 0)
    area_B = (inside_GB * (hits_GB[:-1] + share_GB * high_GB / 2)).sum(axis=0)
    least = MOST**2 / 2
    both_B = (negatives_B > 0) & (rows.positives_B > 0)
    return np.where(both_B, 0.5 + 0.5 * (area_B - least) / (MOST - least), np.nan)
