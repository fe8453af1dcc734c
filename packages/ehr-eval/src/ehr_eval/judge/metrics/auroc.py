"""Area under the receiver operating characteristic."""

import numpy as np

from ehr_eval.judge.metrics.ranked import Floats, Ranked


def auroc(rows: Ranked) -> Floats:
    """How often a positive row has the higher probability than a negative one; a tie counts half."""
    negatives_B = rows.total_B - rows.positives_B
    # a negative is beaten by the positives above it, and half by those it is tied with
    beaten_GB = rows.above_GB - rows.true_GB / 2
    wins_B = np.einsum("gb,gb->b", rows.all_GB - rows.true_GB, beaten_GB)
    return np.asarray(wins_B / (rows.positives_B * negatives_B))
