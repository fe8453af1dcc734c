"""Classifiers on frozen features: fitted on the shots, chosen on the tuning shots.

n rows, d features. Every point of a head's grid is fitted on the training shots alone; the one with
the best tuning AUROC is kept (the first of equals, in the grid's order). Fits are deterministic, so
the kept model is what a refit with the same seed would be.
"""

import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import sparse

from ehr_eval.config import HeadConfig, LightGBMConfig, LogisticRegressionConfig
from ehr_eval.metrics import Floats, evaluate

Matrix: TypeAlias = "npt.NDArray[np.floating[Any]] | sparse.csr_matrix"
"""[n, d], dense or CSR."""

_Predict = Callable[[Matrix], Floats]

SEED = 0


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
    x_train, y_train = train
    x_tuning, y_tuning = tuning
    if isinstance(head, LogisticRegressionConfig):
        scale = _max_abs(x_train)
        x_train, x_tuning, new = (_scaled(x, scale) for x in (x_train, x_tuning, new))
        fits = _logistic_regressions(head, x_train, y_train)
    else:
        fits = _boosted_trees(head, x_train, y_train, threads)
    best = -np.inf
    for point, fit in fits:
        score = evaluate(y_tuning, fit(x_tuning))["auroc"][0]
        if score > best:
            best, selected, predict = score, point, fit
    return Fitted(predict(new), selected)


def _logistic_regressions(
    head: LogisticRegressionConfig, x: Matrix, y: npt.NDArray[np.bool_]
) -> Iterator[tuple[dict[str, float], _Predict]]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    for c in head.c:
        model = LogisticRegression(C=c, max_iter=head.max_iter, random_state=SEED)
        with warnings.catch_warnings():
            # an almost unpenalised fit of separable shots never converges; tuning judges it
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(x, y)

        def predict(new: Matrix, model: Any = model) -> Floats:  # noqa: ANN401
            return np.asarray(model.predict_proba(new)[:, 1], np.float64)

        yield {"C": c}, predict


def _boosted_trees(
    head: LightGBMConfig, x: Matrix, y: npt.NDArray[np.bool_], threads: int
) -> Iterator[tuple[dict[str, float], _Predict]]:
    import lightgbm

    fixed = {
        "objective": "binary",
        "min_child_samples": 1,  # else a handful of shots could not be split
        "seed": SEED,
        "deterministic": True,
        "force_col_wise": True,
        "num_threads": threads,
        "verbosity": -1,
    }
    data = lightgbm.Dataset(x, y.astype(np.float32), params=fixed, free_raw_data=False)
    grid = itertools.product(head.learning_rate, head.max_depth, head.num_leaves)
    for learning_rate, max_depth, num_leaves in grid:
        point = {
            "learning_rate": learning_rate,
            "max_depth": max_depth,
            "num_leaves": num_leaves,
        }
        model = lightgbm.train({**fixed, **point}, data, num_boost_round=head.rounds)

        def predict(new: Matrix, model: Any = model) -> Floats:  # noqa: ANN401
            return np.asarray(model.predict(new, num_threads=threads), np.float64)

        yield point, predict


def _max_abs(x: Matrix) -> Floats:
    """[d] largest magnitude of each feature, 1 where it is always 0."""
    largest: Any = abs(x).max(axis=0)
    if sparse.issparse(largest):
        largest = largest.toarray()
    scale = np.asarray(largest, np.float64).reshape(-1)
    return np.where(scale == 0, 1.0, scale)


def _scaled(x: Matrix, scale: Floats) -> Matrix:
    """Divide each feature by its scale, in float64: L-BFGS stalls in float32."""
    if sparse.issparse(x):
        return sparse.csr_matrix(x.astype(np.float64) @ sparse.diags(1 / scale))
    return x.astype(np.float64) / scale
