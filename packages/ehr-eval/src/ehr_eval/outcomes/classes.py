"""One of several classes: metrics, the majority class, multinomial logistic regression.

n rows, B draws, C classes.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import MaxAbsScaler

from ehr_eval.features.mapped import Matrix
from ehr_eval.frames import KEY, in_order_of
from ehr_eval.judge.bootstrap import scores
from ehr_eval.judge.metrics.ranked import Floats
from ehr_eval.outcomes.config import OutcomesConfig
from ehr_eval.outcomes.problem import Fit, Metric, OutcomeProblem, Rows, Truth
from ehr_eval.prediction_files import PROBABILITY, read_prediction_files, refuse_rows
from ehr_tracking.arrow import labels as label_reader
from ehr_tracking.contracts import CLASSES, ContractError
from ehr_tracking.errors import UserError

_VALUE = "predicted_probability"
_SUM = 1e-3
"""How far probabilities of a row may be from 1 together: some are written as float16."""


def macro_auroc(truth: Truth, probability: Floats, weight: Floats) -> Floats:
    """Mean AUROC of each class that the rows have against the others.

    Args:
        truth: [n]
        probability: [n, C]
        weight: [n, B]

    Returns:
        [B]; NaN where a class has no row in a draw.

    Examples:
        >>> macro_auroc(np.array([0, 1, 1]), np.array([[.6, .4], [.4, .6], [.6, .4]]), np.ones((3, 1)))
        array([0.75])
    """
    each = [
        scores(truth == c, probability[:, c], weight, metrics=("auroc",))["auroc"]
        for c in np.unique(truth)
    ]
    return np.asarray(np.mean(each, axis=0))


def accuracy(truth: Truth, probability: Floats, weight: Floats) -> Floats:
    """Share of the rows whose likeliest class is theirs [B]; of equals the first."""
    with np.errstate(invalid="ignore"):
        return np.asarray((truth == probability.argmax(1)) @ weight / weight.sum(0))


def macro_f1(truth: Truth, probability: Floats, weight: Floats) -> Floats:
    """Mean F1 of the likeliest classes, over the classes that the rows have.

    Args:
        truth: [n]
        probability: [n, C]
        weight: [n, B]

    Returns:
        [B]; NaN where in a draw a class has no row and is said of none.

    Examples:
        >>> macro_f1(np.array([0, 1, 1]), np.array([[.6, .4], [.4, .6], [.6, .4]]), np.ones((3, 1)))
        array([0.66666667])
    """
    said, each = probability.argmax(1), []
    for c in np.unique(truth):
        right = ((truth == c) & (said == c)) @ weight
        wrong = ((truth == c) != (said == c)) @ weight
        with np.errstate(invalid="ignore"):
            each.append(2 * right / (2 * right + wrong))
    return np.asarray(np.mean(each, axis=0))


def confusion(truth: Truth, probability: Floats) -> npt.NDArray[np.int64]:
    """[C, C] rows of each class (down), by what they are called (across).

    Examples:
        >>> confusion(np.array([0, 1, 1]), np.array([[.6, .4], [.4, .6], [.6, .4]])).tolist()
        [[1, 0], [1, 1]]
    """
    classes = probability.shape[1]
    flat = truth * classes + probability.argmax(1)
    return np.bincount(flat, minlength=classes**2).reshape(classes, classes)


def _truth(table: pa.Table, task: str) -> tuple[Truth, tuple[str, ...]]:
    coded = label_reader.classes(table, task=task)["categorical_value"].combine_chunks()
    return coded.indices.to_numpy().astype(np.int64), tuple(coded.dictionary.to_pylist())


def _given(
    paths: Mapping[str, Path], task: str, held_out: pl.DataFrame, names: tuple[str, ...]
) -> tuple[dict[str, Floats], tuple[str, ...]]:
    """Classes that a model tells and the labels lack come behind those of the labels."""
    read = {
        model: read_prediction_files(path, task, CLASSES, {_VALUE: PROBABILITY})
        for model, path in paths.items()
    }
    more = {name for rows in read.values() for name in rows["class"].unique().to_list()}
    every = (*names, *sorted(more - set(names)))
    found = {}
    for model, rows in read.items():
        missing = sorted(set(names) - set(rows["class"].unique().to_list()))
        if missing:
            raise ContractError(
                f"{paths[model]} has no probability of class {missing[0]}, which labels of task {task} "
                "have"
            )
        found[model] = _wide(paths[model], rows, task, held_out, every)
    return found, every


def _wide(
    path: Path, rows: pl.DataFrame, task: str, held_out: pl.DataFrame, names: tuple[str, ...]
) -> Floats:
    """[n, C] in the order of the held-out rows."""
    twice = rows.filter(pl.struct(*KEY, "class").is_duplicated())
    refuse_rows(twice, path, "has a class twice")
    told = rows.pivot("class", index=KEY, values=_VALUE)
    here = [name for name in names if name in told.columns]
    refuse_rows(told.filter(pl.any_horizontal(pl.col(here).is_null())), path, "lacks a class")
    off = (pl.sum_horizontal(here) - 1).abs() > _SUM
    refuse_rows(told.filter(off), path, "has probabilities that are not 1 together")
    what = f"held-out labels of task {task}"
    found = in_order_of(held_out.select(KEY), told, where=path, what=what)
    absent = [pl.lit(0.0).alias(name) for name in names if name not in told.columns]
    return found.with_columns(absent).select(names).to_numpy()


def _floor(train: Truth, rows: int, classes: int) -> Floats:
    """The share of each class in train, so that the likeliest is the majority class."""
    return np.tile(np.bincount(train, minlength=classes) / len(train), (rows, 1))


def _fit(train: Rows, tuning: Rows, new: Matrix, classes: int, config: OutcomesConfig) -> Fit:
    """Multinomial logistic regression on features divided by their largest magnitude.

    Raises:
        UserError: If train has one class.
    """
    x, y = train
    if len(np.unique(y)) < 2:
        raise UserError("all rows in train are of one class: there is nothing to tell apart")
    scaler = MaxAbsScaler().fit(x)
    x, x_tuning, x_new = (scaler.transform(each.astype(np.float64)) for each in (x, tuning[0], new))

    def predict(model: LogisticRegression, rows: Matrix) -> Floats:
        found = np.zeros((rows.shape[0], classes))
        found[:, model.classes_] = model.predict_proba(rows)
        return found

    best, kept = np.inf, None
    for c in config.c:
        model = LogisticRegression(C=c, max_iter=config.max_iter, tol=1e-6)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # is told in `selected`
            model.fit(x, y)
        told = np.clip(predict(model, x_tuning), 1e-15, None)  # a class that train lacks
        told /= told.sum(1, keepdims=True)
        loss = float(log_loss(tuning[1], told, labels=np.arange(classes)))
        if loss < best:
            best, kept = loss, (model, c)
    assert kept is not None  # a log loss of clipped probabilities is finite
    model, c = kept
    steps = int(np.max(model.n_iter_))
    unconverged = {} if steps < config.max_iter else {"unconverged_after": steps}
    return Fit(predict(model, x_new), {"c": c, **unconverged})


MULTICLASS = OutcomeProblem(
    name="multiclass",
    truth=_truth,
    given=_given,
    floor=_floor,
    floor_head="majority",
    fit=_fit,
    head="lr",
    metrics=MappingProxyType(
        {
            "macro_auroc": Metric("Macro AUROC", macro_auroc, "one class in held_out"),
            "accuracy": Metric("Accuracy", accuracy, "no row in held_out"),
            "macro_f1": Metric("Macro F1", macro_f1, "no row in held_out"),
        }
    ),
    compared="macro_auroc",
)
