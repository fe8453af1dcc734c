"""The grids of heads on 2,000 x 768 features, beside a plain loop over scikit-learn's classifiers.

Both fit every point on the training rows, choose by the AUROC of the tuning rows and predict. scikit-learn's logistic
regression is given the tolerance at which it gets to the minimum (`tol=1e-4/n`): at its default it does not, and another
point may be chosen. LightGBM is the same library on both sides.
"""

import itertools
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from lightgbm import LGBMClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import MaxAbsScaler

from ehr_eval.heads.gbm import LightGBMConfig
from ehr_eval.heads.grid import HeadConfig
from ehr_eval.heads.lr import LogisticRegressionConfig
from ehr_eval.heads.select import fit_predict

Data = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
WIDTH = 768


def measure(*, quick: bool) -> list[dict[str, Any]]:
    """A row a head and number of training rows."""
    few = (16,) if quick else (16, 256, 2000)
    return [
        row("lr", LogisticRegressionConfig(), regressions, 2000, target=5.0),
        *(row("gbm", LightGBMConfig(), boosters, n, target=None) for n in few),
    ]


def row(
    head: str,
    config: HeadConfig,
    points: Callable[[int], Iterator[Any]],
    n: int,
    *,
    target: float | None,
) -> dict[str, Any]:
    """One comparison."""
    x, y, x_tuning, y_tuning = made(n)
    began = time.process_time()
    ours = fit_predict(config, (x, y), (x_tuning, y_tuning), x_tuning)
    middle = time.process_time()
    scale = head == "lr"
    theirs = plain(points(n), (x, y, x_tuning, y_tuning), scale=scale)
    ended = time.process_time()
    return {
        "case": f"{head}, {n:,} x {WIDTH}",
        "ours": round(middle - began, 3),
        "theirs": round(ended - middle, 3),
        "ratio": round((ended - middle) / (middle - began), 2),
        "target": target,
        "largest difference of a probability": float(np.abs(ours.probability - theirs).max()),
    }


def made(n: int) -> Data:
    """So many training and 1,000 tuning rows, of features that go together as those of a model do."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(n + 1000, WIDTH)) * np.arange(1, WIDTH + 1) ** -0.5
    x = np.tanh(3 * hidden @ (rng.normal(size=(WIDTH, WIDTH)) / WIDTH**0.5)).astype(np.float32)
    score = hidden @ (rng.normal(size=WIDTH) * np.arange(1, WIDTH + 1) ** -0.5)
    y = rng.random(len(x)) < 1 / (1 + np.exp(1 - 1.5 * score / score.std()))
    return x[:n], y[:n], x[n:], y[n:]


def regressions(n: int) -> Iterator[Any]:
    """scikit-learn's, at each strength."""
    for c in LogisticRegressionConfig().c:
        yield LogisticRegression(C=c, tol=1e-4 / n, max_iter=10_000)


def boosters(n: int) -> Iterator[Any]:
    """LightGBM's by its interface for scikit-learn, in the order of our grid."""
    del n
    grid = LightGBMConfig()
    fixed = {"min_child_samples": 1, "n_estimators": 100, "random_state": 0, "n_jobs": 1,
             "deterministic": True, "force_col_wise": True, "verbosity": -1}  # fmt: skip
    points = itertools.product(grid.learning_rate, grid.max_depth, grid.num_leaves)
    for rate, depth, leaves in points:
        yield LGBMClassifier(learning_rate=rate, max_depth=depth, num_leaves=leaves, **fixed)


def plain(models: Iterator[Any], data: Data, *, scale: bool) -> np.ndarray:
    """What the point of best tuning AUROC says of the tuning rows."""
    x, y, x_tuning, y_tuning = data
    if scale:
        scaler = MaxAbsScaler().fit(x)
        x, x_tuning = (scaler.transform(each.astype(np.float64)) for each in (x, x_tuning))
    best, kept = -1.0, np.zeros(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", message="X does not have valid feature names")
        for model in models:
            probability = model.fit(x, y).predict_proba(x_tuning)[:, 1]
            value = roc_auc_score(y_tuning, probability)
            if value > best:
                best, kept = value, probability
    return kept
