"""Columns of any width or unit as the one type that is worked on; what does not fit is named. R rows."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ehr_tracking.arrow.parquet import DAY_US, is_text
from ehr_tracking.contracts import ContractError

_UTC = {"UTC", "ETC/UTC", "Z", "+00:00", "GMT"}
_PER_US = {"s": 1_000_000, "ms": 1_000, "us": 1}


def no_nulls(column: pa.ChunkedArray, name: str, path: Path) -> None:
    """Raise where a column has a null.

    Raises:
        ContractError: Naming the first row, counted from 0, and how many there are.
    """
    if column.null_count:
        row = int(column.is_null().to_numpy().argmax())
        more = f" ({column.null_count:,} such rows)" if column.null_count > 1 else ""
        raise ContractError(f"{path} row {row}: {name} is null{more}")


def whole_numbers(column: pa.ChunkedArray, name: str, path: Path) -> pa.ChunkedArray:
    """[R] int64 of integers of any width; nulls stay.

    Raises:
        ContractError: If the column holds no integers, or one beyond int64.
    """
    column = decoded(column)
    if not pa.types.is_integer(column.type):
        raise ContractError(f"{path}: column {name} is {column.type} (expected int64)")
    if pa.types.is_uint64(column.type):
        number = column.fill_null(0).to_numpy()
        beyond = number > np.uint64(np.iinfo(np.int64).max)
        if beyond.any():
            row = int(beyond.argmax())
            raise ContractError(f"{path} row {row}: {name} = {number[row]} is beyond int64")
    return column.cast(pa.int64())


def microseconds(column: pa.ChunkedArray, name: str, path: Path) -> pa.ChunkedArray:
    """[R] timestamp[us] of dates, or of times of any unit without a zone or in UTC.

    Args:
        column: Without nulls; parts of a microsecond are cut off.
        name: Of the column.
        path: Of the file.

    Raises:
        ContractError: If the column holds no times, or some of another zone or that do not fit.
    """
    column, kind = decoded(column), decoded(column).type
    zone = kind.tz if pa.types.is_timestamp(kind) else None
    if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        raise ContractError(f"{path}: column {name} is {kind} (expected timestamp[us])")
    if zone is not None and zone.upper() not in _UTC:
        raise ContractError(
            f"{path}: column {name} is {kind}; MEDS has no zones: convert to the data set's own times"
        )
    if pa.types.is_date32(kind):
        number, factor = column.cast(pa.int32()).to_numpy().astype(np.int64), DAY_US
    elif pa.types.is_date64(kind):
        number, factor = column.cast(pa.int64()).to_numpy(), 1_000
    elif kind.unit == "ns":
        number, factor = column.cast(pa.int64()).to_numpy() // 1_000, 1
    else:
        number, factor = column.cast(pa.int64()).to_numpy(), _PER_US[kind.unit]
    _refuse_beyond(number, factor, name, path)
    return pa.chunked_array([pa.array(number * factor, pa.timestamp("us"))])


def strings(column: pa.ChunkedArray, name: str, path: Path) -> pa.ChunkedArray:
    """[R] plain strings of a dictionary, of views or of large ones; nulls stay.

    Raises:
        ContractError: If the column holds no strings, or some that are not UTF-8.
    """
    if not is_text(column.type):
        raise ContractError(f"{path}: column {name} is {column.type} (expected string)")
    try:
        decoded(column).validate(full=True)
    except pa.ArrowInvalid:
        found = (item.as_buffer() for item in decoded(column))
        row = next(i for i, item in enumerate(found) if item and not _is_utf8(item.to_pybytes()))
        raise ContractError(f"{path} row {row}: {name} is not UTF-8") from None
    return decoded(column).cast(pa.string())


def decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column without its dictionary."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _refuse_beyond(number: npt.NDArray[np.int64], factor: int, name: str, path: Path) -> None:
    limit = np.iinfo(np.int64).max // factor
    beyond = (number > limit) | (number < -limit)
    if beyond.any():
        raise ContractError(f"{path} row {int(beyond.argmax())}: {name} is beyond timestamp[us]")


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
