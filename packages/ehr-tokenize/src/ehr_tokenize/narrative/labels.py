"""Which subjects are told up to when: MEDS labels, whoever made them."""

from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ehr_tokenize import __version__
from ehr_tracking.arrow.labels import label_files
from ehr_tracking.contracts import ContractError

KEY = ("subject_id", "prediction_time")
VALUES = {
    "boolean_value": pl.Boolean,
    "integer_value": pl.Int64,
    "float_value": pl.Float32,
    "categorical_value": pl.String,
}


def read_labels(path: Path) -> dict[str, pl.DataFrame]:
    """Read the prediction times of each task, with the labels that go with them.

    Args:
        path: A `labels/1` artifact, a directory of tasks (`<task>/**/*.parquet`), the directory of
            one task, or one Parquet file.

    Returns:
        Task -> subject_id, prediction_time and those of `VALUES` that hold anything, sorted by
        subject and time, one row each.

    Raises:
        ContractError: If there are none, a sealed one was changed, a subject or prediction time is
            missing, or two rows contradict each other; naming file and row.
    """
    if not path.exists():
        raise ContractError(f"{path}: no such directory")
    return {task: _read_task(task, files) for task, files in _tasks(path).items()}


def _tasks(path: Path) -> dict[str, list[Path]]:
    files = label_files(path, reader=f"ehr-tokenize {__version__}")
    if path.is_file():
        return {path.stem: files}
    if not files:
        raise ContractError(f"{path} holds no labels: expected <task>/**/*.parquet")
    if any(f.parent == path for f in files):
        return {path.resolve().name: files}
    tasks: dict[str, list[Path]] = {}
    for file in files:
        tasks.setdefault(file.relative_to(path).parts[0], []).append(file)
    return tasks


def _read_task(task: str, files: list[Path]) -> pl.DataFrame:
    table = pl.concat([_read_file(f) for f in files], how="diagonal")
    values = [v for v in VALUES if v in table.columns and table[v].null_count() < table.height]
    table = table.select(*KEY, *values).unique().sort(KEY)
    twice = table.filter(pl.struct(KEY).is_duplicated())
    if twice.height:
        subject, time = twice.select(KEY).row(0)
        raise ContractError(f"task {task} has contradicting labels of subject {subject} at {time}")
    return table


def _read_file(path: Path) -> pl.DataFrame:
    try:
        table = pq.read_table(path, partitioning=None)
    except (pa.ArrowException, OSError) as e:
        line = " ".join(str(e).split())
        raise ContractError(f"{path}: not a readable Parquet file ({line})") from None
    for name in KEY:
        if name not in table.column_names:
            raise ContractError(f"{path} has no column {name}: not MEDS labels")
    subject, time = (table.schema.field(name).type for name in KEY)
    if not pa.types.is_integer(subject):
        raise ContractError(f"{path}: column subject_id is {subject} (expected int64)")
    if not (pa.types.is_date(time) or (pa.types.is_timestamp(time) and time.tz is None)):
        raise ContractError(f"{path}: column prediction_time is {time} (expected timestamp[us])")
    frame = pl.DataFrame(
        pl.from_arrow(table.select([c for c in (*KEY, *VALUES) if c in table.column_names]))
    )
    for name in KEY:
        missing = frame[name].is_null().arg_true()
        if len(missing):
            raise ContractError(
                f"{path} row {missing[0]}: no {name} ({len(missing):,} such rows); every subject, "
                "case or control, needs the time up to which its record is told"
            )
    found = {v: frame[v].dtype for v in VALUES if v in frame.columns}
    for name, dtype in found.items():
        if dtype not in {VALUES[name], pl.Null} and not _widens(dtype, VALUES[name]):
            raise ContractError(f"{path}: column {name} is {dtype} (expected {VALUES[name]})")
    return frame.select(
        pl.col("subject_id").cast(pl.Int64),
        pl.col("prediction_time").cast(pl.Datetime("us")),
        *(pl.col(name).cast(VALUES[name]) for name in found),
    )


def _widens(dtype: pl.DataType, expected: type[pl.DataType]) -> bool:
    return (expected == pl.Int64 and dtype.is_integer()) or (
        expected == pl.Float32 and dtype.is_numeric()
    )
