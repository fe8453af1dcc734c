"""Predictions of a task that somebody wrote: files read by the columns of their contract.

p predicted rows.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from ehr_eval.frames import KEY, PRODUCER
from ehr_tracking.arrow.columns import microseconds, no_nulls, strings, whole_numbers
from ehr_tracking.arrow.parquet import read_table
from ehr_tracking.contracts import Contract, ContractError
from ehr_tracking.manifest import MANIFEST, check_file, read_manifest
from ehr_tracking.tree import files_below


class Allowed(NamedTuple):
    """Which numbers a column may hold."""

    where: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.bool_]]
    what: str
    """For messages."""


PROBABILITY = Allowed(lambda x: (x >= 0) & (x <= 1), "in [0, 1]")
FINITE = Allowed(np.isfinite, "a finite number")


def read_prediction_files(
    directory: Path, task: str, contract: Contract, allowed: Mapping[str, Allowed]
) -> pl.DataFrame:
    """[p] the columns of a contract, of all files of a task.

    Args:
        directory: `<task>/**/*.parquet`; a sealed artifact is checked.
        task: Its name.
        contract: Of these predictions.
        allowed: Column of numbers -> what it may hold; others than these and the key are text.

    Raises:
        ContractError: If there are none, a file cannot be read or was changed, or a column is
            missing, mistyped, null or holds what it may not.
    """
    files = files_below(directory / task, ".parquet") if (directory / task).is_dir() else []
    if not files:
        raise ContractError(
            f"{directory} has no {contract.name} of task {task}: expected {task}/**/*.parquet, as "
            "`ehr-eval predict` writes them"
        )
    if (directory / MANIFEST).is_file():
        manifest = read_manifest(directory, contract, reader=PRODUCER)
        for path in files:
            check_file(directory, manifest, path.relative_to(directory).as_posix())
    return pl.concat([_read(path, contract, allowed) for path in files])


def _read(path: Path, contract: Contract, allowed: Mapping[str, Allowed]) -> pl.DataFrame:
    names = [column.name for column in contract.columns]
    table = read_table(path, names)
    for name in names:
        if name not in table.column_names:
            raise ContractError(f"{path} has no column {name}: not {contract.tag}")
        no_nulls(table[name], name, path)
    columns: dict[str, Any] = {
        "subject_id": whole_numbers(table["subject_id"], "subject_id", path),
        "prediction_time": microseconds(table["prediction_time"], "prediction_time", path),
    }
    for name in names:
        if name in allowed:
            columns[name] = _numbers(table[name], name, allowed[name], path)
        elif name not in KEY:
            columns[name] = strings(table[name], name, path)
    return pl.DataFrame(pl.from_arrow(pa.table(columns)))


def _numbers(column: pa.ChunkedArray, name: str, allowed: Allowed, path: Path) -> pa.Array:
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise ContractError(f"{path}: column {name} is {column.type} (expected double)")
    value = column.cast(pa.float64()).to_numpy()
    wrong = ~(allowed.where(value) & np.isfinite(value))
    if wrong.any():
        row = int(wrong.argmax())
        raise ContractError(f"{path} row {row}: {name} = {value[row]:g} (expected {allowed.what})")
    return pa.array(value)


def refuse_rows(rows: pl.DataFrame, directory: Path, what: str) -> None:
    """Raise for the first of some rows, where there are any.

    Raises:
        ContractError: With its subject and time.
    """
    if rows.height:
        subject, time = rows.select(KEY).row(0)
        raise ContractError(f"{directory}: subject {subject} at {time} {what}")
