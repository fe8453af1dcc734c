"""Gradient-boosted trees: XGBoost, an extra.

n rows, d features.
"""

import itertools
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from ehr_eval.extras import require
from ehr_eval.features.mapped import Matrix
from ehr_eval.heads.grid import SEED, Fit, HeadConfig, Labels
from ehr_eval.judge.metrics.ranked import Floats
from ehr_tracking.config import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class XGBoostConfig(HeadConfig):
    """Gradient-boosted trees (Chen and Guestrin, 2016).

    Of sparse features, what is not stored is missing: each split learns the side on which it falls.
    """

    kind: Literal["xgb"] = "xgb"
    learning_rate: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (0.02, 0.1, 0.5)
    max_depth: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (3, 6, 10)
    subsample: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1)] = (
        1.0,
    )
    """Share of the rows that each tree sees."""
    rounds: PositiveInt = 100
    """Trees."""


def xgboost_trees(config: XGBoostConfig, x: Matrix, y: Labels) -> Iterator[Fit]:
    """One fit for each learning rate, depth and share of rows."""
    require("xgboost", "head xgb")
    import xgboost

    fixed = {
        "objective": "binary:logistic",
        "tree_method": "hist",
        "min_child_weight": 1e-3,  # as LightGBM's: else a handful of shots could not be split
        "seed": SEED,
        "nthread": 1,
        "verbosity": 0,
    }
    data = xgboost.DMatrix(x, y.astype(np.float32), nthread=1)
    for rate, depth, share in itertools.product(
        config.learning_rate, config.max_depth, config.subsample
    ):
        point = {"learning_rate": rate, "max_depth": depth, "subsample": share}
        model = xgboost.train({**fixed, **point}, data, num_boost_round=config.rounds)

        def predict(new: Matrix, model: Any = model) -> Floats:  # noqa: ANN401
            return np.asarray(model.predict(xgboost.DMatrix(new, nthread=1)), np.float64)

        yield Fit(point, predict)
