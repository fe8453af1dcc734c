"""Classifiers on frozen features: fitted on the shots, chosen on the tuning shots.

n rows, d features. Every point of a head's grid is fitted on the training shots alone; the one with
the best tuning AUROC is kept (the first of equals, in the grid's order). Fits are deterministic, so
the kept model is what a refit with the same seed would be.
"""

import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import lightgbm
import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from ehr_eval.config import HeadConfig, LightGBMConfig, LogisticRegressionConfig
from ehr_eval.features.read import Matrix
from ehr_eval.metrics import Floats, evaluate

_Predict = Callable[[Matrix], Floats]

SEED = 0

_MOST_ROWS = 1000
"""Above these, the eigenvectors of the rows' Gram matrix cost more than they save."""


class Fitted(NamedTuple):
    """What a head says of new rows."""

    probability: Floats
    """[n] of the positive class."""
    selected: dict[str, float]
    """The grid's point that was kept."""


def fit_predict(
    head: HeadConfig,
    train: tuple[Matrix, npt.NDArray[np.bool_]],
    tuning: tuple[Matrix, npt.NDArray[np.bool_]],
    new: Matrix,
    *,
    threads: int = 1,
) -> Fitted:
    """Fit a head at every point of its grid, keep the best on the tuning rows, predict.

    Args:
        head: Kind and grid.
        train: Features and labels to fit on; both classes present.
        tuning: Features and labels to choose on; both classes present.
        new: Features to predict for.
        threads: For tree building.
    """
    x_tuning, y_tuning = tuning
    if isinstance(head, LogisticRegressionConfig):
        fits = _logistic_regressions(head, *train)
    else:
        fits = _boosted_trees(head, *train, threads)
    best = -np.inf
    for point, fit in fits:
        score = evaluate(y_tuning, fit(x_tuning))["auroc"][0]
        if score > best:
            best, selected, predict = score, point, fit
    return Fitted(predict(new), selected)


def _logistic_regressions(
    head: LogisticRegressionConfig, x: Matrix, y: npt.NDArray[np.bool_]
) -> Iterator[tuple[dict[str, float], _Predict]]:
    """Each feature is divided by its largest magnitude; the weights returned undo that."""
    scale = _max_abs(x)
    rows, back = _own_coordinates(_scaled(x, scale))
    for c in head.c:
        model = LogisticRegression(C=c, max_iter=head.max_iter, random_state=SEED)
        with warnings.catch_warnings():
            # an almost unpenalised fit of separable shots never converges; tuning judges it
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(rows, y)
        weight, bias = back(model.coef_[0]) / scale, float(model.intercept_[0])

        def predict(new: Matrix, weight: Floats = weight, bias: float = bias) -> Floats:
            return np.asarray(expit(new @ weight + bias), np.float64)

        yield {"C": c}, predict


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


def _boosted_trees(
    head: LightGBMConfig, x: Matrix, y: npt.NDArray[np.bool_], threads: int
) -> Iterator[tuple[dict[str, float], _Predict]]:
    fixed = {
        "objective": "binary",
        "min_child_samples": 1,  # else a handful of shots could not be split
        "seed": SEED,
        "deterministic": True,
        "force_col_wise": True,
        "num_threads": threads,
        "verbosity": -1,
    }
    used = _varying(x)  # no tree can split the others, and of counts few shots have any
    data = lightgbm.Dataset(x[:, used], y.astype(np.float32), params=fixed, free_raw_data=False)
    grid = itertools.product(head.learning_rate, head.max_depth, head.num_leaves)
    for learning_rate, max_depth, num_leaves in grid:
        point = {
            "learning_rate": learning_rate,
            "max_depth": max_depth,
            "num_leaves": num_leaves,
        }
        model = lightgbm.train({**fixed, **point}, data, num_boost_round=head.rounds)

        def predict(new: Matrix, model: Any = model) -> Floats:  # noqa: ANN401
            return np.asarray(model.predict(new[:, used], num_threads=threads), np.float64)

        yield point, predict


def _max_abs(x: Matrix) -> Floats:
    """[d] largest magnitude of each feature, 1 where it is always 0."""
    scale = _dense(abs(x).max(axis=0))
    return np.where(scale == 0, 1.0, scale)


def _scaled(x: Matrix, scale: Floats) -> Matrix:
    """Divide each feature by its scale, in float64: L-BFGS stalls in float32."""
    if sparse.issparse(x):
        return sparse.csr_matrix(x.astype(np.float64) @ sparse.diags(1 / scale))
    return x.astype(np.float64) / scale


def _varying(x: Matrix) -> npt.NDArray[np.int64]:
    """Features with more than one value; the first where there is none."""
    found = np.flatnonzero(_dense(x.max(axis=0)) != _dense(x.min(axis=0)))
    return found if len(found) else np.zeros(1, np.int64)


def _dense(row: Any) -> Floats:  # noqa: ANN401 -- what scipy makes of one row
    values = row.toarray() if sparse.issparse(row) else row
    return np.asarray(values, np.float64).reshape(-1)
