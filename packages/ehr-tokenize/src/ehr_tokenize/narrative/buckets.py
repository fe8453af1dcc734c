"""The events of labelled subjects, some subjects at a time, in the order of their ids.

Files of a data set may hold subjects in any order, and a file or a subject's text values may be
large. So rows are first dealt out to one scratch folder a range of subjects, each batch as it is
read; then each range is small enough to be held whole, and what is made of it depends neither on
the number of files nor on their order.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from ehr_tokenize.meds.dataset import Dataset, from_table, open_events, runs
from ehr_tokenize.meds.faults import row_problems
from ehr_tokenize.narrative.terms import BIRTH
from ehr_tracking.arrow.delays import Delays
from ehr_tracking.arrow.meds import mends, spread
from ehr_tracking.arrow.parquet import NOTE, line
from ehr_tracking.errors import UserError

_BATCH_ROWS = 1 << 18
_BUCKET_ROWS = 1 << 20
SCHEMA = pl.Schema(
    {
        "subject_id": pl.Int64(),
        "time": pl.Datetime("us"),
        "code": pl.String(),
        "numeric_value": pl.Float32(),
        "text_value": pl.String(),
        "unit": pl.String(),
    }
)


class Buckets:
    """N labelled subjects, cut into ranges of ids."""

    def __init__(self, dataset: Dataset, last: pl.DataFrame, scratch: Path, delays: Delays) -> None:
        """Deal the rows out.

        Args:
            dataset: Opened.
            last: subject_id and `last`, the last time that any of the subject's prediction times can
                see; sorted by subject, one row each.
            scratch: Empty directory.
            delays: When events become known; `time` is that from here on.

        Raises:
            UserError: If rows break MEDS, a subject is in two places, or a labelled one in none.
        """
        self.subject_id: npt.NDArray[np.int64] = last["subject_id"].to_numpy()
        rows = sum(pq.read_metadata(path).num_rows for path in dataset.files)
        n = min(max(1, -(-rows // _BUCKET_ROWS)), max(1, len(self.subject_id)))
        self._bounds = np.linspace(0, len(self.subject_id), n + 1).astype(np.int64)
        self._scratch, self._last, self._parts = scratch, last, 0
        self._delays = delays
        where: dict[int, Path] = {}
        for path in tqdm(dataset.files, "reading", disable=None):
            self._deal(path, where)
        self.everyone = np.fromiter(where, np.int64, len(where))
        absent = np.setdiff1d(self.subject_id, self.everyone)
        if len(absent):
            raise UserError(
                f"the labels name {len(absent):,} subjects that {dataset.root} does not have, the "
                f"first {absent[0]}; were they made from other data?"
            )

    def __len__(self) -> int:
        """Number of ranges."""
        return len(self._bounds) - 1

    def __iter__(self) -> Iterator[pl.DataFrame]:
        """The events of one range after the other, by subject and time, else in file order."""
        for i in range(len(self)):
            parts = [pl.read_ipc(p, memory_map=False) for p in sorted(self._folder(i).glob("*"))]
            events = pl.concat(parts) if parts else pl.DataFrame(schema=SCHEMA)
            yield events.sort("subject_id", "time", nulls_last=False, maintain_order=True)

    def _folder(self, bucket: int) -> Path:
        return self._scratch / f"{bucket:06d}"

    def _deal(self, path: Path, where: dict[int, Path]) -> None:
        before: tuple[int, int] | None = None
        for row, table in _tables(path):
            batch = replace(from_table(table, path), row=row)
            for problem in row_problems(batch, before):
                raise UserError(f"{problem}{mends(problem.what)}")
            at = runs(batch)
            if before is not None and before[0] == batch.subject_id[0]:
                at = at[1:]
            for subject, start in zip(batch.subject_id[at].tolist(), at.tolist(), strict=True):
                if subject in where:
                    raise UserError(spread(subject, where[subject], path, row + start))
                where[subject] = path
            before = int(batch.subject_id[-1]), int(batch.time[-1])
            self._write(table)

    def _write(self, table: pa.Table) -> None:
        """Keep what a prediction time of the subject can see, each row in the folder of its range."""
        seen = (
            _frame(self._delays.shift(table))
            .join(self._last, on="subject_id", how="inner", maintain_order="left")
            .filter(pl.col("time").is_null() | (pl.col("time") <= pl.col("last")))
            .drop("last")
        )
        at = np.searchsorted(self.subject_id, seen["subject_id"].to_numpy())
        bucket = np.searchsorted(self._bounds, at, side="right") - 1
        for i in np.unique(bucket).tolist():
            folder = self._folder(i)
            folder.mkdir(exist_ok=True)
            seen.filter(pl.Series(bucket == i)).write_ipc(folder / f"{self._parts:08d}.arrow")
        self._parts += 1


def extents(dataset: Dataset) -> pl.DataFrame:
    """Who there is and for how long.

    Args:
        dataset: Opened.

    Returns:
        [N] `subject_id`, ascending; `birth`, the first that has a time, and `end`, the last time of any
        event, in microseconds since 1970 or null.

    Raises:
        UserError: If a file is damaged.
    """
    empty = {"subject_id": pl.Int64, "birth": pl.Int64, "end": pl.Int64}
    parts = [pl.DataFrame(schema=empty)]
    for path in tqdm(dataset.files, "who", disable=None):
        for _, table in _tables(path):
            rows = _frame(table).with_columns(pl.col("time").cast(pl.Int64))
            birth = pl.col("time").filter(pl.col("code").str.contains(BIRTH)).min()
            parts.append(rows.group_by("subject_id").agg(birth=birth, end=pl.col("time").max()))
        parts = [_joined(parts)]  # a row a subject, however many batches
    return _joined(parts).drop_nulls("subject_id").sort("subject_id")


def _joined(parts: list[pl.DataFrame]) -> pl.DataFrame:
    first, last = pl.col("birth").min(), pl.col("end").max()
    return pl.concat(parts).group_by("subject_id").agg(first, last)


def _tables(path: Path) -> Iterator[tuple[int, pa.Table]]:
    """Row in the file, counted from 0, and the rows from there."""
    row = 0
    try:
        with open_events(path) as file:
            found = {f.name: f.type for f in file.schema_arrow}
            if not NOTE.fits(found.get("text_value", pa.string())):
                raise UserError(
                    f"{path}: column text_value is {found['text_value']}, MEDS has string"
                )
            if not NOTE.fits(found.get("unit", pa.string())):
                del found["unit"]  # not a column of MEDS: it may be anything
            for record in file.iter_batches(_BATCH_ROWS, columns=[n for n in SCHEMA if n in found]):
                if len(record):
                    yield row, pa.Table.from_batches([record])
                row += len(record)
    except (pa.ArrowException, OSError) as e:
        raise UserError(f"{path}: damaged after row {row}: {line(e)}") from None


def _frame(table: pa.Table) -> pl.DataFrame:
    """All columns of `SCHEMA`; those that the file does not have are null."""
    frame = pl.DataFrame(pl.from_arrow(table))
    return frame.select(
        (pl.col(name) if name in frame.columns else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in SCHEMA.items()
    )
