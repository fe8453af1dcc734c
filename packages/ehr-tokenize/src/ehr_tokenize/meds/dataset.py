"""Read a MEDS 0.4 data set: its files, splits and codes, and its rows batch by batch.

Rows come as pyarrow record batches whose codes keep the dictionary that Parquet already holds, so
no string is made per row. Only the four columns that tokens need are read.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ehr_tokenize.meds.columns import NO_CODES, code_numbers, filled, key_numbers, times, valid
from ehr_tokenize.meds.events import DAY_US, STATIC
from ehr_tokenize.meds.parquet import (
    NOTE,
    PARENTS,
    SUBJECT,
    TEXT,
    is_text,
    line,
    open_events,
    read_columns,
    texts,
)
from ehr_tracking.errors import UserError

CONTRACT = "meds/0.4"
SPLITS = ("train", "tuning", "held_out")
SCHEMA = {
    "subject_id": "int64",
    "time": "timestamp[us]",
    "code": "string",
    "numeric_value": "float",
}
"""Columns that are read -> Arrow types; strings may be of any kind, `numeric_value` be missing."""
_BATCH_ROWS = 1 << 20
_UNSPLIT = 255
_EARLIEST, _LATEST = -719_162 * DAY_US, 2_932_897 * DAY_US - 1


@dataclass(frozen=True, slots=True)
class Problem:
    """One kind of fault, and where it is found first."""

    where: str
    """File and row, counted from 0."""
    what: str
    count: int

    def __str__(self) -> str:
        """One line."""
        more = f" ({self.count:,} such rows)" if self.count > 1 else ""
        return f"{self.where}: {self.what}{more}"


@dataclass(frozen=True, slots=True)
class Dataset:
    """Where a MEDS data set keeps its parts."""

    root: Path
    files: tuple[Path, ...]
    """`data/**/*.parquet` in the order of their paths; how subjects are spread is free."""


class Extra(NamedTuple):
    """Columns that go into what an event is of (`keys`); a file may lack them."""

    unit: str | None = None
    text: str | None = None


NOTHING = Extra()


class CodeInfo(NamedTuple):
    """What `codes.parquet` says of a code."""

    description: str | None = None
    parents: list[str] | None = None


NO_INFO = CodeInfo()


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


def open_dataset(root: Path) -> Dataset:
    """Find the files of a MEDS data set and check their columns.

    Raises:
        UserError: If it is missing, is no MEDS data set, or a file cannot be read or is mistyped.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such directory")
    files = tuple(sorted((root / "data").glob("**/*.parquet")))
    if not files:
        raise UserError(f"{root} is no MEDS data set: there is no data/**/*.parquet in it")
    for path in files:
        problem = schema_problem(path)
        if problem:
            raise UserError(str(problem))
    return Dataset(root, files)


def schema_problem(path: Path) -> Problem | None:
    """What is wrong with the columns of a file, if anything."""
    try:
        schema = pq.read_schema(path)
        names = schema.names
    except UnicodeEncodeError:
        return Problem(ascii(str(path)), "the name is not UTF-8; rename the file", 1)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as e:
        return Problem(str(path), f"not a readable Parquet file, perhaps truncated ({line(e)})", 1)
    for name, accepted in SCHEMA.items():
        if name not in names:
            if name == "numeric_value":
                continue
            return Problem(str(path), f"not MEDS, column {name} is missing", 1)
        if names.count(name) > 1:
            return Problem(str(path), f"column {name} is there twice", 1)
        found = schema.field(name).type
        if not fits(name, found):
            return Problem(str(path), f"column {name} is {found}, MEDS has {accepted}", 1)
    return None


def fits(name: str, kind: pa.DataType) -> bool:
    """Whether a column of `SCHEMA` has a type that is read."""
    return is_text(kind) if name == "code" else str(kind) == SCHEMA[name]


def batches(path: Path, extra: Extra = NOTHING) -> Iterator[Batch]:
    """The rows of a file, about a million at a time.

    Raises:
        UserError: If the file is damaged.
    """
    row = 0
    try:
        with open_events(path) as file:
            found = file.schema_arrow.names
            twice = next((n for n in extra if n and found.count(n) > 1), None)
            if twice:
                raise UserError(f"{path}: column {twice} is there twice")
            names = [n for n in (*SCHEMA, *extra) if n in found]
            for record in file.iter_batches(_BATCH_ROWS, columns=names):
                yield _batch(path, row, record, extra)
                row += len(record)
    except (pa.ArrowException, OSError) as e:
        raise UserError(f"{path}: damaged after row {row}: {line(e)}") from None


def from_table(table: pa.Table, path: Path, extra: Extra = NOTHING) -> Batch:
    """The rows of a MEDS table in memory; `path` names it in messages."""
    names = [n for n in (*SCHEMA, *extra) if n in table.column_names]
    combined = table.select(names).combine_chunks()
    records = combined.to_batches(max_chunksize=max(1, len(combined)))
    record = records[0] if records else pa.RecordBatch.from_pylist([], schema=combined.schema)
    return _batch(path, 0, record, extra)


def row_problems(batch: Batch, before: tuple[int, int] | None) -> list[Problem]:
    """Nulls, codes that are none, odd times, and rows of a subject that are not in order.

    Args:
        batch: Rows.
        before: Subject and time of the row before the batch, in the same file.
    """
    subject, time = batch.subject_id, batch.time
    if before is not None:
        subject = np.concatenate([[before[0]], subject])
        time = np.concatenate([[before[1]], time])
    back = np.flatnonzero((subject[1:] == subject[:-1]) & (time[1:] < time[:-1]))
    static = time[back + 1] == STATIC
    shift = batch.row + (1 if before is None else 0)
    bad = np.flatnonzero(batch.code < 0)
    faults = [
        (_rows(batch.null_subjects), batch.row, "subject_id is null"),
        *((bad[batch.code[bad] == i], batch.row, what) for i, what in NO_CODES.items()),
        (_outside(batch.time), batch.row, "time is not in the years 1 to 9999"),
        (back[static], shift, "a row without time comes after a row with one, in subject"),
        (back[~static], shift, "time is before that of the row above, in subject"),
    ]
    problems = []
    for rows, base, what in faults:
        if len(rows):
            row = int(rows[0]) + base
            name = f" {batch.subject_id[row - batch.row]}" if what.endswith("subject") else ""
            problems.append(Problem(f"{batch.path} row {row}", what + name, len(rows)))
    return problems


def _outside(time: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    # in two steps, since hardly a data set has any: nothing but the extremes is looked at
    early = np.flatnonzero((time < _EARLIEST) & (time != STATIC))
    late = time.max(initial=0) > _LATEST
    return np.union1d(early, np.flatnonzero(time > _LATEST)) if late else early


def runs(batch: Batch) -> npt.NDArray[np.int64]:
    """Rows of the batch at which another subject begins; the first row always."""
    return np.flatnonzero(
        np.concatenate([[True], batch.subject_id[1:] != batch.subject_id[:-1]])[: len(batch.time)]
    )


def read_splits(root: Path) -> dict[int, str] | None:
    """Subject -> split, as `metadata/subject_splits.parquet` has it, or None where there is none.

    Raises:
        UserError: If the file is damaged, or a subject is in two splits or in an unknown one.
    """
    path = root / "metadata" / "subject_splits.parquet"
    if not path.is_file():
        return None
    columns = read_columns(path, {"subject_id": SUBJECT, "split": TEXT})
    assigned: dict[int, str] = {}
    for row, (subject, split) in enumerate(zip(*columns.values(), strict=True)):
        if subject is None:
            raise UserError(f"{path} row {row}: subject_id is null")
        if split not in SPLITS:
            raise UserError(f"{path} row {row}: split is {split!r}, MEDS has {', '.join(SPLITS)}")
        if assigned.setdefault(subject, split) != split:
            raise UserError(f"{path} row {row}: subject {subject} is in two splits")
    return assigned


def read_codes(root: Path) -> dict[str, CodeInfo]:
    """What `metadata/codes.parquet` says of each code; empty where there is no such file.

    Raises:
        UserError: If the file is damaged.
    """
    path = root / "metadata" / "codes.parquet"
    if not path.is_file():
        return {}
    columns = read_columns(path, {"code": TEXT, "description": NOTE, "parent_codes": PARENTS})
    infos: dict[str, CodeInfo] = {}
    for code, description, parents in zip(*columns.values(), strict=True):
        if code is not None:
            infos.setdefault(code, CodeInfo(description, parents))
    return infos


def assign_splits(
    subject_id: npt.NDArray[np.int64], named: Mapping[int, str] | None, seed: int
) -> npt.NDArray[np.uint8]:
    """[N] index into `SPLITS` of each subject: as named, else 80/10/10 by a stable hash.

    Raises:
        UserError: If splits are named but not that of every subject.

    Examples:
        >>> np.bincount(assign_splits(np.arange(10_000), None, seed=0))
        array([8012,  982, 1006])
    """
    if named is None:
        share = _hash(subject_id, seed) >> np.uint64(11)
        bounds = np.array([0.8, 0.9]) * 2.0**53
        return np.searchsorted(bounds, share.astype(np.float64), side="right").astype(np.uint8)
    index = {name: i for i, name in enumerate(SPLITS)}
    split = np.array([index.get(named.get(s, ""), _UNSPLIT) for s in subject_id.tolist()], np.uint8)
    missing = subject_id[split == _UNSPLIT]
    if len(missing):
        raise UserError(
            f"subject {missing[0]} has events but no split in metadata/subject_splits.parquet "
            f"({len(missing):,} such subjects)"
        )
    return split


def _hash(subject_id: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.uint64]:
    """SplitMix64's finalizer (Steele et al. 2014) over subject and seed."""
    # in Python's integers: numpy warns where a scalar product wraps
    x = subject_id.astype(np.uint64) + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    hashed: npt.NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return hashed


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
    if any(name in record.schema.names for name in extra if name):
        index, codes = key_numbers(record, index, codes, value, extra, (path, row))
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
    )


def _rows(mask: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.int64]:
    return np.zeros(0, np.int64) if mask is None else np.flatnonzero(mask)
