"""Logistic regression with an L2 penalty, on features divided by their largest magnitude.

n rows, d features.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass
from scipy import sparse
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from ehr_eval.features.mapped import Matrix
from ehr_eval.heads.grid import Fit, HeadConfig, Labels, dense
from ehr_eval.heads.logistic import Logistic, fit
from ehr_eval.heads.scaling import max_abs, scaled
from ehr_eval.judge.metrics.ranked import Floats
from ehr_tracking.config import STRICT

_MOST_ROWS = 1000
"""Above these, the eigenvectors of the rows' Gram matrix cost more than they save."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LogisticRegressionConfig(HeadConfig):
    """L2-regularised logistic regression on features scaled to [-1, 1]."""

    kind: Literal["lr"] = "lr"
    c: Annotated[tuple[float, ...], Field(min_length=1)] = (
        1e-8,
        1e-6,
        1e-4,
        1e-2,
        1e-1,
        1.0,
        1e2,
        1e4,
    )
    """Inverse strengths of the penalty to choose from."""
    max_iter: int = Field(default=10_000, ge=1)
    """Most steps of one fit. A fit that needs more is judged where it stands, and is told."""


def logistic_regressions(config: LogisticRegressionConfig, x: Matrix, y: Labels) -> Iterator[Fit]:
    """One fit for each strength; the weights undo the scaling of the features.

    Every fit is at the minimum of its loss, to the last few digits: none depends on the fit of the
    strength before, from which it starts.
    """
    scale, mean = max_abs(x), dense(x.mean(axis=0))
    rows, back = _own_coordinates(scaled(x, scale))
    start = np.zeros(rows.shape[1] + 1)
    for c in config.c:
        found = fit(Logistic(rows, y, c), start, max_iter=config.max_iter)
        start = np.append(found.weight, found.bias)
        weight, bias = back(found.weight) / scale, found.bias

        def predict(new: Matrix, weight: Floats = weight, bias: float = bias) -> Floats:
            return np.asarray(expit(new @ weight + bias), np.float64)

        def shap(new: Matrix, weight: Floats = weight, bias: float = bias) -> Floats:
            # Lundberg and Lee (2017), corollary 1: exact where features are taken as independent
            beyond = _in_full(new) - mean
            start = np.full((len(beyond), 1), mean @ weight + bias)
            return np.concatenate([beyond * weight, start], axis=1)

        yield Fit({"c": c}, predict, found.converged, shap)


def _own_coordinates(x: Matrix) -> tuple[Matrix, Callable[[Floats], Floats]]:
    """Few rows of many features in an orthonormal basis of the space that the rows span.

    Penalised weights lie in that space, where lengths and angles are the same: the fit is the same,
    in at most n instead of d unknowns.

    Returns:
        The rows in the basis, and the map of a weight vector back to the features.
    """
    n, d = x.shape
    if n > min(d, _MOST_ROWS):
        return x, lambda weight: weight
    gram: Any = x @ x.T
    values, vectors = np.linalg.eigh(gram.toarray() if sparse.issparse(gram) else gram)
    kept = values > max(values[-1], 0) * n * np.finfo(np.float64).eps
    length = np.sqrt(values[kept])
    if not len(length):  # all features are 0
        return np.zeros((n, 1)), lambda _: np.zeros(d)
    return vectors[:, kept] * length, lambda weight: x.T @ (vectors[:, kept] @ (weight / length))


def _in_full(x: Any) -> Floats:  # noqa: ANN401 -- dense or CSR
    return np.asarray(x.toarray() if sparse.issparse(x) else x, np.float64)


def refit_of_the_original(
    config: LogisticRegressionConfig, point: dict[str, float], x: Matrix, y: Labels, seed: int
) -> Fit:
    """EHRSHOT's own refit: its class anew with C alone, so L-BFGS ends after 100 steps, where ever it is.

    Its scikit-learn added up the loss over rows; a current one averages it, so the tolerance is per row.
    """
    del config, seed
    scale = max_abs(x)
    model = LogisticRegression(C=point["c"], tol=1e-4 / len(y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(scaled(x, scale), y)
    weight, bias = model.coef_[0] / scale, float(model.intercept_[0])
    return Fit(point, lambda new: np.asarray(expit(new @ weight + bias), np.float64))
