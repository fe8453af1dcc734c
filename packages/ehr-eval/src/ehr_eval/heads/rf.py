"""Random forests: scikit-learn.

n rows, d features.
"""

import itertools
from collections.abc import Iterator
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, PositiveInt
from pydantic.dataclasses import dataclass
from sklearn.ensemble import RandomForestClassifier

from ehr_eval.features.mapped import Matrix
from ehr_eval.heads.grid import SEED, Fit, HeadConfig, Labels
from ehr_eval.judge.metrics.ranked import Floats
from ehr_tracking.config import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RandomForestConfig(HeadConfig):
    """Trees on resampled rows, averaged (Breiman, 2001); the grid is EHRSHOT's."""

    kind: Literal["rf"] = "rf"
    n_estimators: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (10, 20, 50, 100, 300)
    """Trees."""
    max_depth: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (3, 5, 10, 20, 50)


def random_forests(config: RandomForestConfig, x: Matrix, y: Labels) -> Iterator[Fit]:
    """One fit for each depth and number of trees."""
    for trees, depth in itertools.product(config.n_estimators, config.max_depth):
        model = RandomForestClassifier(trees, max_depth=depth, random_state=SEED, n_jobs=1)
        model.fit(x, y)

        def predict(new: Matrix, model: RandomForestClassifier = model) -> Floats:
            return np.asarray(model.predict_proba(new)[:, 1], np.float64)

        yield Fit({"n_estimators": trees, "max_depth": depth}, predict)
