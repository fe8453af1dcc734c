"""A linear probe: a linear layer trained by stochastic gradient descent, with scikit-learn.

n rows, d features.
"""

import warnings
from collections.abc import Iterator
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import SGDClassifier

from ehr_eval.features.mapped import Matrix
from ehr_eval.heads.grid import SEED, Fit, HeadConfig, Labels
from ehr_eval.heads.scaling import max_abs, scaled
from ehr_eval.judge.metrics.ranked import Floats
from ehr_tracking.config import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LinearProbeConfig(HeadConfig):
    """What model papers call a linear probe: not the minimum of a loss, but so many passes towards it."""

    kind: Literal["linear_probe"] = "linear_probe"
    weight_decay: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (
        1e-5,
        1e-4,
        1e-3,
        1e-2,
    )
    """Strengths of the penalty to choose from (`alpha` of scikit-learn)."""
    epochs: PositiveInt = 50
    """Passes over the rows; weights are averaged over the steps."""


def linear_probes(config: LinearProbeConfig, x: Matrix, y: Labels) -> Iterator[Fit]:
    """One fit for each penalty, on features divided by their largest magnitude."""
    scale = max_abs(x)
    rows = scaled(x, scale)
    for decay in config.weight_decay:
        model = SGDClassifier(
            "log_loss",
            alpha=decay,
            max_iter=config.epochs,
            tol=None,
            average=True,
            random_state=SEED,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # passes are what was asked for
            model.fit(rows, y)
        weight, bias = model.coef_[0] / scale, float(model.intercept_[0])

        def predict(new: Matrix, weight: Floats = weight, bias: float = bias) -> Floats:
            return np.asarray(expit(new @ weight + bias), np.float64)

        yield Fit({"weight_decay": decay}, predict)
