"""Mend what can be mended in a MEDS data set without guessing: types, order, strays, metadata.

What would need a guess (a day without time of day, subjects named by text, a subject without split) is
refused. Memory holds one file at a time, and the rows that other files hold of its subjects.
"""

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from meds.schema import CodeMetadataSchema, DataSchema, SubjectSplitSchema
from tqdm import tqdm

from ehr_tokenize.meds.check import check
from ehr_tokenize.meds.mend_types import mended_codes, mended_events, mended_splits
from ehr_tokenize.meds.output import new_dataset
from ehr_tracking.arrow.meds import data_files, is_untyped
from ehr_tracking.arrow.splits import splits_by_hash
from ehr_tracking.contracts import SPLITS
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike
from ehr_tracking.outputs import refuse_inputs
from ehr_tracking.tree import files_below

_CODES, _SPLITS = "codes.parquet", "subject_splits.parquet"
_EVENTS = {
    "subject_id": pa.int64(),
    "time": pa.timestamp("us"),
    "code": pa.string(),
    "numeric_value": pa.float32(),
    "text_value": pa.large_string(),
}
_EVENT_SCHEMA = pa.schema(_EVENTS)
_CODE_TYPES = {
    "code": pa.string(),
    "description": pa.string(),
    "parent_codes": pa.list_(pa.string()),
}
_SPLIT_TYPES = {"subject_id": pa.int64(), "split": pa.string()}
_ROW, _FIRST = "__row", "__first"  # columns of no MEDS data set


@dataclass(slots=True)
class Repaired:
    """What was mended on the way from `path` to `out`."""

    path: Path
    out: Path
    mended: Counter[str] = field(default_factory=Counter)
    """What -> in how many rows, or files where it is of a column."""

    def lines(self) -> list[str]:
        """For a terminal."""
        if not self.mended:
            return ["nothing to mend; nothing was written"]
        return [
            *(f"mended: {what} ({n:,})" for what, n in sorted(self.mended.items())),
            f"wrote {self.out}",
        ]


def repair(
    path: PathLike, out: PathLike, *, seed: int = 0, splits: Mapping[str, str] | None = None
) -> Repaired:
    """Write a copy of a MEDS data set that `check` passes and the schemas of MEDS accept.

    Events without a code or a subject are left out; every other event stays, with all its columns. Of
    `metadata`, everything is copied; nothing else beside `data` is.

    Args:
        path: The data set; it is not changed.
        out: Where the copy goes; nothing is written if there is nothing to mend.
        seed: Of the split by hash, where the data set names no splits; that of `tokenize`.
        splits: Name of a split in the data set -> the one of MEDS that it is.

    Raises:
        UserError: If something is wrong that needs a guess, or `out` exists.
    """
    path, out = Path(path), Path(out)
    files = data_files(path)
    refuse_inputs(out, [path])
    for name, split in (splits or {}).items():
        if split not in SPLITS:
            raise UserError(f"split {name}={split}: MEDS has {', '.join(SPLITS)}")
    done = Repaired(path, out)
    with new_dataset(out, overwrite=False) as directory:
        _write_data(directory, files, done)
        _write_metadata(directory, done, seed, splits or {})
        _refuse_what_is_left(directory, done)
    if not done.mended:
        shutil.rmtree(out)
    return done


def _refuse_what_is_left(directory: Path, done: Repaired) -> None:
    left = [f for f in check(directory).findings if f.refused]
    if left:
        problem = str(left[0].problem).replace(str(directory), str(done.path))
        more = f"; and {len(left) - 1} more, see ehr-tokenize check" if left[1:] else ""
        raise UserError(f"cannot be mended without a guess: {problem}{more}")


def _write_data(directory: Path, files: list[Path], done: Repaired) -> None:
    owner, wanted = _owners(files)
    for i, file in enumerate(tqdm(files, "mending", disable=None)):
        own = [_owned(_read(file, done.mended), owner, i)]
        for other in sorted(wanted.get(i, ())):
            own.append(_owned(_read(files[other], Counter()), owner, i))
            done.mended["rows were moved to the file of their subject"] += len(own[-1])
        ordered = _ordered(pl.concat(own, how="diagonal_relaxed"), done.mended)
        if len(ordered):
            _write(directory / file.relative_to(done.path), ordered)


def _owned(frame: pl.DataFrame, owner: Mapping[int, int], file: int) -> pl.DataFrame:
    """The rows whose subjects belong to a file."""
    subjects = frame["subject_id"].unique()
    mine = subjects.filter(pl.Series([owner[s] == file for s in subjects], dtype=pl.Boolean))
    return frame.filter(pl.col("subject_id").is_in(mine.implode()))


def _owners(files: list[Path]) -> tuple[dict[int, int], dict[int, set[int]]]:
    """Subject -> first file that has it; file -> later files with rows of its subjects."""
    owner: dict[int, int] = {}
    wanted: dict[int, set[int]] = {}
    for i, file in enumerate(files):
        for subject in _read(file, Counter())["subject_id"].unique(maintain_order=True):
            first = owner.setdefault(subject, i)
            if first != i:
                wanted.setdefault(first, set()).add(i)
    return owner, wanted


def _read(file: Path, mended: Counter[str]) -> pl.DataFrame:
    with _readable(file):
        types = pq.read_schema(file)
        if is_untyped(pq.read_metadata(file)):
            mended["files without rows and types were left out"] += 1
            return pl.DataFrame(pl.from_arrow(_EVENT_SCHEMA.empty_table()))
        frame = pl.read_parquet(file, glob=False, hive_partitioning=False)
    made = mended_events(frame, file, mended)
    _note_types(types, _EVENTS, "", mended)
    return made


def _note_types(
    found: pa.Schema, wanted: Mapping[str, pa.DataType], of: str, mended: Counter[str]
) -> None:
    """Count the columns that are stored otherwise than MEDS has them."""
    for name, kind in wanted.items():
        if name in found.names and found.field(name).type != kind:
            mended[f"column {name}{of} was {found.field(name).type}, is {kind}"] += 1


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except (pl.exceptions.PolarsError, pa.ArrowException, OSError) as e:
        line = " ".join(str(e).split())[:200]
        raise UserError(f"{file}: not a readable Parquet file ({line})") from None


def _ordered(frame: pl.DataFrame, mended: Counter[str]) -> pl.DataFrame:
    """The rows of a subject together and by time, static ones first; else as they were."""
    first = pl.col(_ROW).min().over("subject_id").alias(_FIRST)
    by = [_FIRST, "time", _ROW]
    ordered = frame.with_row_index(_ROW).with_columns(first).sort(by, nulls_last=False)
    moved = int((ordered[_ROW].to_numpy() != np.arange(len(ordered))).sum())
    if moved:
        mended["rows were put in order"] += moved
    return ordered.drop(_ROW, _FIRST)


def _write(path: Path, frame: pl.DataFrame) -> None:
    table = _typed(frame, _EVENTS)
    DataSchema.validate(table)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd")


def _typed(frame: pl.DataFrame, types: Mapping[str, pa.DataType]) -> pa.Table:
    table = frame.to_arrow()
    fields = [pa.field(f.name, types.get(f.name, f.type)) for f in table.schema]
    return table.cast(pa.schema(fields))


def _write_metadata(directory: Path, done: Repaired, seed: int, named: Mapping[str, str]) -> None:
    metadata, new = done.path / "metadata", directory / "metadata"
    if metadata.is_dir():
        shutil.copytree(metadata, new)
    new.mkdir(exist_ok=True)
    files = files_below(directory / "data", ".parquet")
    if not files:
        raise UserError(f"{done.path}: no event has both a subject and a code")
    codes = _codes(metadata / _CODES, files, done.mended)
    CodeMetadataSchema.validate(codes)
    pq.write_table(codes, new / _CODES)
    splits = _splits(metadata / _SPLITS, files, done.mended, seed, named)
    SubjectSplitSchema.validate(splits)
    pq.write_table(splits, new / _SPLITS)


def _distinct(files: list[Path], column: str) -> pl.Series:
    found = [pl.read_parquet(f, columns=[column], glob=False)[column].unique() for f in files]
    return pl.concat(found).unique().sort()


def _codes(path: Path, files: list[Path], mended: Counter[str]) -> pa.Table:
    known = pl.DataFrame(schema={"code": pl.String})
    if path.is_file():
        with _readable(path):
            known = pl.read_parquet(path, glob=False)
            _note_types(pq.read_schema(path), _CODE_TYPES, " of codes.parquet", mended)
    known = mended_codes(known, path, mended)
    codes = _distinct(files, "code")
    absent = codes.filter(~codes.is_in(known["code"].implode()))
    if len(absent):
        mended["codes of the data were added to codes.parquet, without description"] += len(absent)
    return _typed(pl.concat([known, absent.to_frame()], how="diagonal"), _CODE_TYPES)


def _splits(
    path: Path, files: list[Path], mended: Counter[str], seed: int, other: Mapping[str, str]
) -> pa.Table:
    if path.is_file():
        with _readable(path):
            named = mended_splits(pl.read_parquet(path, glob=False), path, mended)
            _note_types(pq.read_schema(path), _SPLIT_TYPES, " of subject_splits.parquet", mended)
            for name, split in other.items():
                found = named["split"] == name
                mended[f"subjects of split {name} are of split {split}"] += int(found.sum())
            named = named.with_columns(pl.col("split").replace(dict(other)))
    else:
        subjects = _distinct(files, "subject_id").to_numpy()
        index = splits_by_hash(subjects, seed)
        named = pl.DataFrame({"subject_id": subjects, "split": [SPLITS[i] for i in index]})
        mended["subjects got a split by hash, 80/10/10, as tokenize makes it"] += len(named)
    return _typed(named, _SPLIT_TYPES)
