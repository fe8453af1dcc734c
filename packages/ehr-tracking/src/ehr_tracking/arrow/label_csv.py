"""Labels in a CSV file whose columns go by any name."""

import csv
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic.dataclasses import dataclass

from ehr_tracking.config import STRICT
from ehr_tracking.contracts import ContractError

MEASURED = "measurements/"
"""What columns of measurements begin with in a table of labels."""
WEIGHT = "weight"
_MISSING = {"", "NA", "N/A", "NaN", "nan", "null", "None"}
_TRUTH = {"true": True, "false": False, "yes": True, "no": False}
_VALUES = ("boolean_value", "integer_value", "float_value", "categorical_value")
_DURATION = "duration_days"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LabelColumns:
    """What the columns of a CSV file of labels are called."""

    subject: str = "subject_id"
    """Whole numbers: the subjects of the tokens; or ids of `subjects`."""
    subjects: Path | None = None
    """Where ids are text: `metadata/source_subjects.parquet` of the MEDS data set, which lists the
    subject (`subject_id`) of each (`source_id`)."""
    time: str = "prediction_time"
    """ISO 8601, or of `time_format`; a date is its midnight."""
    value: str | tuple[str, ...] | None = None
    """Of the outcome, or of several, each a task of that name. None: as MEDS calls it, a task named
    like the file."""
    duration: str | None = None
    """Days to the event, or to the end of what is known. None: `duration_days`, where it is there."""
    weight: str | None = None
    """Of the weights of rows."""
    measurements: tuple[str, ...] = ()
    """Of numbers that are known at the prediction time; an empty cell is one that was not measured."""
    time_format: str | None = None
    """As of `strptime`, e.g. `%d.%m.%Y`."""
    separator: str = ","


def read_csv_labels(path: Path, columns: LabelColumns) -> dict[str, pa.Table]:
    """Read the tasks of a CSV file.

    Args:
        path: The file, with a header.
        columns: What it calls them.

    Returns:
        Task -> as `labels.read_labels` has it, and `weight` and `measurements/<name>` (float64).

    Raises:
        ContractError: Naming line and value where a cell cannot be read, a column that is missing,
            or two lines that label a subject at the same time.
    """
    cells, lines = _cells(path, columns.separator)
    values, named = _value_columns(path, cells, columns)
    duration = columns.duration or (_DURATION if _DURATION in cells else None)
    more = [columns.weight] if columns.weight else []
    for name in (columns.subject, columns.time, *values, *([duration] if duration else []), *more,
                 *columns.measurements):  # fmt: skip
        if name not in cells:
            raise ContractError(
                f"{path} has no column {name}; it has {', '.join(cells)}; say which is which with "
                "labels.subject, labels.time and labels.value"
            )

    def read(name: str, kind: Any, what: str) -> list[Any]:  # noqa: ANN401 -- makes any value
        return [_read(path, line, name, text, kind, what)
                for line, text in zip(lines, cells[name], strict=True)]  # fmt: skip

    known = {} if columns.subjects is None else _ids(columns.subjects)
    what = f"of a subject in {columns.subjects}" if known else "a whole number"
    subject = read(columns.subject, lambda t: known[t] if t in known else _whole(t), what)
    time = read(columns.time, _time(columns.time_format), "a date or time")
    order = np.lexsort((time, subject)).tolist()
    _refuse_twice(path, lines, subject, time, order)
    base: dict[str, Any] = {"subject_id": pa.array(subject, pa.int64())}
    base["prediction_time"] = pa.array(time, pa.timestamp("us"))
    beside: dict[str, Any] = {}
    if duration:
        beside[_DURATION] = pa.array(read(duration, _number, "a number"), pa.float64())
    if columns.weight:
        beside[WEIGHT] = pa.array(read(columns.weight, _weight, "a weight from 0 on"), pa.float64())
    for name in columns.measurements:
        found = [_read(path, line, name, text, _number, "a number") if text else None
                 for line, text in zip(lines, cells[name], strict=True)]  # fmt: skip
        beside[f"{MEASURED}{name}"] = pa.array(found, pa.float64())
    tasks = {}
    for task, name in zip(named, values, strict=True):
        kind, array = _typed(cells[name])
        tasks[task] = pa.table({**base, kind: array, **beside}).take(order)
    return tasks


def _ids(path: Path) -> dict[str, int]:
    """Id in the source -> subject."""
    try:
        table = pq.read_table(path, columns=["source_id", "subject_id"])
    except (pa.ArrowInvalid, OSError, ValueError) as e:
        raise ContractError(
            f"labels.subjects: {path} is no table of source_id and subject_id "
            f"({str(e).splitlines()[0]})"
        ) from None
    return dict(zip(table["source_id"].to_pylist(), table["subject_id"].to_pylist(), strict=True))


def _cells(path: Path, separator: str) -> tuple[dict[str, list[str]], list[int]]:
    """Column -> its cells, stripped, empty where missing; and the line of each row."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=separator)
            header = [name.strip() for name in next(reader, [])]
            twice = next((name for name in header if header.count(name) > 1), None)
            if twice is not None:
                raise ContractError(f"{path}: column {twice} is there twice")
            rows, lines = [], []
            for row in reader:
                if len(row) not in (0, len(header)):
                    raise ContractError(
                        f"{path} line {reader.line_num} has {len(row)} cells, but the header has "
                        f"{len(header)}"
                    )
                if row:
                    rows.append([_stripped(cell) for cell in row])
                    lines.append(reader.line_num)
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise ContractError(
            f"{path}: not a readable CSV file ({' '.join(str(e).split())})"
        ) from None
    return {name: [row[i] for row in rows] for i, name in enumerate(header)}, lines


def _stripped(cell: str) -> str:
    cell = cell.strip()
    return "" if cell in _MISSING else cell


def _value_columns(
    path: Path, cells: dict[str, list[str]], columns: LabelColumns
) -> tuple[Sequence[str], Sequence[str]]:
    """Columns of outcomes, and the task of each."""
    if columns.value is not None:
        names = (columns.value,) if isinstance(columns.value, str) else columns.value
        return names, names
    found = [name for name in _VALUES if name in cells]
    if len(found) != 1:
        raise ContractError(
            f"{path} has {' and '.join(found) or 'no column of MEDS'} as its outcome; name the column "
            f"with labels.value, one of {', '.join(cells)}"
        )
    return found, [path.stem]


def _read(path: Path, line: int, name: str, text: str, kind: Any, what: str) -> Any:  # noqa: ANN401 -- see `read`
    try:
        return kind(text)
    except (ValueError, OverflowError):
        raise ContractError(f"{path} line {line}: {name} = {text!r} is not {what}") from None


def _whole(text: str) -> int:
    number = int(text)
    if not -(2**63) <= number < 2**63:
        raise ValueError
    return number


def _number(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError
    return number


def _weight(text: str) -> float:
    number = _number(text)
    if number < 0:
        raise ValueError
    return number


def _time(layout: str | None) -> Any:  # noqa: ANN401 -- a function of text
    def microseconds(text: str) -> int:
        found = datetime.strptime(text, layout) if layout else datetime.fromisoformat(text)  # noqa: DTZ007 -- MEDS times have no zone
        if found.utcoffset():
            raise ValueError
        since = found.replace(tzinfo=UTC) - _EPOCH
        return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds

    return microseconds


def _typed(texts: list[str]) -> tuple[str, pa.Array]:
    """The column of MEDS that cells of an outcome are, and what they say there; null where empty.

    Examples:
        >>> [_typed(cells)[0] for cells in (["yes", "No"], ["0", "7", ""], ["0.5", "1"], ["a", "1"])]
        ['boolean_value', 'integer_value', 'float_value', 'categorical_value']
    """
    said = [text for text in texts if text]
    if said and all(text.lower() in _TRUTH for text in said):
        return "boolean_value", pa.array([_TRUTH.get(t.lower()) for t in texts], pa.bool_())
    for kind, read, of in (
        ("integer_value", _whole, pa.int64()), ("float_value", float, pa.float32())
    ):  # fmt: skip
        try:
            return kind, pa.array([read(t) if t else None for t in texts], of)
        except ValueError:
            continue
    return "categorical_value", pa.array([t or None for t in texts], pa.string())


def _refuse_twice(
    path: Path, lines: list[int], subject: list[int], time: list[int], order: list[int]
) -> None:
    for a, b in pairwise(order):
        if (subject[a], time[a]) == (subject[b], time[b]):
            raise ContractError(
                f"{path} lines {lines[a]} and {lines[b]} both label subject {subject[a]} at "
                f"{str(np.datetime64(time[a], 'us').astype('M8[s]')).replace('T', ' ')}; keep one"
            )
