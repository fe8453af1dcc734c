"""The rows of a MEDS data set, batch by batch, as arrays.

Rows come as pyarrow record batches whose codes keep the dictionary that Parquet already holds, so
no string is made per row. Only the columns that tokens need are read. What a data set is, and
which types and splits it has, is decided by `ehr_tracking.arrow`, for all packages alike.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ehr_tokenize.meds.columns import (
    code_numbers,
    filled,
    id_numbers,
    key_numbers,
    times,
    valid,
)
from ehr_tracking.arrow.meds import COLUMNS, data_files, schema_fault
from ehr_tracking.arrow.parquet import line, texts
from ehr_tracking.errors import UserError

_BATCH_ROWS = 1 << 20


@dataclass(frozen=True, slots=True)
class Dataset:
    """Where a MEDS data set keeps its parts."""

    root: Path
    files: tuple[Path, ...]
    """`data/**/*.parquet` in the order of their paths; how subjects are spread is free."""


class Extra(NamedTuple):
    """Columns beside those that MEDS has to have; a file may lack them."""

    unit: str | None = None
    """Goes, as `text` does, into what an event is of (`keys`)."""
    text: str | None = None
    ids: tuple[str, ...] = ()
    """Name the visit of an event; the first that is filled."""

    @property
    def columns(self) -> list[str]:
        """All of them."""
        return [*(name for name in (self.unit, self.text) if name), *self.ids]


NOTHING = Extra()


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Consecutive rows of one file. R rows."""

    path: Path
    row: int
    """Of the first, counted from 0 in the file."""
    subject_id: npt.NDArray[np.int64]
    """[R]"""
    time: npt.NDArray[np.int64]
    """[R] `STATIC` for null"""
    code: npt.NDArray[np.int64]
    """[R] index into `codes`, below 0 where there is no valid one (see `row_problems`)"""
    codes: list[str]
    value: npt.NDArray[np.float32]
    """[R] NaN for null"""
    null_subjects: npt.NDArray[np.bool_] | None
    """[R] or None where there is no null"""
    visit_id: npt.NDArray[np.int64] | None = None
    """[R] 0 for none; None where no column has any"""


def open_dataset(root: Path) -> Dataset:
    """Find the files of a MEDS data set and check their columns.

    Raises:
        UserError: If it is missing, is no MEDS data set, or a file cannot be read or is mistyped.
    """
    files = data_files(root)
    for fault in map(schema_fault, files):
        if fault:
            raise UserError(fault)
    return Dataset(root, tuple(files))


def batches(path: Path, extra: Extra = NOTHING) -> Iterator[Batch]:
    """The rows of a file, about a million at a time.

    Raises:
        UserError: If the file is damaged.
    """
    row = 0
    try:
        with open_events(path) as file:
            found = file.schema_arrow.names
            twice = next((n for n in extra.columns if found.count(n) > 1), None)
            if twice:
                raise UserError(f"{path}: column {twice} is there twice")
            names = [n for n in dict.fromkeys([*COLUMNS, *extra.columns]) if n in found]
            for record in file.iter_batches(_BATCH_ROWS, columns=names):
                yield _batch(path, row, record, extra)
                row += len(record)
    except (pa.ArrowException, OSError) as e:
        raise UserError(f"{path}: damaged after row {row}: {line(e)}") from None


def from_table(table: pa.Table, path: Path, extra: Extra = NOTHING) -> Batch:
    """The rows of a MEDS table in memory; `path` names it in messages."""
    names = [n for n in dict.fromkeys([*COLUMNS, *extra.columns]) if n in table.column_names]
    combined = table.select(names).combine_chunks()
    records = combined.to_batches(max_chunksize=max(1, len(combined)))
    record = records[0] if records else pa.RecordBatch.from_pylist([], schema=combined.schema)
    return _batch(path, 0, record, extra)


def runs(batch: Batch) -> npt.NDArray[np.int64]:
    """Rows of the batch at which another subject begins; the first row always."""
    return np.flatnonzero(
        np.concatenate([[True], batch.subject_id[1:] != batch.subject_id[:-1]])[: len(batch.time)]
    )


def open_events(path: Path) -> pq.ParquetFile:
    """A file whose codes come as the dictionary that Parquet holds, where Arrow can read one."""
    metadata = pq.read_metadata(path)
    names = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    at = names.index("code")
    groups = (metadata.row_group(i) for i in range(metadata.num_row_groups))
    # Arrow reads strings that are stored as differences, but not into a dictionary
    plain = any("DELTA" in e for g in groups for e in g.column(at).encodings)
    return pq.ParquetFile(path, metadata=metadata, read_dictionary=[] if plain else ["code"])


def _batch(path: Path, row: int, record: pa.RecordBatch, extra: Extra) -> Batch:
    code = record.column("code")
    if not pa.types.is_dictionary(code.type):
        code = code.dictionary_encode()
    index, codes = code_numbers(filled(code.indices, -1).astype(np.int64), texts(code.dictionary))
    value = (
        filled(record.column("numeric_value"), np.nan)
        if "numeric_value" in record.schema.names
        else np.full(len(record), np.nan, np.float32)
    )
    if any(name in record.schema.names for name in (extra.unit, extra.text) if name):
        names = extra.unit, extra.text
        index, codes = key_numbers(record, index, codes, value, names, (path, row))
    subject = record.column("subject_id")
    return Batch(
        path=path,
        row=row,
        subject_id=filled(subject, 0),
        time=times(record.column("time")),
        code=index,
        codes=codes,
        value=value,
        null_subjects=~valid(subject) if subject.null_count else None,
        visit_id=id_numbers(record, extra.ids),
    )
