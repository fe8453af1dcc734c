"""Parquet files that others wrote: what can be wrong with them, said in one line."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ehr_tracking.errors import UserError


class Kind(NamedTuple):
    """What a column of metadata must be."""

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


SUBJECT = Kind("int64", pa.types.is_int64)
TEXT = Kind("string", is_text)
NOTE = Kind("string", lambda t: is_text(t) or pa.types.is_null(t), needed=False)
PARENTS = Kind("list<string>", lambda t: _is_list_of_texts(t) or pa.types.is_null(t), needed=False)


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


def open_events(path: Path) -> pq.ParquetFile:
    """A file whose codes come as the dictionary that Parquet holds, where Arrow can read one."""
    metadata = pq.read_metadata(path)
    names = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    at = names.index("code")
    groups = (metadata.row_group(i) for i in range(metadata.num_row_groups))
    # Arrow reads strings that are stored as differences, but not into a dictionary
    plain = any("DELTA" in e for g in groups for e in g.column(at).encodings)
    return pq.ParquetFile(path, metadata=metadata, read_dictionary=[] if plain else ["code"])


def read_columns(path: Path, kinds: Mapping[str, Kind]) -> dict[str, list[Any]]:
    """Columns of a table of metadata; nulls in place of one that is not needed and not there.

    Raises:
        UserError: If the file cannot be read, or a column is missing, mistyped or not UTF-8.
    """
    try:
        with pq.ParquetFile(path) as file:  # read_table loads pyarrow.dataset, which takes longer
            schema = file.schema_arrow
            for name, kind in kinds.items():
                _check(path, schema, name, kind)
            table = file.read([n for n in kinds if n in schema.names])
    except (pa.ArrowException, OSError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: not a readable Parquet file ({line(e)})") from None
    return {
        name: _listed(path, table, name) if name in table.column_names else [None] * len(table)
        for name in kinds
    }


def _check(path: Path, schema: pa.Schema, name: str, kind: Kind) -> None:
    times = schema.names.count(name)
    if times > 1:
        raise UserError(f"{path}: column {name} is there twice")
    if times or kind.needed:
        found = schema.field(name).type if times else None
        if found is None or not kind.fits(found):
            raise UserError(f"{path}: column {name} is {found or 'missing'}, MEDS has {kind.name}")


def _listed(path: Path, table: pa.Table, name: str) -> list[Any]:
    try:
        found: list[Any] = table[name].to_pylist()
    except UnicodeDecodeError:
        row = next(i for i, item in enumerate(table[name]) if _is_undecodable(item))
        raise UserError(f"{path} row {row}: {name} is not UTF-8") from None
    return found


def _is_undecodable(item: pa.Scalar) -> bool:
    try:
        item.as_py()
    except UnicodeDecodeError:
        return True
    return False
