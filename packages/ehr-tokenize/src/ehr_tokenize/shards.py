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
from tqdm import tqdm

from ehr_tokenize.binding import Binding
from ehr_tokenize.config import ShardConfig
from ehr_tokenize.events import ranges
from ehr_tokenize.resume import Finished, Shard
from ehr_tokenize.sequences import Sequences, sequences
from ehr_tokenize.table import EventTable
from ehr_tokenize.tokenizer import Tokenizer
from ehr_tokenize.writer import GROUP_EVENTS, GROUP_SUBJECTS, to_table, write_shard

_AHEAD = 2
"""Row groups of a shard that are made while one is written."""
S = TypeVar("S")
T = TypeVar("T")


def shard_name(split: str, number: int) -> str:
    """Path of a shard; names sort in the order of subjects."""
    return f"{split}/{number:05d}.parquet"


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
    ) -> Mapping[str, Shard]:
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

            def shard(name: str) -> Shard:
                return self.finished.shard(name) or self._write(name, parts[name], makers)

            made = writers.map(shard, parts)
            return dict(
                zip(parts, tqdm(made, f"writing {split}", len(parts), disable=None), strict=True)
            )

    def _write(
        self, name: str, subjects: npt.NDArray[np.int64], makers: ThreadPoolExecutor
    ) -> Shard:
        counted = _Counted(np.zeros((len(self.binding.families), 3), np.int64))

        def groups() -> Iterator[pa.Table]:
            for made, table in self._groups(subjects, makers):
                counted.add(made)
                yield table

        rows = write_shard(self.directory / name, groups())
        shard = Shard(rows, counted.tokens, counted.families)
        self.finished.note(name, shard)
        return shard

    def _groups(
        self, subjects: npt.NDArray[np.int64], makers: ThreadPoolExecutor
    ) -> Iterable[tuple[Sequences, pa.Table]]:
        def group(cut: tuple[int, int]) -> tuple[Sequences, pa.Table]:
            events = self.table.gather(subjects[slice(*cut)])
            made = sequences(events, self.tokenizer, self.binding)
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
