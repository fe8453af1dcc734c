"""Nearest neighbours: scikit-learn.

n rows, d features.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, PositiveInt
from pydantic.dataclasses import dataclass
from sklearn.neighbors import KNeighborsClassifier

from ehr_eval.features.mapped import Matrix
from ehr_eval.heads.grid import Fit, HeadConfig, Labels
from ehr_eval.heads.scaling import max_abs, scaled
from ehr_eval.judge.metrics.ranked import Floats
from ehr_tracking.config import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NeighboursConfig(HeadConfig):
    """The share of positives among the nearest rows, the nearer the heavier."""

    kind: Literal["knn"] = "knn"
    neighbours: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 3, 5, 10, 25, 50, 100)
    """How many are asked; more than there are rows: all."""


def nearest_neighbours(config: NeighboursConfig, x: Matrix, y: Labels) -> Iterator[Fit]:
    """One fit for each number of neighbours, on features divided by their largest magnitude."""
    scale = max_abs(x)
    rows = scaled(x, scale)
    for neighbours in config.neighbours:
        model = KNeighborsClassifier(min(neighbours, len(y)), weights="distance", n_jobs=1)
        model.fit(rows, y)

        def predict(new: Matrix, model: KNeighborsClassifier = model) -> Floats:
            return np.asarray(model.predict_proba(scaled(new, scale))[:, 1], np.float64)

        yield Fit({"neighbours": neighbours}, predict)
