"""Area under the precision-recall curve, as average precision."""

import numpy as np

from ehr_eval.judge.metrics.ranked import Floats, Ranked


def auprc(rows: Ranked) -> Floats:
    """Mean over the positive rows of the precision at their probability."""
    ranked_GB = np.cumsum(rows.all_GB, axis=0)
    precision_GB = np.divide(
        rows.above_GB, ranked_GB, out=np.zeros_like(ranked_GB), where=ranked_GB != 0
    )
    return np.asarray(np.einsum("gb,gb->b", rows.true_GB, precision_GB) / rows.positives_B)
