"""One file of another system's predictions, as a table of ours.

p rows.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
from polars.exceptions import PolarsError

from ehr_eval.foreign.config import ForeignConfig
from ehr_eval.frames import KEY
from ehr_tracking.arrow.parquet import read_table
from ehr_tracking.contracts import ContractError

DECIDED, PROBABILITY = "predicted_boolean_value", "predicted_boolean_probability"
TASK = "task"
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def read_file(path: Path, config: ForeignConfig) -> pl.DataFrame:
    """[p] the key, `predicted_boolean_probability`, `predicted_boolean_value` (or null), `task` if there is one.

    Args:
        path: .csv, else Parquet.
        config: What it calls its columns.

    Raises:
        ContractError: If it cannot be read, a column is missing, or a value is not what it should be;
            naming file and row.
    """
    frame = _frame(path, config)
    wanted = {
        "subject_id": config.subject, "prediction_time": config.time, PROBABILITY: config.probability,
        DECIDED: config.decided, TASK: config.task,
    }  # fmt: skip
    for name in filter(None, wanted.values()):
        if name not in frame.columns:
            raise ContractError(
                f"{path} has no column {name}; it has {', '.join(frame.columns)}; say which is which with "
                "-s subject=, -s time= and -s probability="
            )
    read: dict[str, tuple[Any, Callable[[str], Any], str]] = {
        "subject_id": (pl.Int64, _whole, "a whole number"),
        "prediction_time": (pl.Datetime("us"), _time(config.time_format), "a date or time"),
        PROBABILITY: (pl.Float64, float, "a number"),
        DECIDED: (pl.Boolean, _truth, "yes or no"),
        TASK: (pl.String, str, "a name"),
    }
    columns = [
        _column(frame[name], path, *read[ours]).alias(ours)
        for ours, name in wanted.items()
        if name is not None
    ]
    table = pl.DataFrame(columns)
    if DECIDED not in table.columns:
        table = table.with_columns(pl.lit(None, pl.Boolean).alias(DECIDED))
    return table.with_columns(_probability(table[PROBABILITY], path, config))


def _frame(path: Path, config: ForeignConfig) -> pl.DataFrame:
    if path.suffix.lower() != ".csv":
        return pl.DataFrame(pl.from_arrow(read_table(path, _columns(config))))
    try:
        return pl.read_csv(path, separator=config.separator, infer_schema=False)
    except (PolarsError, OSError, UnicodeDecodeError) as e:
        said = " ".join(str(e).split())[:200]
        raise ContractError(f"{path} cannot be read as CSV: {said}") from None


def _columns(config: ForeignConfig) -> list[str]:
    """The columns that are read of a table."""
    named = (config.subject, config.time, config.probability, config.decided, config.task)
    return [name for name in named if name is not None]


def _column(
    column: pl.Series,
    path: Path,
    kind: Any,  # noqa: ANN401 -- a type of polars
    read: Callable[[str], Any],
    what: str,
) -> pl.Series:
    """Of a type, each value read from its text where it is one; the first that cannot be is named."""
    if column.dtype == pl.String and kind != pl.String:
        distinct = column.unique().drop_nulls()
        known = {text: _read(read, text) for text in distinct}
        found = column.replace_strict(
            list(known), list(known.values()), default=None, return_dtype=kind
        )
    else:
        found = column.cast(kind, strict=False)
    if found.null_count():
        row = found.is_null().arg_true()[0]
        raise ContractError(f"{path} row {row}: {column.name} = {column[row]!r} (expected {what})")
    return found


def _read(read: Callable[[str], Any], text: str) -> Any:  # noqa: ANN401 -- whatever it reads
    try:
        return read(text.strip())
    except (ValueError, KeyError):
        return None


def _whole(text: str) -> int:
    return int(text)


def _truth(text: str) -> bool:
    return _TRUTH[text.lower()]


def _time(form: str | None) -> Callable[[str], datetime]:
    def read(text: str) -> datetime:
        time = datetime.strptime(text, form) if form else datetime.fromisoformat(text)  # noqa: DTZ007 -- MEDS times have no zone
        return time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time

    return read


def _probability(column: pl.Series, path: Path, config: ForeignConfig) -> pl.Series:
    scaled = column
    if config.scale == "percent":
        scaled = column / 100
    elif config.scale == "logit":
        scaled = 1 / (1 + (-column).exp())
    wrong = ~(scaled.is_between(0, 1) & column.is_not_nan())
    if wrong.any():
        row = wrong.arg_true()[0]
        raise ContractError(
            f"{path} row {row}: {config.probability} = {column[row]:g}, which is no {config.scale}; "
            "-s scale= may be probability, percent or logit"
        )
    return scaled.alias(PROBABILITY)


def refuse_twice(table: pl.DataFrame, where: Path, task: str) -> None:
    """Raise where a row is predicted twice.

    Raises:
        ContractError: With its subject and time.
    """
    twice = table.filter(pl.struct(KEY).is_duplicated())
    if twice.height:
        subject, time = twice.select(KEY).row(0)
        raise ContractError(
            f"{where}: subject {subject} at {time} is predicted twice of task {task}"
        )
