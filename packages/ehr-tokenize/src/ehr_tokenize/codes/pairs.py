"""Two-column tables that users bring: lookups (`code,term`) and code maps (`from,to`)."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ehr_tracking.errors import UserError


@dataclass(frozen=True, slots=True)
class Pair:
    """One row of a table."""

    row: int
    """Line of a CSV file, the header being 1; row of a Parquet file, counted from 0."""
    key: str
    value: str


def read_pairs(path: Path, key: str, value: str) -> list[Pair]:
    """Read two text columns of a CSV (UTF-8, a BOM is stripped) or Parquet file, in its order.

    Text is taken as it stands: nothing is trimmed, and nothing is changed in case, since codes that
    differ only in case (Read codes) or in leading zeros (NDC) are different codes. Other columns
    are passed over.

    Args:
        path: `.parquet`, else CSV with a header.
        key: Name of the column to look up in.
        value: Name of the column that is found.

    Raises:
        UserError: If there is no such file, a column is missing or is no text, a row is short, or a
            key or value is empty; naming file and row.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    read = _parquet if path.suffix == ".parquet" else _csv
    pairs = []
    for row, found, text in read(path, key, value):
        for column, cell in ((key, found), (value, text)):
            if not cell:
                raise UserError(f"{path} row {row}: {column} is empty; fill it or drop the row")
        pairs.append(Pair(row, found, text))
    return pairs


def _csv(path: Path, key: str, value: str) -> Iterator[tuple[int, str, str]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise UserError(f"{path}: byte {e.start} is not UTF-8; save the table as UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        header = next(reader, [])
        at = [_position(path, header, name) for name in (key, value)]
        for cells in reader:
            if not cells:
                continue
            if len(cells) <= max(at):
                raise UserError(
                    f"{path} row {reader.line_num}: {len(cells)} columns, need {max(at) + 1}"
                )
            yield reader.line_num, cells[at[0]], cells[at[1]]
    except csv.Error as e:
        raise UserError(f"{path} row {reader.line_num}: not CSV: {e}") from None


def _parquet(path: Path, key: str, value: str) -> Iterator[tuple[int, str, str]]:
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as e:
        raise UserError(
            f"{path}: not a readable Parquet file ({' '.join(str(e).split())})"
        ) from None
    for name in (key, value):
        kind = table.schema.field(_position(path, table.column_names, name)).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise UserError(f"{path}: column {name} is {kind}; codes are text, write it as string")
    columns = table[key].to_pylist(), table[value].to_pylist()
    for row, (found, text) in enumerate(zip(*columns, strict=True)):
        yield row, found or "", text or ""


def _position(path: Path, header: list[str], name: str) -> int:
    if name not in header:
        have = ", ".join(map(repr, header[:8])) or "nothing"
        raise UserError(f"{path}: column {name} is missing; its header has {have}")
    return header.index(name)
