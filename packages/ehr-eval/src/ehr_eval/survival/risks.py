"""Risks of an event that a model predicts, read and brought to the horizons that are asked for.

n held-out rows, H horizons, K days for which risks are given.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from ehr_eval.frames import KEY, PRODUCER, in_order_of
from ehr_eval.judge.metrics.ranked import Floats
from ehr_tracking.arrow.columns import microseconds, no_nulls, whole_numbers
from ehr_tracking.arrow.parquet import read_table
from ehr_tracking.contracts import RISKS, ContractError
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import MANIFEST, check_file, read_manifest
from ehr_tracking.tree import files_below

HORIZON, RISK = "horizon_days", "predicted_risk"


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
    files = files_below(directory / task, ".parquet") if (directory / task).is_dir() else []
    if not files:
        raise ContractError(
            f"{directory} has no risks of task {task}: expected {task}/**/*.parquet, as `ehr-eval "
            "predict` writes them for a survival head"
        )
    if (directory / MANIFEST).is_file():
        manifest = read_manifest(directory, RISKS, reader=PRODUCER)
        for path in files:
            check_file(directory, manifest, path.relative_to(directory).as_posix())
    table = pl.concat([_read(path) for path in files]).sort(*KEY, HORIZON)
    days = table[HORIZON].unique().sort().to_numpy()
    wide = table.group_by(KEY, maintain_order=True).agg(HORIZON, RISK)
    whole = pl.Series(HORIZON, [days.tolist()], pl.List(pl.Float64))
    odd = wide.filter(pl.col(HORIZON) != pl.lit(whole).first())
    _refuse(odd, directory, f"has other horizons than {', '.join(f'{d:g}' for d in days)} days")
    falls = wide.filter(pl.col(RISK).list.diff().list.min() < -1e-9)
    _refuse(falls, directory, "has a risk that falls with the horizon")
    found = in_order_of(
        held_out.select(KEY), wide, where=directory, what=f"held-out labels of task {task}"
    )
    return Risks(days, np.array(found[RISK].to_list(), np.float64).reshape(-1, len(days)))


def _refuse(rows: pl.DataFrame, directory: Path, what: str) -> None:
    if rows.height:
        subject, time = rows.select(KEY).row(0)
        raise ContractError(f"{directory}: subject {subject} at {time} {what}")


def _read(path: Path) -> pl.DataFrame:
    table = read_table(path, [*KEY, HORIZON, RISK])
    for name in (*KEY, HORIZON, RISK):
        if name not in table.column_names:
            raise ContractError(f"{path} has no column {name}: not {RISKS.tag}")
        no_nulls(table[name], name, path)
    columns = {
        "subject_id": whole_numbers(table["subject_id"], "subject_id", path),
        "prediction_time": microseconds(table["prediction_time"], "prediction_time", path),
    }
    for name, most in ((HORIZON, np.inf), (RISK, 1.0)):
        if not (pa.types.is_floating(table[name].type) or pa.types.is_integer(table[name].type)):
            raise ContractError(f"{path}: column {name} is {table[name].type} (expected double)")
        value = table[name].cast(pa.float64()).to_numpy()
        low = value > 0 if name == HORIZON else value >= 0
        wrong = ~(low & (value <= most) & np.isfinite(value))
        if wrong.any():
            row = int(wrong.argmax())
            expected = "days above 0" if name == HORIZON else "in [0, 1]"
            raise ContractError(f"{path} row {row}: {name} = {value[row]:g} (expected {expected})")
        columns[name] = pa.array(value)
    return pl.DataFrame(pl.from_arrow(pa.table(columns)))
