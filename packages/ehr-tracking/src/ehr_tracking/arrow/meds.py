"""A MEDS 0.4 data set: its files of events, and what it says of its codes."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ehr_tracking.arrow.columns import strings
from ehr_tracking.arrow.parquet import (
    DAY_US,
    NOTE,
    PARENTS,
    TEXT,
    is_text,
    line,
    read_columns,
    read_table,
)
from ehr_tracking.contracts import ContractError
from ehr_tracking.files import PathLike
from ehr_tracking.tree import files_below

COLUMNS = {
    "subject_id": pa.int64(),
    "time": pa.timestamp("us"),
    "code": pa.string(),
    "numeric_value": pa.float32(),
}
"""What each data set has (`numeric_value` may be missing) -> the type it is read as."""
_CODES = pa.schema(
    {"code": pa.string(), "description": pa.string(), "parent_codes": pa.list_(pa.string())}
)
STATIC = np.iinfo(np.int64).min
"""The time of an event that is always known (null in MEDS), as a number: before every real time."""
_NEEDED = ("subject_id", "time", "code")
MENDS = "; ehr-tokenize check DATA --repair OUT mends it"
"""Of what takes no guess to mend."""
_MENDABLE = ("subject_id is null", "code is null", "a row without time", "time is before")
_EARLIEST, _LATEST = -719_162 * DAY_US, 2_932_897 * DAY_US - 1


class CodeInfo(NamedTuple):
    """What `codes.parquet` says of a code."""

    description: str | None = None
    parents: list[str] | None = None


NO_INFO = CodeInfo()


def data_files(meds: PathLike) -> list[Path]:
    """The files of events of a data set, in the order of their paths.

    Raises:
        ContractError: If there are none.
    """
    meds = Path(meds)
    if not meds.is_dir():
        raise ContractError(f"{meds}: no such directory")
    data = meds / "data"
    files = files_below(data, ".parquet") if data.is_dir() else []
    if not files:
        raise ContractError(f"{meds} is no MEDS data set: there is no data/**/*.parquet in it")
    return files


def schema_fault(path: Path) -> str | None:
    """What is wrong with the columns of a file of events, if anything."""
    try:
        metadata = pq.read_metadata(path)
        schema = metadata.schema.to_arrow_schema()
        names = schema.names
    except UnicodeEncodeError:
        return f"{str(path)!a}: the name is not UTF-8; rename the file"
    except (pa.ArrowException, OSError, UnicodeDecodeError) as e:
        return f"{path}: not a readable Parquet file, perhaps truncated ({line(e)})"
    if is_untyped(metadata):
        return f"{path}: has no rows, and columns without a type{MENDS}"
    for name, kind in COLUMNS.items():
        if name not in names:
            if name not in _NEEDED:
                continue
            return f"{path}: not MEDS, column {name} is missing"
        if names.count(name) > 1:
            return f"{path}: column {name} is there twice"
        found = schema.field(name).type
        if not fits(name, found):
            mends = MENDS if _can_be_mended(name, found) else ""
            return f"{path}: column {name} is {found}, MEDS has {kind}{mends}"
    return None


def fits(name: str, kind: pa.DataType) -> bool:
    """Whether a column of `COLUMNS` has a type that is read.

    Examples:
        >>> fits("code", pa.dictionary(pa.int32(), pa.large_string())), fits("time", pa.date32())
        (True, False)
    """
    return is_text(kind) if name == "code" else kind == COLUMNS[name]


def is_untyped(metadata: pq.FileMetaData) -> bool:
    """Whether a file has no rows and not even typed columns, as writers leave it that infer types."""
    schema = metadata.schema.to_arrow_schema()
    typed = {f.name for f in schema if not pa.types.is_null(f.type)}
    return metadata.num_rows == 0 and not typed.issuperset(_NEEDED)


def _can_be_mended(name: str, kind: pa.DataType) -> bool:
    """Whether `ehr-tokenize check --repair` makes a column of it that `fits`."""
    null = bool(pa.types.is_null(kind))
    if name == "time":
        return null or bool(pa.types.is_timestamp(kind))
    if name == "code":
        return null
    number = bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
    return number or (is_text(kind) if name == "subject_id" else null)


def mends(what: str) -> str:
    """What to do about a fault of rows, where `ehr-tokenize check --repair` mends it, else nothing.

    Examples:
        >>> mends("code is null"), mends("code is empty")
        ('; ehr-tokenize check DATA --repair OUT mends it', '')
    """
    return MENDS if what.startswith(_MENDABLE) else ""


def read_subjects(files: Sequence[Path]) -> pa.Table:
    """Who is in which file of a data set.

    Args:
        files: From `data_files`.

    Returns:
        `subject_id` and `file` (its number), one row each, by file, then by subject.

    Raises:
        ContractError: If a subject is in two files, or its rows are not contiguous.
    """
    parts: list[npt.NDArray[np.int64]] = []
    for path in files:
        rows = read_events(path, ["subject_id"])["subject_id"].to_numpy()
        first = np.flatnonzero(np.append(True, rows[1:] != rows[:-1]))[: len(rows)]
        found, at = np.unique(rows[first], return_index=True)
        if len(found) < len(first):
            again = int(first[np.setdiff1d(np.arange(len(first)), at)[0]])
            raise ContractError(spread(rows[again], path, path, again))
        parts.append(found)
    subject = np.concatenate(parts)
    file = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
    order = np.argsort(subject, kind="stable")
    twice = np.flatnonzero(np.diff(subject[order]) == 0)
    if len(twice):
        one, two = order[twice[0] : twice[0] + 2]
        raise ContractError(spread(subject[one], files[file[one]], files[file[two]], 0))
    return pa.table({"subject_id": subject, "file": file})


def spread(subject: int, first: Path, path: Path, row: int) -> str:
    """What is wrong where a subject's rows lie in two places.

    Args:
        subject: Whose.
        first: The file that has it first.
        path: The file that has it again, perhaps the same.
        row: Of `path`, at which it begins again.
    """
    if first != path:
        return f"subject {subject} is in two files: {first} and {path}; each needs one file{MENDS}"
    return (
        f"{path} row {row}: subject {subject} begins again after other subjects; the rows of a "
        f"subject must be contiguous{MENDS}"
    )


def read_events(path: PathLike, columns: Sequence[str] = tuple(COLUMNS)) -> pa.Table:
    """The events of one file, in its order.

    Args:
        path: The file.
        columns: Of `COLUMNS`; others are read as text. Those that the file lacks are null.

    Returns:
        The columns in the order asked for, `COLUMNS` as typed there, others as string.

    Raises:
        ContractError: If the file is damaged, its columns are not those of MEDS, a subject or code
            is null, a code empty, or a time senseless or before that of the row above, of the same
            subject; naming the first such row.
    """
    path = Path(path)
    fault = schema_fault(path)
    if fault is not None:
        raise ContractError(fault)
    table = read_table(path, columns)
    found = {name: _column(table, name, path) for name in columns}
    for row, what in _faults(found):
        raise ContractError(f"{path} row {row}: {what}{mends(what)}")
    return pa.table(found)


def read_codes(meds: PathLike) -> pa.Table:
    """`code_infos` as a table.

    Returns:
        `code`, `description` and `parent_codes` (a list), the latter two null where it says nothing;
        empty where there is no such file.

    Raises:
        ContractError: If the file is damaged.
    """
    meds = Path(meds)
    infos = code_infos(meds)
    columns = [list(infos), *([info[i] for info in infos.values()] for i in range(2))]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, _CODES, strict=True)], _CODES)


def code_infos(meds: Path) -> dict[str, CodeInfo]:
    """What `metadata/codes.parquet` says of each code, the first time it names it.

    Returns:
        Code -> that; empty where there is no such file.

    Raises:
        ContractError: If the file is damaged.
    """
    path = meds / "metadata" / "codes.parquet"
    if not path.is_file():
        return {}
    columns = read_columns(path, {"code": TEXT, "description": NOTE, "parent_codes": PARENTS})
    first: dict[str, CodeInfo] = {}
    for code, description, parents in zip(*columns.values(), strict=True):
        if code is not None:
            first.setdefault(code, CodeInfo(description, parents))
    return first


def time_faults(
    subject_id: npt.NDArray[np.int64],
    time: npt.NDArray[np.int64],
    before: tuple[int, int] | None = None,
) -> list[tuple[npt.NDArray[np.int64], str]]:
    """Rows whose times cannot be: outside the calendar, or not in order within a subject.

    Args:
        subject_id: [R]
        time: [R] microseconds since 1970, or `STATIC`.
        before: Subject and time of the row above the first, if there is one.

    Returns:
        Rows and what is wrong with them, naming the subject of the first where that matters.

    Examples:
        >>> time_faults(np.array([7, 7]), np.array([5, 4]))[-1]
        (array([1]), 'time is before that of the row above, in subject 7')
    """
    subject, at = subject_id, time
    if before is not None:
        subject = np.concatenate([[before[0]], subject_id])
        at = np.concatenate([[before[1]], time])
    back = np.flatnonzero((subject[1:] == subject[:-1]) & (at[1:] < at[:-1]))
    static = at[back + 1] == STATIC
    row = back + (1 if before is None else 0)
    faults = [(_outside(time), "time is not in the years 1 to 9999")]
    for rows, what in (
        (row[static], "a row without time comes after a row with one"),
        (row[~static], "time is before that of the row above"),
    ):
        whose = f", in subject {subject_id[rows[0]]}" if len(rows) else ""
        faults.append((rows, what + whose))
    return faults


def _outside(time: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    # in two steps, since hardly a data set has any: nothing but the extremes is looked at
    early = np.flatnonzero((time < _EARLIEST) & (time != STATIC))
    late = time.max(initial=0) > _LATEST
    return np.union1d(early, np.flatnonzero(time > _LATEST)) if late else early


def _column(table: pa.Table, name: str, path: Path) -> pa.ChunkedArray:
    kind = COLUMNS.get(name, pa.string())
    if name not in table.column_names or pa.types.is_null(table[name].type):
        return pa.chunked_array([pa.nulls(len(table), kind)])
    if name not in COLUMNS:
        return _as_text(table[name], name, path)
    if pa.types.is_string(kind):
        return strings(table[name], name, path)
    return table[name].cast(kind)


def _as_text(column: pa.ChunkedArray, name: str, path: Path) -> pa.ChunkedArray:
    """Strings, and whole numbers as they are written; pandas makes floats of numbers with nulls."""
    if pa.types.is_floating(column.type):
        known = pa.array(column.to_numpy(), from_pandas=True)  # NaN is null
        try:
            column = pa.chunked_array([known.cast(pa.int64())])
        except pa.ArrowInvalid:
            raise ContractError(
                f"{path}: column {name} is {column.type} (expected string)"
            ) from None
    return (
        column.cast(pa.string())
        if pa.types.is_integer(column.type)
        else strings(column, name, path)
    )


def _faults(found: Mapping[str, pa.ChunkedArray]) -> Iterator[tuple[int, str]]:
    """Row and fault, the first of each kind."""
    for name in ("subject_id", "code"):
        if name in found and found[name].null_count:
            more = found[name].null_count
            wrong = found[name].is_null().to_numpy()
            yield from _first(
                wrong, f"{name} is null" + (f" ({more:,} such rows)" if more > 1 else "")
            )
    if "code" in found:
        import pyarrow.compute as pc  # loading it takes longer than to tokenise a small data set

        yield from _first(pc.binary_length(found["code"]).to_numpy() == 0, "code is empty")
    if "time" not in found:
        return
    time = found["time"].cast(pa.int64()).fill_null(STATIC).to_numpy()
    subject = found["subject_id"].to_numpy() if "subject_id" in found else np.arange(len(time))
    for rows, what in time_faults(subject, time):
        if len(rows):
            yield int(rows[0]), what


def _first(wrong: npt.NDArray[np.bool_], what: str) -> Iterator[tuple[int, str]]:
    if wrong.any():
        yield int(wrong.argmax()), what
