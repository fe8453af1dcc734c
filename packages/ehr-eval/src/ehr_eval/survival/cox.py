"""Cox regression on features: what a fine-tuned model has to beat. lifelines, an extra.

n rows, d features, H horizons.
"""

import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.preprocessing import MaxAbsScaler

from ehr_eval.extras import require
from ehr_eval.features.mapped import Matrix
from ehr_eval.judge.metrics.ranked import Floats
from ehr_eval.survival.config import SurvivalConfig
from ehr_eval.survival.kaplan_meier import StepCurve
from ehr_eval.survival.metrics import Followed, harrell
from ehr_tracking.errors import UserError


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """Rows of one split with what became of them."""

    x: Matrix
    """[n, d]"""
    days: Floats
    """[n]"""
    event: npt.NDArray[np.bool_]
    """[n]"""


class CoxFit(NamedTuple):
    """What came out."""

    risk: Floats
    """[n, H] of new rows."""
    penalty: float
    """That was kept."""


def cox(train: Course, tuning: Course, new: Matrix, horizons: Floats, c: SurvivalConfig) -> CoxFit:
    """Fit at every penalty, keep the best Harrell's C on the tuning rows, predict.

    Features are divided by their largest magnitude, many of them taken together to principal
    components; L2-penalised partial likelihood (Cox, 1972; ties after Efron), baseline after Breslow.

    Args:
        train: Rows to fit on, with an event.
        tuning: Rows to choose the penalty on.
        new: [n, d] rows to predict.
        horizons: [H] days.
        c: Penalties and components.

    Raises:
        UserError: If lifelines is not installed, or no penalty leads to a fit.
    """
    require("lifelines", "Cox regression")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its imports; and of convergence, which raises below
        from lifelines import CoxPHFitter
        from lifelines.exceptions import ConvergenceError

        reduce = _reducer(train.x, c)
        frame, tuned, rows = (_frame(reduce(x)) for x in (train.x, tuning.x, new))
        frame = frame.assign(days=np.maximum(train.days, 1e-6), event=train.event)
        followed = _followed(tuning, StepCurve.survival(train.days, train.event))
        best, kept = -np.inf, None
        for penalty in c.penalties:
            model: Any = CoxPHFitter(penalizer=penalty)
            try:
                model.fit(frame, duration_col="days", event_col="event")
            except ConvergenceError:
                continue
            score = harrell(followed, np.asarray(model.predict_log_partial_hazard(tuned)))[0]
            score = 0.5 if np.isnan(score) else score  # no pair to choose by
            if score > best:
                best, kept = score, (model, penalty)
        if kept is None:
            raise UserError(f"no Cox regression converges; raise penalties ({c.penalties})")
        model, penalty = kept
        survival = model.predict_survival_function(rows, times=horizons)
    return CoxFit(1 - survival.to_numpy().T, penalty)


def _followed(rows: Course, any_curve: StepCurve) -> Followed:
    ones = np.ones((len(rows.days), 1), np.uint16)
    return Followed(days=rows.days, event=rows.event, censoring=any_curve, weight=ones)


def _reducer(x: Matrix, config: SurvivalConfig) -> Any:  # noqa: ANN401 -- a function of scikit-learn's parts
    """From features to those that vary in train, or their principal components: dense [n, <= components]."""
    scaler = MaxAbsScaler().fit(x)
    scaled = scaler.transform(x)
    if x.shape[1] <= config.components:

        def whole(new: Matrix) -> Floats:
            moved = scaler.transform(new)
            return moved.toarray() if sparse.issparse(moved) else np.asarray(moved)

        dense = whole(x)
        varies = dense.std(axis=0) > 0
        return lambda new: whole(new)[:, varies]
    size = min(config.components, min(x.shape) - 1)
    svd = TruncatedSVD(size, random_state=config.seed).fit(scaled)
    return lambda new: svd.transform(scaler.transform(new))


def _frame(values: Floats) -> Any:  # noqa: ANN401 -- pandas, which lifelines brings
    import pandas as pd

    return pd.DataFrame(
        values.astype(np.float64), columns=[f"x{i}" for i in range(values.shape[1])]
    )
