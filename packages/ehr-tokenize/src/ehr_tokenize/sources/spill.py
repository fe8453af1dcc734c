"""Events on disk by bucket of subjects, so that sorting needs the memory of one bucket only."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

BUCKETS = 256
_FLUSH = 1 << 19
Schema = Mapping[str, pl.DataType | type[pl.DataType]]


class Spill:
    """Takes events in any order and gives them back by bucket.

    Every half million events become one Arrow file with one record batch for each bucket that has any.

    Args:
        directory: For its files; made when needed.
        schema: Columns of the events; `subject_id` is Int64.
    """

    def __init__(self, directory: Path, schema: Schema) -> None:
        self._directory = directory
        self._schema = schema
        self._pending: list[pl.DataFrame] = []
        self._waiting = 0
        self._files: list[tuple[Path, npt.NDArray[np.int64], npt.NDArray[np.int64]]] = []
        """Path; of each bucket its record batch and its rows."""
        self.sizes = np.zeros(BUCKETS, np.int64)
        """Events of each bucket; complete after `flush`."""

    def add(self, frame: pl.DataFrame) -> None:
        """Take events; a column of the schema that is missing is null."""
        missing = [n for n in self._schema if n not in frame.columns]
        frame = frame.with_columns(pl.lit(None).alias(n) for n in missing)
        self._pending.append(frame.select(pl.col(n).cast(t) for n, t in self._schema.items()))
        self._waiting += len(frame)
        if self._waiting >= _FLUSH:
            self.flush()

    def flush(self) -> None:
        """Write what is still in memory."""
        if not self._waiting:
            return
        frame = pl.concat(self._pending)
        self._pending, self._waiting = [], 0
        bucket = _bucket(frame["subject_id"].to_numpy())
        table = arrow(frame[np.argsort(bucket, kind="stable")])
        sizes = np.bincount(bucket, minlength=BUCKETS)
        self.sizes += sizes
        self._directory.mkdir(exist_ok=True)
        path = self._directory / f"{len(self._files)}.arrow"
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.ipc.new_file(path, table.schema, options=options) as sink:
            for start, size in zip(np.cumsum(sizes) - sizes, sizes, strict=True):
                if size:
                    sink.write_batch(table.slice(start, size).combine_chunks().to_batches()[0])
        self._files.append((path, np.cumsum(sizes > 0) - 1, sizes))

    def read(self, buckets: Sequence[int]) -> pl.DataFrame:
        """All events of some buckets, in no particular order."""
        batches = []
        for path, number, sizes in self._files:
            with pa.OSFile(str(path)) as source:
                reader = pa.ipc.open_file(source)
                batches += [reader.get_batch(int(number[b])) for b in buckets if sizes[b]]
        return pl.DataFrame(pa.Table.from_batches(batches), schema=self._schema)

    def shards(self, events: int) -> list[list[int]]:
        """Consecutive buckets, in groups that are closed once they hold so many events."""
        groups: list[list[int]] = []
        held = events
        for bucket in np.flatnonzero(self.sizes).tolist():
            if held >= events:
                groups.append([])
                held = 0
            groups[-1].append(bucket)
            held += int(self.sizes[bucket])
        return groups


def arrow(frame: pl.DataFrame) -> pa.Table:
    """As Arrow, with the string type that everybody reads."""
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())


def _bucket(subject_id: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """[N] bucket of each subject: the top bits of a Fibonacci hash (Knuth, vol. 3, 6.4)."""
    mixed = subject_id.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return (mixed >> np.uint64(64 - 8)).astype(np.int64)
