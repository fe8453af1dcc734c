"""A number: metrics, the mean of train, ridge regression.

n rows, B draws.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import polars as pl
import pyarrow as pa
from sklearn.linear_model import Ridge
from sklearn.preprocessing import MaxAbsScaler

from ehr_eval.features.mapped import Matrix
from ehr_eval.frames import KEY, in_order_of
from ehr_eval.judge.metrics.ranked import Floats
from ehr_eval.outcomes.config import OutcomesConfig
from ehr_eval.outcomes.problem import Fit, Metric, OutcomeProblem, Rows, Truth
from ehr_eval.prediction_files import FINITE, read_prediction_files, refuse_rows
from ehr_tracking.arrow import labels as label_reader
from ehr_tracking.contracts import NUMBERS

_VALUE = "predicted_value"


def mae(truth: Truth, predicted: Floats, weight: Floats) -> Floats:
    """Mean absolute error [B], in the unit of the labels."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.abs(truth - predicted[:, 0]) @ weight / weight.sum(0))


def rmse(truth: Truth, predicted: Floats, weight: Floats) -> Floats:
    """Root of the mean squared error [B], in the unit of the labels."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.sqrt((truth - predicted[:, 0]) ** 2 @ weight / weight.sum(0)))


def r2(truth: Truth, predicted: Floats, weight: Floats) -> Floats:
    """1 - squared error / squared distance from the mean of the rows judged [B]; NaN where that is 0.

    Examples:
        >>> r2(np.array([1.0, 2.0, 3.0]), np.array([[1.0], [2.0], [2.0]]), np.ones((3, 1)))
        array([0.5])
    """
    off = (truth - predicted[:, 0]) ** 2 @ weight
    found = np.full(weight.shape[1], np.nan)
    for b, w in enumerate(weight.T):
        if len(np.unique(truth[w > 0])) > 1:
            mean = w @ truth / w.sum()
            found[b] = 1 - off[b] / (w @ (truth - mean) ** 2)
    return found


def spearman(truth: Truth, predicted: Floats, weight: Floats) -> Floats:
    """Spearman's rank correlation [B], equal values at the mean of their ranks.

    Args:
        truth: [n]
        predicted: [n, 1]
        weight: [n, B] how often each row is there.

    Returns:
        [B]; NaN where all are equal.

    Examples:
        >>> spearman(np.array([1.0, 2.0, 3.0]), np.array([[1.0], [3.0], [2.0]]), np.ones((3, 1)))
        array([0.5])
    """
    groups = [np.unique(values, return_inverse=True)[1] for values in (truth, predicted[:, 0])]
    found = np.full(weight.shape[1], np.nan)
    for b, w in enumerate(weight.T):
        mine, theirs = (_centred_ranks(group, w) for group in groups)
        spread = (w @ mine**2) * (w @ theirs**2)
        if spread > 0:
            found[b] = (w * mine) @ theirs / np.sqrt(spread)
    return found


def _centred_ranks(group: Truth, weight: Floats) -> Floats:
    """[n] rank minus the mean rank: exact, since ranks are halves of whole numbers."""
    count = np.bincount(group, weights=weight)
    rank = np.cumsum(count) - (count - 1) / 2
    return np.asarray(rank[group] - (weight.sum() + 1) / 2)


def _truth(table: pa.Table, task: str) -> tuple[Truth, tuple[str, ...]]:
    return label_reader.numbers(table, task=task)["float_value"].to_numpy(), ()


def _given(
    paths: Mapping[str, Path], task: str, held_out: pl.DataFrame, names: tuple[str, ...]
) -> tuple[dict[str, Floats], tuple[str, ...]]:
    found = {}
    for model, path in paths.items():
        rows = read_prediction_files(path, task, NUMBERS, {_VALUE: FINITE})
        refuse_rows(rows.filter(pl.struct(KEY).is_duplicated()), path, "is predicted twice")
        what = f"held-out labels of task {task}"
        told = in_order_of(held_out.select(KEY), rows, where=path, what=what)
        found[model] = told.select(_VALUE).to_numpy()
    return found, names


def _floor(train: Truth, rows: int, width: int) -> Floats:
    return np.full((rows, width), train.mean())


def _fit(train: Rows, tuning: Rows, new: Matrix, width: int, config: OutcomesConfig) -> Fit:  # noqa: ARG001 -- the same in each
    """Ridge regression on features divided by their largest magnitude."""
    scaler = MaxAbsScaler().fit(train[0])
    x, x_tuning, x_new = (
        scaler.transform(each.astype(np.float64)) for each in (train[0], tuning[0], new)
    )
    best, kept = np.inf, None
    for alpha in config.alpha:
        model = Ridge(alpha=alpha, tol=1e-8).fit(x, train[1])
        error = float(np.mean((model.predict(x_tuning) - tuning[1]) ** 2))
        if error < best:
            best, kept = error, (model, alpha)
    assert kept is not None  # labels and features are finite
    model, alpha = kept
    return Fit(model.predict(x_new)[:, None], {"alpha": alpha})


REGRESSION = OutcomeProblem(
    name="regression",
    truth=_truth,
    given=_given,
    floor=_floor,
    floor_head="mean",
    fit=_fit,
    head="ridge",
    metrics=MappingProxyType(
        {
            "mae": Metric("MAE (lower is better)", mae, "no row in held_out"),
            "rmse": Metric("RMSE (lower is better)", rmse, "no row in held_out"),
            "r2": Metric("R2", r2, "all of held_out are the same number"),
            "spearman": Metric(
                "Spearman", spearman, "all numbers, or all predictions, are the same"
            ),
        }
    ),
    compared="rmse",
)
