"""Read labels that anyone made."""

from collections.abc import Mapping
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from ehr_eval import __version__
from ehr_tracking.arrow.labels import label_files
from ehr_tracking.contracts import LABELS, ContractError

KEY = ["subject_id", "prediction_time"]
ROW = [*KEY, "boolean_value"]
VALUES = ("boolean_value", "integer_value", "float_value", "categorical_value")


def read_labels(path: Path) -> dict[str, pl.DataFrame]:
    """Read binary labels, whoever made them.

    Args:
        path: A `labels/1` artifact, a directory of tasks (`<task>/**/*.parquet`), the directory of
            one task, or one Parquet file.

    Returns:
        Task name -> subject_id, prediction_time, boolean_value; sorted, without duplicates.

    Raises:
        ContractError: If there are none, a sealed one was changed, or a value is not binary; naming
            file, row and value.
    """
    if not path.exists():
        raise ContractError(f"{path}: no such directory")
    files = label_files(path, reader=f"ehr-eval {__version__}")
    if not files:
        raise ContractError(f"{path} holds no labels: expected <task>/**/*.parquet")
    below = [f.relative_to(path).parts for f in files]
    if any(len(parts) == 1 for parts in below) or path.is_file():
        groups = {path.stem if path.is_file() else path.resolve().name: files}
    else:
        groups = {}
        for file, parts in zip(files, below, strict=True):
            groups.setdefault(parts[0], []).append(file)
    return {name: _read_task(name, group) for name, group in groups.items()}


def require_known(labels: Mapping[str, pl.DataFrame], subjects: pl.Series) -> None:
    """Refuse labels of subjects that a data set does not have.

    Args:
        labels: From `read_labels`.
        subjects: Who there is.

    Raises:
        ContractError: With the number of such subjects and the first one.
    """
    for name, table in labels.items():
        unknown = table.filter(~pl.col("subject_id").is_in(subjects.unique().implode()))[
            "subject_id"
        ]
        if len(unknown):
            raise ContractError(
                f"labels of task {name} name {unknown.n_unique()} subjects that the data set does "
                f"not have, the first {unknown.sort()[0]}; were they made from other data?"
            )


def _read_task(name: str, files: list[Path]) -> pl.DataFrame:
    table = pl.concat([_read_file(f) for f in files])
    table = table.unique(ROW).sort(KEY)
    twice = table.filter(pl.struct(KEY).is_duplicated())
    if twice.height:
        subject, time = twice.select(KEY).row(0)
        raise ContractError(f"task {name} has contradicting labels of subject {subject} at {time}")
    return table


def _read_file(path: Path) -> pl.DataFrame:
    try:
        table = pq.read_table(path)
    except (OSError, ValueError) as e:
        raise ContractError(
            f"{path} cannot be read as Parquet: {' '.join(str(e).split())}"
        ) from None
    found = {f.name: str(f.type) for f in table.schema}
    for required in LABELS.columns[:2]:
        if required.name not in found:
            raise ContractError(f"{path} has no column {required.name}: not MEDS labels")
    if not found["prediction_time"].startswith(("timestamp", "date")):
        raise ContractError(
            f"{path}: column prediction_time is {found['prediction_time']} (expected timestamp[us])"
        )
    frame = pl.DataFrame(pl.from_arrow(table))
    if not frame["subject_id"].dtype.is_integer():
        raise ContractError(f"{path}: column subject_id is {found['subject_id']} (expected int64)")
    for column in KEY:
        if frame[column].null_count():
            raise ContractError(
                f"{path}: row {frame[column].is_null().arg_true()[0]} has no {column}"
            )
    return frame.select(
        pl.col("subject_id").cast(pl.Int64),
        pl.col("prediction_time").cast(pl.Datetime("us")),
        _binary(frame, path),
    )


def _binary(frame: pl.DataFrame, path: Path) -> pl.Series:
    """The one column of values as booleans; ACES writes all four, with nulls in those unused."""
    used = [c for c in VALUES if c in frame.columns and frame[c].null_count() < frame.height]
    if not frame.height:
        return pl.Series("boolean_value", [], pl.Boolean)
    if len(used) != 1:
        have = " and ".join(used) if used else "no value"
        raise ContractError(f"{path} has {have}; expected exactly one of {', '.join(VALUES)}")
    values = frame[used[0]]
    if values.null_count():
        raise ContractError(f"{path}: row {values.is_null().arg_true()[0]} has no {used[0]}")
    if values.dtype == pl.Boolean:
        return values.alias("boolean_value")
    if not values.dtype.is_numeric():
        raise ContractError(f"{path}: {used[0]} is {values.dtype}; only binary labels can be read")
    wrong = ~values.is_in([0, 1])
    if wrong.any():
        row = wrong.arg_true()[0]
        raise ContractError(f"{path}: row {row} has {used[0]} = {values[row]}; expected 0 or 1")
    return (values == 1).alias("boolean_value")
