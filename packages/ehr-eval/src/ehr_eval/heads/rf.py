"""Random forests: scikit-learn.

n rows, d features.
"""

import itertools
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, PositiveInt
from pydantic.dataclasses import dataclass
from sklearn.ensemble import RandomForestClassifier

from ehr_eval.features.mapped import Matrix
from ehr_eval.heads.grid import SEED, Fit, HeadConfig, Labels
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
        yield _forest({"n_estimators": trees, "max_depth": depth}, x, y, SEED)


def refit_of_the_original(
    config: RandomForestConfig, point: dict[str, float], x: Matrix, y: Labels, seed: int
) -> Fit:
    """EHRSHOT's own refit has no seed, so draws anew on each run; here the seed is the replicate and one."""
    del config
    return _forest(point, x, y, seed + 1)


def _forest(point: dict[str, Any], x: Matrix, y: Labels, seed: int) -> Fit:
    model = RandomForestClassifier(**point, random_state=seed, n_jobs=1).fit(x, y)
    return Fit(point, lambda new: np.asarray(model.predict_proba(new)[:, 1], np.float64))
