"""Features divided by their largest magnitude, as EHRSHOT scales them for what has no trees.

n rows, d features.
"""

import numpy as np
from scipy import sparse

from ehr_eval.features.mapped import Matrix
from ehr_eval.heads.grid import dense
from ehr_eval.judge.metrics.ranked import Floats


def max_abs(x: Matrix) -> Floats:
    """[d] largest magnitude of each feature, 1 where it is always 0."""
    scale = dense(abs(x).max(axis=0))
    return np.where(scale == 0, 1.0, scale)


def scaled(x: Matrix, scale: Floats) -> Matrix:
    """Divide each feature by its scale, in float64: in float32 no fit gets to its minimum."""
    if sparse.issparse(x):
        return sparse.csr_matrix(x.astype(np.float64) @ sparse.diags(1 / scale))
    return x.astype(np.float64) / scale
