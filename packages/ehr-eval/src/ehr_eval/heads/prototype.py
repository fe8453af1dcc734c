"""Prototypes: a row is of the class whose mean is nearer.

n rows, d features.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
from pydantic.dataclasses import dataclass
from scipy.special import expit

from ehr_eval.features.mapped import Matrix
from ehr_eval.heads.grid import Fit, HeadConfig, Labels, dense
from ehr_eval.heads.scaling import max_abs, scaled
from ehr_eval.judge.metrics.ranked import Floats
from ehr_tracking.config import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PrototypeConfig(HeadConfig):
    """The prototypical network's head (Snell et al., 2017) on features that are frozen; there is nothing to choose."""

    kind: Literal["prototype"] = "prototype"


def prototypes(config: PrototypeConfig, x: Matrix, y: Labels) -> Iterator[Fit]:
    """The softmax of minus the squared distances to both means, on features divided by their largest magnitude.

    Distances are counted in the mean squared distance of the rows to the mean of their class, without which
    probabilities would all be 0 or 1 where features are many.
    """
    del config
    scale = max_abs(x)
    rows = scaled(x, scale)
    no, yes = (dense(rows[label].mean(axis=0)) for label in (np.flatnonzero(~y), np.flatnonzero(y)))
    means = np.where(y[:, None], yes, no)
    squares = (
        rows.multiply(rows).sum(axis=1) if hasattr(rows, "multiply") else (rows**2).sum(axis=1)
    )
    within = np.asarray(squares).reshape(-1) - 2 * _along(rows, means) + (means**2).sum(axis=1)
    apart = float(((yes - no) ** 2).sum())
    unit = max(float(within.mean()), 1e-6 * apart) or 1.0  # no spread where each class has one row
    weight = 2 * (yes - no) / scale / unit
    bias = float(no @ no - yes @ yes) / unit

    def predict(new: Matrix) -> Floats:
        return np.asarray(expit(new @ weight + bias), np.float64)

    yield Fit({}, predict)


def _along(rows: Matrix, means: Floats) -> Floats:
    """[n] each row times its mean."""
    if hasattr(rows, "multiply"):
        return np.asarray(rows.multiply(means).sum(axis=1)).reshape(-1)
    return np.asarray(np.einsum("ij,ij->i", rows, means))
