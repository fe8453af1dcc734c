"""Token shards: list columns over flat arrays, without copying them."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ehr_tokenize.sequences import Sequences

GROUP_SUBJECTS = 512
GROUP_EVENTS = 1 << 17
"""A row group closes at whichever comes first: what a reader fetches for one subject, and what the
writer holds in memory. So many events are a megabyte a column: what a processor's cache holds."""


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


def _lists(offsets: npt.NDArray[np.int64], values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values)
