"""Gradient-boosted trees: LightGBM.

n rows, d features.
"""

import itertools
import re
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import lightgbm
import numpy as np
import numpy.typing as npt
from pydantic import Field
from pydantic.dataclasses import dataclass
from scipy import sparse

from ehr_eval.features.mapped import Matrix
from ehr_eval.heads.grid import SEED, Fit, HeadConfig, Labels, dense
from ehr_eval.judge.metrics.ranked import Floats
from ehr_tracking.config import STRICT

_FIXED = {
    "objective": "binary",
    "min_child_samples": 1,  # else a handful of shots could not be split
    "seed": SEED,
    "deterministic": True,
    "force_col_wise": True,
    "num_threads": 1,
    "verbosity": -1,
}
_SIDES = ("left", "right")


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
    """One fit for each learning rate, depth and number of leaves.

    A limit that no tree of a looser fit has reached changes nothing: that fit is taken again. Of few rows most
    points of the grid are such.
    """
    used = _distinct(x)  # no tree would split the others, and of counts few shots have any
    data = lightgbm.Dataset(x[:, used], y.astype(np.float32), params=_FIXED, free_raw_data=False)
    for rate in config.learning_rate:
        limits = [Limits(*each) for each in itertools.product(config.max_depth, config.num_leaves)]
        found: list[_Grown] = []
        for limit in sorted(limits, key=Limits.looseness, reverse=True):
            if not any(grown.holds(limit) for grown in found):
                found.append(_grow(data, rate, limit, config.rounds))
        for limit in limits:
            model = next(grown.model for grown in found if grown.holds(limit))

            def predict(new: Matrix, model: Any = model) -> Floats:  # noqa: ANN401
                return np.asarray(model.predict(new[:, used], num_threads=1), np.float64)

            point = {"learning_rate": rate, "max_depth": limit.depth, "num_leaves": limit.leaves}
            yield Fit(point, predict, shap=partial(_shap, model, used, x.shape[1]))


def _shap(model: Any, used: npt.NDArray[np.int64], width: int, new: Matrix) -> Floats:  # noqa: ANN401
    """[m, d + 1] by TreeSHAP over the trees' own paths (Lundberg et al., 2020); 0 where no tree looks."""
    found = model.predict(new[:, used], num_threads=1, pred_contrib=True)
    told = found.toarray() if sparse.issparse(found) else np.asarray(found)
    whole = np.zeros((len(told), width + 1))
    whole[:, np.append(used, width)] = told
    return whole


class Limits(NamedTuple):
    """How far trees may grow."""

    depth: int
    """0 or less: as far as they like."""
    leaves: int

    def looseness(self) -> tuple[float, int]:
        """Falls where one of the limits does and the other does not rise."""
        return self.depth if self.depth > 0 else float("inf"), self.leaves


class _Grown(NamedTuple):
    """A fit, with how far its trees were allowed to grow and have grown."""

    model: Any
    allowed: Limits
    reached: Limits

    def holds(self, limit: Limits) -> bool:
        """Whether a fit under a limit is this one: the limit is no looser, and would have stopped nothing."""
        asked, had = limit.looseness(), self.allowed.looseness()
        tighter = asked[0] <= had[0] and asked[1] <= had[1]
        return tighter and asked[0] >= self.reached.depth and asked[1] >= self.reached.leaves


def _grow(data: lightgbm.Dataset, rate: float, limit: Limits, rounds: int) -> _Grown:
    point = {"learning_rate": rate, "max_depth": limit.depth, "num_leaves": limit.leaves}
    model = lightgbm.train({**_FIXED, **point}, data, num_boost_round=rounds)
    return _Grown(model, limit, _reached(model.model_to_string()))


def _reached(model: str) -> Limits:
    """The deepest and the widest of the trees of a model of LightGBM, from its text."""
    leaves = max(
        (int(n) for n in re.findall(r"^num_leaves=(\d+)$", model, re.MULTILINE)), default=1
    )
    deepest = 0
    children = (re.findall(rf"^{side}_child=(.*)$", model, re.MULTILINE) for side in _SIDES)
    for sides in zip(*children, strict=True):
        left, right = ([int(n) for n in side.split()] for side in sides)
        depth = [1] * len(left)  # of the leaves below a node; a node comes before its children
        for node, below in enumerate(zip(left, right, strict=True)):
            for child in below:
                if child >= 0:
                    depth[child] = depth[node] + 1
        deepest = max([deepest, *depth])
    return Limits(deepest, leaves)


def _distinct(x: Matrix) -> npt.NDArray[np.int64]:
    """Features with more than one value, of equal ones the first; the first where there is none.

    Of equal gains the first feature's is taken, so a later one that is equal in every row is never split.
    """
    varying = np.flatnonzero(dense(x.max(axis=0)) != dense(x.min(axis=0)))
    if not len(varying):
        return np.zeros(1, np.int64)
    part: Any = x[:, varying]
    first: dict[bytes, int] = {}
    for column, feature in zip(_columns(part), varying.tolist(), strict=True):
        first.setdefault(column, feature)
    return np.array(list(first.values()), np.int64)


def _columns(x: Any) -> Iterator[bytes]:  # noqa: ANN401 -- dense or CSR
    """What is in each column, the same for equal ones alone."""
    if not sparse.issparse(x):
        yield from (column.tobytes() for column in np.ascontiguousarray(x.T))
        return
    columns = x.tocsc()
    columns.eliminate_zeros()
    columns.sort_indices()
    for begin, end in itertools.pairwise(columns.indptr):
        yield columns.indices[begin:end].tobytes() + columns.data[begin:end].tobytes()
