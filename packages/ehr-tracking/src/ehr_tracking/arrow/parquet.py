"""Parquet files that others wrote: what can be wrong with them, said in one line."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ehr_tracking.contracts import ContractError

DAY_US = 86_400_000_000


class Expected(NamedTuple):
    """What a column must be."""

    name: str
    """As MEDS has it."""
    fits: Callable[[pa.DataType], bool]
    needed: bool = True


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds strings, as a dictionary or not."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return kind in (pa.string(), pa.large_string(), pa.string_view())


def _is_list_of_texts(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return is_list and (is_text(kind.value_type) or pa.types.is_null(kind.value_type))


SUBJECT = Expected("int64", pa.types.is_int64)
TEXT = Expected("string", is_text)
NOTE = Expected("string", lambda t: is_text(t) or pa.types.is_null(t), needed=False)
PARENTS = Expected(
    "list<string>", lambda t: _is_list_of_texts(t) or pa.types.is_null(t), needed=False
)


def line(error: BaseException) -> str:
    """What an error says, short and in one line."""
    short = " ".join(str(error).split())[:200]
    return short if short.isprintable() else ascii(short)


def texts(column: pa.Array) -> list[str | None]:
    """Strings as Python's; None for null, and for what is not UTF-8."""
    try:
        found: list[str | None] = column.to_pylist()
    except UnicodeDecodeError:
        found = [None if _is_undecodable(s) else s.as_py() for s in column]
    return found


def read_table(path: Path, names: Iterable[str]) -> pa.Table:
    """Those of the columns that a file has, as they are stored; its folders' names mean nothing.

    Raises:
        ContractError: If the file cannot be read, or has one of the columns twice.
    """
    try:
        with pq.ParquetFile(path) as file:  # read_table loads pyarrow.dataset, which takes longer
            found = file.schema_arrow.names
            twice = next((n for n in names if found.count(n) > 1), None)
            if twice is not None:
                raise ContractError(f"{path}: column {twice} is there twice")
            return file.read([n for n in names if n in found])
    except (pa.ArrowException, OSError, UnicodeDecodeError) as e:
        raise unreadable(path, e) from None


def count_rows(path: Path) -> int:
    """How many rows a file says that it has.

    Raises:
        ContractError: If it cannot be read.
    """
    try:
        rows: int = pq.read_metadata(path).num_rows
    except (pa.ArrowException, OSError, UnicodeDecodeError) as e:
        raise unreadable(path, e) from None
    return rows


def read_columns(path: Path, kinds: Mapping[str, Expected]) -> dict[str, list[Any]]:
    """Columns of a table of metadata; nulls in place of one that is not needed and not there.

    Raises:
        ContractError: If the file cannot be read, or a column is missing, mistyped or not UTF-8.
    """
    table = read_table(path, kinds)
    for name, kind in kinds.items():
        there = name in table.column_names
        if there or kind.needed:
            found = table.schema.field(name).type if there else None
            if found is None or not kind.fits(found):
                raise ContractError(
                    f"{path}: column {name} is {found or 'missing'}, MEDS has {kind.name}"
                )
    return {
        name: _listed(path, table, name) if name in table.column_names else [None] * len(table)
        for name in kinds
    }


def unreadable(path: Path, error: BaseException) -> ContractError:
    """What to raise where a library could not read a file."""
    return ContractError(f"{path}: not a readable Parquet file ({line(error)})")


def _listed(path: Path, table: pa.Table, name: str) -> list[Any]:
    try:
        found: list[Any] = table[name].to_pylist()
    except UnicodeDecodeError:
        row = next(i for i, item in enumerate(table[name]) if _is_undecodable(item))
        raise ContractError(f"{path} row {row}: {name} is not UTF-8") from None
    return found


def _is_undecodable(item: pa.Scalar) -> bool:
    try:
        item.as_py()
    except UnicodeDecodeError:
        return True
    return False
