"""Delimited text read at the speed of Arrow; a fault is found again, slowly, to say where it is."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ehr_models.codes.vectors import Floats
from ehr_tracking.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

_BLOCK = 1 << 23
"""Bytes that a thread parses at once."""


def header(path: Path, delimiter: str = ",") -> list[str]:
    """The names in the first line.

    Raises:
        UserError: If there is no such file, or it is empty or not UTF-8.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return next(csv.reader(file, delimiter=delimiter), []) or _empty(path)
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text") from None


def read_delimited(
    path: Path,
    names: Sequence[str],
    kinds: Mapping[str, "pa.DataType"],
    *,
    delimiter: str = ",",
    wanted: Sequence[str] | None = None,
) -> "pa.Table":
    """The rows behind the header.

    Args:
        path: A UTF-8 file with a header.
        names: Of its columns, in order; shown in messages, whatever the header says.
        kinds: Name -> type, of those that are no float32.
        delimiter: Between two cells.
        wanted: Columns to read; all by default.

    Raises:
        UserError: Naming row (from 1, after the header) and column of the first cell that cannot be
            read, or the row that has too few or too many.
    """
    import pyarrow as pa
    import pyarrow.csv as arrow

    types = {name: kinds.get(name, pa.float32()) for name in wanted or names}
    try:
        return arrow.read_csv(
            path,
            arrow.ReadOptions(column_names=list(names), skip_rows=1, block_size=_BLOCK),
            arrow.ParseOptions(delimiter=delimiter),
            arrow.ConvertOptions(
                column_types=types,
                include_columns=list(types),
                null_values=[],
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as e:
        raise _located(path, names, types, delimiter, e) from None


def to_matrix(table: "pa.Table", names: Sequence[str]) -> Floats:
    """[N, D] of D float32 columns."""
    matrix = np.empty((len(table), len(names)), np.float32)
    for i, name in enumerate(names):
        matrix[:, i] = table[name].to_numpy()
    return matrix


def _located(
    path: Path,
    names: Sequence[str],
    types: Mapping[str, "pa.DataType"],
    delimiter: str,
    error: Exception,
) -> UserError:
    """The first fault by row and column."""
    import pyarrow as pa

    readers = {n: int if pa.types.is_integer(t) else float for n, t in types.items()}
    readers = {n: r for n, r in readers.items() if not pa.types.is_string(types[n])}
    with path.open(encoding="utf-8-sig", newline="", errors="replace") as file:
        rows = csv.reader(file, delimiter=delimiter)
        next(rows, None)
        for number, row in enumerate((r for r in rows if r), 1):
            if len(row) != len(names):
                return UserError(f"{path} row {number}: {len(row)} columns (expected {len(names)})")
            for name, cell in zip(names, row, strict=True):
                try:
                    readers.get(name, str)(cell)
                except ValueError:
                    what = "an integer" if readers[name] is int else "a number"
                    return UserError(
                        f"{path} row {number}, column {name or '0'}: {cell!r} is not {what}"
                    )
    return UserError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}")


def _empty(path: Path) -> list[str]:
    raise UserError(f"{path} is empty")
