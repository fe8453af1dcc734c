"""Gradient-boosted trees: LightGBM.

n rows, d features.
"""

import itertools
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import lightgbm
import numpy as np
import numpy.typing as npt
from pydantic import Field
from pydantic.dataclasses import dataclass

from ehr_eval.features.mapped import Matrix
from ehr_eval.heads.grid import SEED, Fit, HeadConfig, Labels, dense
from ehr_eval.judge.metrics.ranked import Floats
from ehr_tracking.config import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LightGBMConfig(HeadConfig):
    """Gradient-boosted trees."""

    kind: Literal["gbm"] = "gbm"
    max_depth: Annotated[tuple[int, ...], Field(min_length=1)] = (3, 6, -1)
    learning_rate: Annotated[tuple[float, ...], Field(min_length=1)] = (0.02, 0.1, 0.5)
    num_leaves: Annotated[tuple[int, ...], Field(min_length=1)] = (10, 25, 100)
    rounds: int = Field(default=100, ge=1)
    """Trees."""


def boosted_trees(config: LightGBMConfig, x: Matrix, y: Labels) -> Iterator[Fit]:
    """One fit for each learning rate, depth and number of leaves."""
    fixed = {
        "objective": "binary",
        "min_child_samples": 1,  # else a handful of shots could not be split
        "seed": SEED,
        "deterministic": True,
        "force_col_wise": True,
        "num_threads": 1,
        "verbosity": -1,
    }
    used = _varying(x)  # no tree can split the others, and of counts few shots have any
    data = lightgbm.Dataset(x[:, used], y.astype(np.float32), params=fixed, free_raw_data=False)
    grid = itertools.product(config.learning_rate, config.max_depth, config.num_leaves)
    for learning_rate, max_depth, num_leaves in grid:
        point = {
            "learning_rate": learning_rate,
            "max_depth": max_depth,
            "num_leaves": num_leaves,
        }
        model = lightgbm.train({**fixed, **point}, data, num_boost_round=config.rounds)

        def predict(new: Matrix, model: Any = model) -> Floats:  # noqa: ANN401
            return np.asarray(model.predict(new[:, used], num_threads=1), np.float64)

        yield Fit(point, predict)


def _varying(x: Matrix) -> npt.NDArray[np.int64]:
    """Features with more than one value; the first where there is none."""
    found = np.flatnonzero(dense(x.max(axis=0)) != dense(x.min(axis=0)))
    return found if len(found) else np.zeros(1, np.int64)
