"""Tables whose columns a contract names, checked when they are written."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ehr_tracking.contracts import Column

_TYPES = {
    "int64": pa.int64(),
    "double": pa.float64(),
    "float": pa.float32(),
    "string": pa.string(),
    "bool": pa.bool_(),
    "timestamp[us]": pa.timestamp("us"),
}


def arrow_schema(columns: Iterable[Column]) -> pa.Schema:
    """The Arrow schema of a contract's columns.

    Examples:
        >>> arrow_schema([Column("k", "int64", "Shots."), Column("value", "double", "A score.")])
        k: int64
        value: double
    """
    return pa.schema([(column.name, _TYPES[column.dtype]) for column in columns])


def write_rows(path: Path, rows: Sequence[Mapping[str, object]], columns: Sequence[Column]) -> int:
    """Write rows that have every column of the contract, and no other.

    Returns:
        Number of rows.

    Raises:
        AssertionError: If a row has other keys than the contract documents.
    """
    names = {column.name for column in columns}
    for row in rows:
        if row.keys() != names:
            raise AssertionError(
                f"{path.name}: keys {sorted(row.keys() ^ names)} are in a row or in the contract only"
            )
    pq.write_table(pa.Table.from_pylist(rows, arrow_schema(columns)), path)
    return len(rows)
