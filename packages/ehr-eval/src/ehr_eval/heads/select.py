"""Fit a head on the shots, choose a point of its grid on the tuning shots, predict.

Every point is fitted on the training shots alone; the one with the best tuning AUROC is kept (the
first of equals, in the order in which they were tried). The threshold of F1 is chosen with that fit; then
it is fitted anew on both, where that is asked.
"""

from typing import NamedTuple

import numpy as np
from scipy import sparse

from ehr_eval.features.mapped import Matrix
from ehr_eval.heads import HEADS
from ehr_eval.heads.grid import Fit, HeadConfig, Labels
from ehr_eval.heads.search import fit_at, tried
from ehr_eval.judge.bootstrap import scores
from ehr_eval.judge.metrics.f1 import best_threshold
from ehr_eval.judge.metrics.ranked import Floats


class Fitted(NamedTuple):
    """What a head says of new rows."""

    probability: Floats
    """[n] of the positive class."""
    selected: dict[str, float]
    """The grid's point that was kept."""
    threshold: float
    """What is called positive is at least as probable: of highest F1 on the tuning rows."""
    tuning: Floats
    """[m] probabilities of the tuning rows, by the fit that was chosen, before any refit."""
    unconverged: tuple[dict[str, float], ...] = ()
    """Points of the grid whose fits were ended before they converged."""


def fit_predict(
    config: HeadConfig,
    train: tuple[Matrix, Labels],
    tuning: tuple[Matrix, Labels],
    new: Matrix,
    original: int | None = None,
) -> Fitted:
    """Fit a head at every point of its grid, keep the best on the tuning rows, predict.

    Args:
        config: Of a head: its kind and grid.
        train: Features and labels to fit on; both classes present.
        tuning: Features and labels to choose on; both classes present.
        new: Features to predict for.
        original: Of a replicate: refit as EHRSHOT's own code does.
    """
    x_tuning, y_tuning = tuning

    def score(fit: Fit) -> float:
        return float(scores(y_tuning, fit.predict(x_tuning), metrics=("auroc",))["auroc"][0])

    best, unconverged = -np.inf, []
    for fit, value in tried(config, train, score):
        if value > best:
            best, chosen = value, fit
        if not fit.converged:
            unconverged.append(fit.point)
    told = chosen.predict(x_tuning)
    threshold = best_threshold(y_tuning, told)
    if config.refit:
        chosen = fit_at(config, chosen.point, *_together(train, tuning))
        if not chosen.converged:
            unconverged.append(chosen.point)
    refit = HEADS[config.kind].original
    if original is not None and refit is not None:
        chosen = refit(config, chosen.point, *train, original)
    return Fitted(chosen.predict(new), chosen.point, threshold, told, tuple(unconverged))


def _together(*parts: tuple[Matrix, Labels]) -> tuple[Matrix, Labels]:
    """The rows of one after those of the other."""
    xs, ys = zip(*parts, strict=True)
    if any(sparse.issparse(x) for x in xs):
        return sparse.vstack(xs, format="csr"), np.concatenate(ys)
    return np.concatenate(xs), np.concatenate(ys)
