"""Risks of an event that a model predicts, read and brought to the horizons that are asked for.

n held-out rows, H horizons, K days for which risks are given.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from ehr_eval.frames import KEY, in_order_of
from ehr_eval.judge.metrics.ranked import Floats
from ehr_eval.prediction_files import PROBABILITY, Allowed, read_prediction_files, refuse_rows
from ehr_tracking.contracts import RISKS
from ehr_tracking.errors import UserError

HORIZON, RISK = "horizon_days", "predicted_risk"
_ALLOWED = {HORIZON: Allowed(lambda days: days > 0, "days above 0"), RISK: PROBABILITY}


class Risks(NamedTuple):
    """Of the rows of a task."""

    days: Floats
    """[K] ascending, above 0."""
    risk: Floats
    """[n, K] of an event by then, never falling."""

    def at(self, horizons: Floats, *, where: str) -> Floats:
        """[n, H] the risk by each of some days; between two known days the hazard is constant.

        Raises:
            UserError: For a horizon beyond the last day.

        Examples:
            >>> risks = Risks(np.array([10.0, 20.0]), np.array([[0.19, 0.19]]))
            >>> risks.at(np.array([5.0, 10.0, 15.0]), where="p").round(3).tolist()
            [[0.1, 0.19, 0.19]]
        """
        if horizons[-1] > self.days[-1] * (1 + 1e-12):
            raise UserError(
                f"{where} tells risks up to {self.days[-1]:g} days, not up to {horizons[-1]:g}: "
                "give nearer horizons with -s horizons_days=[...]"
            )
        # -log S is a straight line where the hazard is constant; that of a sure event is finite here
        cumulative = -np.log1p(-np.minimum(self.risk, 1 - 1e-15))
        cumulative = np.pad(cumulative, ((0, 0), (1, 0)))
        days = np.concatenate([[0.0], self.days])
        after = np.clip(np.searchsorted(days, horizons), 1, len(days) - 1)
        share = (horizons - days[after - 1]) / (days[after] - days[after - 1])
        found = cumulative[:, after - 1] * (1 - share) + cumulative[:, after] * share
        return np.asarray(-np.expm1(-found))


def read_risks(directory: Path, task: str, held_out: pl.DataFrame) -> Risks:
    """What one model predicts of the held-out rows of a task.

    Args:
        directory: `<task>/**/*.parquet` as `risks/1`; a sealed one is checked.
        task: Its name.
        held_out: [n] subject_id, prediction_time.

    Returns:
        In the order of `held_out`.

    Raises:
        ContractError: If there are none, a file cannot be read or was changed, a column is missing,
            mistyped or null, rows differ in their horizons, a risk is not in [0, 1] or falls with the
            horizon, or a held-out row is missing.
    """
    table = read_prediction_files(directory, task, RISKS, _ALLOWED).sort(*KEY, HORIZON)
    days = table[HORIZON].unique().sort().to_numpy()
    wide = table.group_by(KEY, maintain_order=True).agg(HORIZON, RISK)
    whole = pl.Series(HORIZON, [days.tolist()], pl.List(pl.Float64))
    odd = wide.filter(pl.col(HORIZON) != pl.lit(whole).first())
    refuse_rows(odd, directory, f"has other horizons than {', '.join(f'{d:g}' for d in days)} days")
    falls = wide.filter(pl.col(RISK).list.diff().list.min() < -1e-9)
    refuse_rows(falls, directory, "has a risk that falls with the horizon")
    found = in_order_of(
        held_out.select(KEY), wide, where=directory, what=f"held-out labels of task {task}"
    )
    return Risks(days, np.array(found[RISK].to_list(), np.float64).reshape(-1, len(days)))
