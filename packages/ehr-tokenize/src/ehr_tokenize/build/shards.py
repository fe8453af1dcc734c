"""The subjects of a split to token shards, several threads at once.

One thread writes a shard, row group after row group; others make its next row groups in the meantime,
since compressing and tokenising cost about the same and most data sets have few shards.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from ehr_tokenize.build.resume import Finished, WrittenShard
from ehr_tokenize.config import ShardConfig
from ehr_tokenize.meds.events import ranges
from ehr_tokenize.meds.table import EventTable
from ehr_tokenize.scheme.binding import Binding
from ehr_tokenize.scheme.weave import COUNTED, Sequences, sequences
from ehr_tokenize.tokenizer.tokenizer import Tokenizer

GROUP_SUBJECTS = 512
GROUP_EVENTS = 1 << 17
"""A row group closes at whichever comes first: what a reader fetches for one subject, and what the
writer holds in memory. So many events are a megabyte a column: what a processor's cache holds."""
_AHEAD = 2
"""Row groups of a shard that are made while one is written."""
S = TypeVar("S")
T = TypeVar("T")


def shard_name(split: str, number: int) -> str:
    """Path of a shard; names sort in the order of subjects."""
    return f"{split}/{number:05d}.parquet"


def to_table(s: Sequences, vocab_size: int) -> pa.Table:
    """One row a subject, in the columns of `tokens/1`.

    Args:
        s: N subjects.
        vocab_size: Decides the smallest sufficient type of a token.
    """
    smallest = np.uint16 if vocab_size <= np.iinfo(np.uint16).max + 1 else np.uint32
    time = pa.array(s.time.view("datetime64[us]"))  # STATIC is its "not a time": null
    columns = {
        "subject_id": pa.array(s.subject_id),
        "token": _lists(s.offsets, pa.array(s.token.astype(smallest))),
        "time": _lists(s.offsets, time),
        "age": _lists(s.offsets, pa.array(s.age)),
        "visit": _lists(s.offsets, pa.array(s.visit)),
    }
    if s.segment is not None:
        columns["segment"] = _lists(s.offsets, pa.array(s.segment))
    return pa.table(columns)


def write_shard(path: Path, groups: Iterable[pa.Table]) -> int:
    """Write tables as the row groups of one Parquet file.

    zstd over plain pages is a fifth of the raw size here and costs less time than writing it.

    Returns:
        Rows written.
    """
    path.parent.mkdir(exist_ok=True)
    writer, rows = None, 0
    try:
        for table in groups:
            writer = writer or pq.ParquetWriter(
                path, table.schema, compression="zstd", compression_level=1, use_dictionary=False
            )
            writer.write_table(table, row_group_size=len(table))
            rows += len(table)
    finally:
        if writer:
            writer.close()
    return rows


@dataclass(frozen=True, slots=True)
class Shards:
    """Where shards go, and what they are made with."""

    directory: Path
    table: EventTable
    tokenizer: Tokenizer
    binding: Binding
    finished: Finished
    workers: int

    def write(
        self, split: str, subjects: npt.NDArray[np.int64], limit: ShardConfig
    ) -> Mapping[str, WrittenShard]:
        """Cut subjects into shards and write those that are not finished.

        Args:
            split: Its name.
            subjects: Rows of the table.
            limit: Of a shard.

        Returns:
            Path below the directory -> what was written there, in the order of subjects.
        """
        cuts = ranges(self.table.length[subjects], limit.subjects, limit.events)
        parts = {shard_name(split, i): subjects[a:b] for i, (a, b) in enumerate(cuts)}
        with (
            ThreadPoolExecutor(self.workers) as makers,
            ThreadPoolExecutor(self.workers) as writers,
        ):

            def shard(name: str) -> WrittenShard:
                return self.finished.shard(name) or self._write(name, parts[name], makers)

            made = writers.map(shard, parts)
            return dict(
                zip(parts, tqdm(made, f"writing {split}", len(parts), disable=None), strict=True)
            )

    def _write(
        self, name: str, subjects: npt.NDArray[np.int64], makers: ThreadPoolExecutor
    ) -> WrittenShard:
        counted = _Counted(np.zeros((len(self.binding.families), COUNTED), np.int64))

        def groups() -> Iterator[pa.Table]:
            for made, table in self._groups(subjects, makers):
                counted.add(made)
                yield table

        rows = write_shard(self.directory / name, groups())
        shard = WrittenShard(rows, counted.tokens, counted.families)
        self.finished.note(name, shard)
        return shard

    def _groups(
        self, subjects: npt.NDArray[np.int64], makers: ThreadPoolExecutor
    ) -> Iterable[tuple[Sequences, pa.Table]]:
        def group(cut: tuple[int, int]) -> tuple[Sequences, pa.Table]:
            events = self.table.gather(subjects[slice(*cut)])
            made = sequences(events, self.tokenizer.config, self.binding)
            return made, to_table(made, len(self.tokenizer))

        cuts = ranges(self.table.length[subjects], GROUP_SUBJECTS, GROUP_EVENTS)
        return map(group, cuts) if self.workers == 1 else _ahead(makers, group, cuts)


@dataclass(slots=True)
class _Counted:
    """What went into one shard."""

    families: npt.NDArray[np.int64]
    tokens: int = field(default=0)

    def add(self, made: Sequences) -> None:
        self.tokens += len(made.token)
        self.families += made.families.sum(axis=0)


def _ahead(pool: ThreadPoolExecutor, work: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """What `work` gives for each item, in order, a few of them made in advance.

    Examples:
        >>> with ThreadPoolExecutor(2) as pool:
        ...     list(_ahead(pool, str, range(5)))
        ['0', '1', '2', '3', '4']
    """
    waiting: deque[Future[T]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > _AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _lists(offsets: npt.NDArray[np.int64], values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values)
