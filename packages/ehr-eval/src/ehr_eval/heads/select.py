"""Fit a head on the shots, choose a point of its grid on the tuning shots, predict.

Every point is fitted on the training shots alone; the one with the best tuning AUROC is kept (the
first of equals, in the grid's order).
"""

from typing import NamedTuple

import numpy as np

from ehr_eval.features.mapped import Matrix
from ehr_eval.heads import HEADS
from ehr_eval.heads.grid import HeadConfig, Labels
from ehr_eval.judge.bootstrap import scores
from ehr_eval.judge.metrics.ranked import Floats


class Fitted(NamedTuple):
    """What a head says of new rows."""

    probability: Floats
    """[n] of the positive class."""
    selected: dict[str, float]
    """The grid's point that was kept."""
    unconverged: tuple[dict[str, float], ...] = ()
    """Points of the grid whose fits were ended before they converged."""


def fit_predict(
    config: HeadConfig,
    train: tuple[Matrix, Labels],
    tuning: tuple[Matrix, Labels],
    new: Matrix,
) -> Fitted:
    """Fit a head at every point of its grid, keep the best on the tuning rows, predict.

    Args:
        config: Of a head: its kind and grid.
        train: Features and labels to fit on; both classes present.
        tuning: Features and labels to choose on; both classes present.
        new: Features to predict for.
    """
    x_tuning, y_tuning = tuning
    best, unconverged = -np.inf, []
    for fit in HEADS[config.kind].fits(config, *train):
        score = scores(y_tuning, fit.predict(x_tuning), metrics=("auroc",))["auroc"][0]
        if score > best:
            best, chosen = score, fit
        if not fit.converged:
            unconverged.append(fit.point)
    return Fitted(chosen.predict(new), chosen.point, tuple(unconverged))
