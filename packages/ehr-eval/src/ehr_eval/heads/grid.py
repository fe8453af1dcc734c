"""What a head is made of: a grid of settings, and for each a fit that gives probabilities.

n rows, d features.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import PositiveInt
from pydantic.dataclasses import dataclass
from scipy import sparse

from ehr_eval.features.mapped import Matrix
from ehr_eval.judge.metrics.ranked import Floats
from ehr_tracking.config import STRICT

Labels: TypeAlias = "npt.NDArray[np.bool_]"
"""[n] the outcome."""

SEED = 0
"""Of every fit: what is kept is what a refit with the same seed would be."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class HeadConfig:
    """What the configs of all heads share."""

    kind: str = ""
    """Name in the table of heads."""
    trials: PositiveInt | None = None
    """Points that Optuna tries between the least and the greatest of each list; null: the grid."""
    refit: bool = False
    """Fit the point that was chosen once more, on the training and the tuning rows together."""


class Fit(NamedTuple):
    """A head fitted at one point of its grid."""

    point: dict[str, float]
    """The settings that were varied: fields of the config."""
    predict: Callable[[Matrix], Floats]
    """[m, d] of new rows -> [m] probabilities of the positive class."""
    converged: bool = True
    """Whether it is what was asked for; False where a limit of steps ended it before."""
    shap: Callable[[Matrix], Floats] | None = None
    """[m, d] of new rows -> [m, d + 1] what each feature adds to the log-odds, exactly, and last where they start
    from, the mean over training rows; None where the head cannot tell."""


def dense(row: Any) -> Floats:  # noqa: ANN401 -- what scipy makes of one row
    """[d] of one row, dense or sparse."""
    values = row.toarray() if sparse.issparse(row) else row
    return np.asarray(values, np.float64).reshape(-1)
