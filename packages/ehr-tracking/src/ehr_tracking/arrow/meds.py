"""A MEDS 0.4 data set: its files of events, and what it says of its codes."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ehr_tracking.arrow.columns import no_nulls, strings
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

RAW = "meds/0.4"
"""How a MEDS data set is named in the lineage of what is made from it."""
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
_EARLIEST, _LATEST = -719_162 * DAY_US, 2_932_897 * DAY_US - 1


def data_files(meds: Path) -> list[Path]:
    """The files of events of a data set, in the order of their paths.

    Raises:
        ContractError: If there are none.
    """
    if not meds.is_dir():
        raise ContractError(f"{meds}: no such directory")
    files = sorted((meds / "data").rglob("*.parquet"))
    if not files:
        raise ContractError(f"{meds} is no MEDS data set: there is no data/**/*.parquet in it")
    return files


def schema_fault(path: Path) -> str | None:
    """What is wrong with the columns of a file of events, if anything."""
    try:
        schema = pq.read_schema(path)
        names = schema.names
    except UnicodeEncodeError:
        return f"{str(path)!a}: the name is not UTF-8; rename the file"
    except (pa.ArrowException, OSError, UnicodeDecodeError) as e:
        return f"{path}: not a readable Parquet file, perhaps truncated ({line(e)})"
    for name, kind in COLUMNS.items():
        if name not in names:
            if name == "numeric_value":
                continue
            return f"{path}: not MEDS, column {name} is missing"
        if names.count(name) > 1:
            return f"{path}: column {name} is there twice"
        found = schema.field(name).type
        if not fits(name, found):
            return f"{path}: column {name} is {found}, MEDS has {kind}"
    return None


def fits(name: str, kind: pa.DataType) -> bool:
    """Whether a column of `COLUMNS` has a type that is read.

    Examples:
        >>> fits("code", pa.dictionary(pa.int32(), pa.large_string())), fits("time", pa.date32())
        (True, False)
    """
    return is_text(kind) if name == "code" else kind == COLUMNS[name]


def read_events(path: Path, columns: Sequence[str] = tuple(COLUMNS)) -> pa.Table:
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
    fault = schema_fault(path)
    if fault is not None:
        raise ContractError(fault)
    table = read_table(path, columns)
    found = {name: _column(table, name, path) for name in columns}
    for name in ("subject_id", "code"):
        if name in found:
            no_nulls(found[name], name, path)
    for row, what in _faults(found):
        raise ContractError(f"{path} row {row}: {what}")
    return pa.table(found)


def read_codes(meds: Path) -> pa.Table:
    """What `metadata/codes.parquet` says of each code, the first time it names it.

    Returns:
        `code`, `description` and `parent_codes` (a list), the latter two null where it says nothing;
        empty where there is no such file.

    Raises:
        ContractError: If the file is damaged.
    """
    path = meds / "metadata" / "codes.parquet"
    if not path.is_file():
        return _CODES.empty_table()
    columns = read_columns(path, {"code": TEXT, "description": NOTE, "parent_codes": PARENTS})
    first: dict[str, tuple[str | None, list[str] | None]] = {}
    for code, description, parents in zip(*columns.values(), strict=True):
        if code is not None:
            first.setdefault(code, (description, parents))
    rows = [{"code": c, "description": d, "parent_codes": p} for c, (d, p) in first.items()]
    return pa.Table.from_pylist(rows, _CODES)


def _column(table: pa.Table, name: str, path: Path) -> pa.ChunkedArray:
    kind = COLUMNS.get(name, pa.string())
    if name not in table.column_names or pa.types.is_null(table[name].type):
        return pa.chunked_array([pa.nulls(len(table), kind)])
    if pa.types.is_string(kind):
        return strings(table[name], name, path)
    return table[name].cast(kind)


def _faults(found: Mapping[str, pa.ChunkedArray]) -> Iterator[tuple[int, str]]:
    """Row and fault, the first of each kind."""
    if "code" in found:
        yield from _first(pc.binary_length(found["code"]).to_numpy() == 0, "code is empty")
    if "time" not in found:
        return
    time = found["time"].cast(pa.int64()).fill_null(STATIC).to_numpy()
    outside = ((time < _EARLIEST) & (time != STATIC)) | (time > _LATEST)
    yield from _first(outside, "time is not in the years 1 to 9999")
    if "subject_id" in found:
        subject = found["subject_id"].to_numpy()
        back = (subject[1:] == subject[:-1]) & (time[1:] < time[:-1])
        for row in np.flatnonzero(back)[:1].tolist():
            what = f"time is before that of the row above, in subject {subject[row]}"
            yield row + 1, what


def _first(wrong: npt.NDArray[np.bool_], what: str) -> Iterator[tuple[int, str]]:
    if wrong.any():
        yield int(wrong.argmax()), what
