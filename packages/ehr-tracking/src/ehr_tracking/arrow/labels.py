"""MEDS labels, whoever made them: a `labels/1` artifact, or anyone's Parquet files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ehr_tracking.arrow import label_ehrshot as ehrshot
from ehr_tracking.arrow.columns import decoded, microseconds, no_nulls, strings, whole_numbers
from ehr_tracking.arrow.label_csv import LabelColumns, read_csv_labels
from ehr_tracking.arrow.label_files import label_files
from ehr_tracking.arrow.parquet import count_rows, read_table
from ehr_tracking.arrow.tasks import name_tasks
from ehr_tracking.contracts import ContractError
from ehr_tracking.files import PathLike

KEY = ("subject_id", "prediction_time")
VALUES = {
    "boolean_value": pa.bool_(),
    "integer_value": pa.int64(),
    "float_value": pa.float32(),
    "categorical_value": pa.string(),
}
"""Column of an outcome -> the type it is read as."""
DURATION = "duration_days"
"""Column beside `boolean_value`: days until the event, or until nothing more is known (float64)."""
_READ = (*VALUES, DURATION)


def read_labels(
    path: PathLike, *, reader: str, columns: LabelColumns | None = None
) -> dict[str, pa.Table]:
    """Read the labels of each task.

    Args:
        path: A `labels/1` artifact, a tree of tasks, the directory of one task, or one file, by the
            rule of `ehr_tracking.arrow.tasks`; sealed ones are checked. A file `*.csv` as well, and
            the `benchmark/` of EHRSHOT's download.
        reader: Distribution and version of the caller, for messages.
        columns: What a CSV file calls its columns; as MEDS does where not given.

    Returns:
        Task -> `subject_id` int64, `prediction_time` timestamp[us], and those of `VALUES` and
        `duration_days` that hold anything; sorted by the first two, one row each.

    Raises:
        ContractError: If there are none, files could be of other tasks as well, a file cannot be
            read or a column of it is not what MEDS has, a key is null, a sealed file was changed, or
            two rows contradict each other.
    """
    found, left_out = try_labels(path, reader=reader, columns=columns)
    for why in left_out.values():
        raise ContractError(why)
    return found


def try_labels(
    path: PathLike, *, reader: str, columns: LabelColumns | None = None
) -> tuple[dict[str, pa.Table], dict[str, str]]:
    """As `read_labels`, but with those that cannot be read apart: task -> why."""
    path = Path(path)
    if _is_csv(path):
        return read_csv_labels(path, columns or LabelColumns()), {}
    found: dict[str, pa.Table] = {}
    left_out: dict[str, str] = {}
    for task, files in _tasks(path, reader).items():
        try:
            found[task] = _read_task(task, files)
        except ContractError as e:
            left_out[task] = str(e)
    return found, left_out


def read_task(
    path: PathLike, *, reader: str, columns: LabelColumns | None = None
) -> tuple[str, pa.Table]:
    """Read the labels of the one task that a path holds, and its name.

    Args:
        path: As of `read_labels`.
        reader: Distribution and version of the caller, for messages.
        columns: As of `read_labels`.

    Raises:
        ContractError: As of `read_labels`, or naming the tasks where there are several.
    """
    path = Path(path)
    if _is_csv(path):
        named = read_labels(path, reader=reader, columns=columns)
        if len(named) > 1:
            raise ContractError(
                f"{path} is read for {len(named)} outcomes ({', '.join(named)}), but one is needed; "
                "name one as labels.value"
            )
        return next(iter(named.items()))
    tasks = _tasks(path, reader)
    if len(tasks) > 1:
        first, files = next(iter(tasks.items()))
        example = path / first
        raise ContractError(
            f"{path} holds labels of {len(tasks)} tasks ({', '.join(tasks)}), but one is needed; "
            f"give the directory of one, e.g. {example if example.exists() else files[0]}"
        )
    ((task, files),) = tasks.items()
    return task, _read_task(task, files)


def task_table(
    path: Path, *, reader: str, columns: LabelColumns | None = None
) -> list[dict[str, object]]:
    """What is taken for a task: a row each, for a terminal, from the ends of files alone.

    Args:
        path: As of `read_labels`.
        reader: Distribution and version of the caller, for messages.
        columns: As of `read_labels`.

    Returns:
        `task`, `rows` and `files` of each.

    Raises:
        ContractError: As of `read_labels`, but for what columns hold.
    """
    if _is_csv(path):
        tables = read_labels(path, reader=reader, columns=columns)
        return [{"task": t, "rows": len(table), "files": 1} for t, table in tables.items()]
    return [
        {"task": task, "rows": sum(map(_count, files)), "files": len(files)}
        for task, files in _tasks(path, reader).items()
    ]


def binary(table: pa.Table, *, task: str) -> pa.Table:
    """Labels as yes or no, from whichever column of `VALUES` holds them.

    Args:
        table: From `read_labels`.
        task: For messages.

    Returns:
        `subject_id`, `prediction_time`, `boolean_value`; without nulls.

    Raises:
        ContractError: If there is not exactly one column of values, or a value is neither 0 nor 1.

    Examples:
        >>> binary(pa.table({"subject_id": [4, 5], "prediction_time": [0, 0], "float_value": [0.0, 1.0]}),
        ...     task="died")["boolean_value"].to_pylist()
        [False, True]
    """
    if not len(table):
        return _none(table.select(KEY), "boolean_value", pa.bool_())
    name = _value_column(table, task)
    if pa.types.is_string(table.schema.field(name).type):
        raise ContractError(f"task {task} has {name}; only binary labels can be used here")
    number = _filled(table, name, task).to_numpy()
    _refuse(table, (number != 0) & (number != 1), name, task, "expected 0 or 1")
    return table.select(KEY).append_column("boolean_value", pa.array(number == 1))


def classes(table: pa.Table, *, task: str) -> pa.Table:
    """Labels as one of several classes, from `categorical_value`, `integer_value` or `boolean_value`.

    Args:
        table: From `read_labels`.
        task: For messages.

    Returns:
        `subject_id`, `prediction_time`, `categorical_value`: a dictionary whose values are the names
        of all classes in order, integers by number and text by its letters; without nulls.

    Raises:
        ContractError: If there is not exactly one column of values, a value is missing or it is none
            of a class.

    Examples:
        >>> found = classes(pa.table({"subject_id": [4, 5, 6], "prediction_time": [0, 0, 0],
        ...     "integer_value": [10, 2, 10]}), task="stage")["categorical_value"].combine_chunks()
        >>> found.dictionary.to_pylist(), found.indices.to_pylist()
        (['2', '10'], [1, 0, 1])
    """
    if not len(table):
        return _none(table.select(KEY), "categorical_value", pa.dictionary(pa.int32(), pa.string()))
    name = _value_column(table, task)
    if name == "float_value":
        raise ContractError(f"task {task} has {name}; classes are integers or categories")
    column = _filled(table, name, task).combine_chunks()
    column = column.cast(pa.int8()) if pa.types.is_boolean(column.type) else column
    values = pa.array(sorted(column.unique().to_pylist()), column.type)
    indices = pc.index_in(column, value_set=values)
    coded = pa.DictionaryArray.from_arrays(indices, values.cast(pa.string()))
    return table.select(KEY).append_column("categorical_value", coded)


def numbers(table: pa.Table, *, task: str) -> pa.Table:
    """Labels as numbers, from `float_value` or `integer_value`.

    Args:
        table: From `read_labels`.
        task: For messages.

    Returns:
        `subject_id`, `prediction_time`, `float_value` (float64): finite, without nulls.

    Raises:
        ContractError: If there is not exactly one column of values, it holds no numbers, or a value
            is missing, infinite or not a number.

    Examples:
        >>> numbers(pa.table({"subject_id": [4], "prediction_time": [0], "integer_value": [3]}),
        ...     task="days")["float_value"].to_pylist()
        [3.0]
    """
    if not len(table):
        return _none(table.select(KEY), "float_value", pa.float64())
    name = _value_column(table, task)
    if name not in {"float_value", "integer_value"}:
        raise ContractError(f"task {task} has {name}; numbers are in float_value or integer_value")
    number = _filled(table, name, task).cast(pa.float64()).to_numpy()
    _refuse(table, ~np.isfinite(number), name, task, "expected a finite number")
    return table.select(KEY).append_column("float_value", pa.array(number))


def time_to_event(table: pa.Table, *, task: str) -> pa.Table:
    """Labels as days until an event, or until nothing more is known.

    Args:
        table: From `read_labels`.
        task: For messages.

    Returns:
        `subject_id`, `prediction_time`, `boolean_value` (whether the event happened at the end of
        the time; false is censored), `duration_days` (float64, finite, at least 0); without nulls.

    Raises:
        ContractError: If there is no `duration_days`, or a value of either is missing, or a duration
            is negative, infinite or not a number.

    Examples:
        >>> time_to_event(pa.table({"subject_id": [4], "prediction_time": [0],
        ...     "boolean_value": [False], "duration_days": [3.5]}), task="death")["duration_days"].to_pylist()
        [3.5]
    """
    events = binary(table, task=task)
    if not len(table):
        return _none(events, DURATION, pa.float64())
    if DURATION not in table.column_names:
        raise ContractError(
            f"task {task} has no {DURATION}: days from the prediction time to the event, or to the "
            "end of what is known where boolean_value is false"
        )
    days = _filled(table, DURATION, task).cast(pa.float64()).to_numpy()
    wrong = ~np.isfinite(days) | (days < 0)
    _refuse(table, wrong, DURATION, task, "expected a finite number of days, at least 0")
    return events.append_column(DURATION, pa.array(days))


def _none(table: pa.Table, name: str, kind: pa.DataType) -> pa.Table:
    """A task without rows, with one more column."""
    return table.append_column(name, pa.array([], kind))


def _value_column(table: pa.Table, task: str) -> str:
    """The one of `VALUES` that a task has."""
    used = [name for name in VALUES if name in table.column_names]
    if len(used) != 1:
        have = " and ".join(used) if used else "no value"
        raise ContractError(f"task {task} has {have}; expected exactly one of {', '.join(VALUES)}")
    return used[0]


def _filled(table: pa.Table, name: str, task: str) -> pa.ChunkedArray:
    """A column that has no null."""
    column = table[name]
    if column.null_count:
        row = int(column.is_null().to_numpy().argmax())
        raise ContractError(f"task {task} has no {name} for {_named(table, row)}")
    return column


def _refuse(
    table: pa.Table, wrong: npt.NDArray[np.bool_], name: str, task: str, expected: str
) -> None:
    """Raise for the first row that is wrong, by subject and time."""
    if wrong.any():
        row = int(wrong.argmax())
        value = table[name].to_numpy()[row]
        raise ContractError(
            f"task {task} has {name} = {value} for {_named(table, row)}; {expected}"
        )


def require_known(
    tables: Mapping[str, pa.Table], subject_id: npt.NDArray[np.int64], *, where: str | Path
) -> None:
    """Refuse labels of subjects that a data set does not have.

    Args:
        tables: Task -> labels, from `read_labels`.
        subject_id: Who there is, in any order.
        where: The data set.

    Raises:
        ContractError: With the task, the number of such subjects and the first one.
    """
    for task, table in tables.items():
        unknown = np.setdiff1d(table["subject_id"].to_numpy(), subject_id)
        if len(unknown):
            raise ContractError(
                f"labels of task {task} name {len(unknown):,} subjects that {where} does not have, "
                f"the first {unknown[0]}; were they made from other data?"
            )


def _is_csv(path: Path) -> bool:
    """Whether it is one table of labels that goes by `LabelColumns`."""
    return path.suffix == ".csv" and path.name != ehrshot.FILE


def _tasks(path: Path, reader: str) -> dict[str, list[Path]]:
    """Task -> its files."""
    if not path.exists():
        raise ContractError(f"{path}: no such directory")
    if theirs := ehrshot.ehrshot_files(path):
        return {task: [file] for task, file in theirs.items()}
    tasks = name_tasks(path, label_files(path, reader=reader))
    if not tasks:
        raise ContractError(f"{path} holds no labels: expected <task>/**/*.parquet")
    return tasks


def _read_task(task: str, files: Sequence[Path]) -> pa.Table:
    table = pa.concat_tables([_read_file(f) for f in files], promote_options="default")
    used = [name for name in _READ if name in table.column_names]
    table = table.select([*KEY, *used])
    subject, time = (table[name].cast(pa.int64()).to_numpy() for name in KEY)
    order = np.lexsort((time, subject))
    table, subject, time = table.take(order), subject[order], time[order]
    again = (subject[1:] == subject[:-1]) & (time[1:] == time[:-1])
    if not again.any():
        return table
    for name in used:
        value = table[name].combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy()
        contradicts = again & (value[1:] != value[:-1])
        if contradicts.any():
            row = int(contradicts.argmax())
            raise ContractError(f"task {task} has contradicting labels of {_named(table, row)}")
    return table.filter(pa.array(np.concatenate([[True], ~again])))


def _count(path: Path) -> int:
    return len(_read_file(path)) if path.name == ehrshot.FILE else count_rows(path)


def _read_file(path: Path) -> pa.Table:
    if path.name == ehrshot.FILE:
        return ehrshot.read_ehrshot_file(path)
    found = read_table(path, [*KEY, *_READ])
    for name in KEY:
        if name not in found.column_names:
            raise ContractError(f"{path} has no column {name}: not MEDS labels")
        no_nulls(found[name], name, path)
    columns = {
        "subject_id": whole_numbers(found["subject_id"], "subject_id", path),
        "prediction_time": microseconds(found["prediction_time"], "prediction_time", path),
    }
    for name in _READ:
        # tools write the columns that they do not use as all null, of whatever type
        if name in found.column_names and found[name].null_count < len(found):
            columns[name] = _value(found[name], name, path)
    return pa.table(columns)


def _value(column: pa.ChunkedArray, name: str, path: Path) -> pa.ChunkedArray:
    kind = decoded(column).type
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    if name == "integer_value":
        return whole_numbers(column, name, path)
    if name == "categorical_value":
        return strings(column, name, path)
    if name == "float_value" and numeric:
        return decoded(column).cast(VALUES[name], safe=False)
    if name == DURATION and numeric:
        return decoded(column).cast(pa.float64())
    if name == "boolean_value" and pa.types.is_boolean(kind):
        return decoded(column)
    raise ContractError(
        f"{path}: column {name} is {kind} (expected {VALUES.get(name, pa.float64())})"
    )


def _named(table: pa.Table, row: int) -> str:
    subject, time = (table[name].cast(pa.int64())[row].as_py() for name in KEY)
    # not as datetime, which ends with the year 9999
    return (
        f"subject {subject} at {str(np.datetime64(time, 'us').astype('M8[s]')).replace('T', ' ')}"
    )
