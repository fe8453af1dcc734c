"""The shards of some splits of `tokens/1` as pieces of flat arrays, checked, a few MB at a time.

n subjects and t tokens in a piece.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ehr_models.data.tokens import STATIC, TokenSet, leading, shards_of
from ehr_tracking.contracts import TOKENS, ContractError
from ehr_tracking.manifest import check_file

_TOKENS = 2**18
"""Tokens decoded at once, about."""

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Some subjects, in order."""

    lengths: npt.NDArray[np.int64]
    """[n] tokens of each."""
    arrays: Arrays
    """`subject_id` and `prefix` [n]; `token`, `time`, `age`, `visit` and `segment` [t]."""


def token_type(tokens: TokenSet, *splits: str) -> np.dtype[np.unsignedinteger]:
    """The type of token ids that holds those of every shard.

    Raises:
        ContractError: If there is no such split, or a shard breaks the contract.
    """
    types = set()
    for shard in shards_of(tokens, *splits):
        path = tokens.directory / shard
        try:
            schema = pq.read_schema(path)
        except (pa.ArrowInvalid, OSError):
            check_file(tokens.directory, tokens.manifest, shard)  # says what was changed
            raise ContractError(
                f"{path} cannot be read as Parquet; write the tokens again"
            ) from None
        TOKENS.check({f.name: str(f.type) for f in schema}, where=str(path))
        types.add(schema.field("token").type.value_type)
    return np.dtype(np.uint32 if pa.uint32() in types else np.uint16)


def pieces(tokens: TokenSet, *splits: str) -> Iterator[Piece]:
    """Read some splits one after the other, row group by row group; memory stays flat in the size of all of these.

    Raises:
        ContractError: If a shard was changed or breaks the contract.
    """
    for shard in shards_of(tokens, *splits):
        path = check_file(tokens.directory, tokens.manifest, shard)
        with pq.ParquetFile(path, buffer_size=2**20, pre_buffer=False) as file:
            names = [n for n in _COLUMNS if n in file.schema_arrow.names]
            for group in range(file.num_row_groups):
                rows = _rows_at_once(file.metadata.row_group(group))
                for batch in file.iter_batches(rows, row_groups=[group], columns=names):
                    yield _piece(batch, path, tokens.vocab_size)


_COLUMNS = ("subject_id", "token", "time", "age", "visit", "segment")


def _rows_at_once(group: pq.RowGroupMetaData) -> int:
    columns = [group.column(i) for i in range(group.num_columns)]
    longest = max(int(column.num_values) for column in columns)
    return max(1, _TOKENS * int(group.num_rows) // max(longest, 1))


def _piece(batch: pa.RecordBatch, path: Path, vocab_size: int) -> Piece:
    subject_id = batch.column("subject_id").to_numpy()
    lengths = np.zeros(0, np.int64)
    arrays: Arrays = {"subject_id": subject_id}
    for name in batch.schema.names[1:]:
        column = batch.column(name)
        if column.null_count:
            row = column.is_null().to_pylist().index(True)
            raise ContractError(f"{path}, subject {subject_id[row]}: column {name} is null")
        found = list_lengths(column)
        lengths = found if name == "token" else lengths
        if not np.array_equal(found, lengths):
            row = int(np.argmax(found != lengths))
            raise ContractError(
                f"{path}, subject {subject_id[row]}: column {name} is not as long as token"
            )
        values = column.flatten()
        if name == "time":
            values = values.cast(pa.int64()).fill_null(int(STATIC))
        elif values.null_count:
            raise ContractError(f"{path}: column {name} holds a null; only times may be null")
        arrays[name] = values.to_numpy()
    token = arrays["token"]
    arrays.setdefault("segment", np.zeros(len(token), np.uint8))
    if len(token) and int(token.max()) >= vocab_size:
        raise ContractError(
            f"{path}: token id {int(token.max())}, but the vocabulary has {vocab_size} rows"
        )
    offsets, time = running(lengths), arrays["time"].astype(np.int64, copy=False)
    back = np.flatnonzero(time[1:] < time[:-1]) + 1
    back = back[~np.isin(back, offsets)]
    if len(back):
        row = int(np.searchsorted(offsets, back[0], side="right")) - 1
        raise ContractError(f"{path}: the times of subject {subject_id[row]} go back")
    arrays["prefix"] = leading(offsets, token, time)
    return Piece(lengths, arrays)


def list_lengths(column: pa.ListArray) -> npt.NDArray[np.int64]:
    """The lengths [n] of the lists of one piece; only here are there offsets of 32 bits."""
    offsets: npt.NDArray[np.int64] = column.offsets.to_numpy().astype(np.int64)
    return np.diff(offsets)


def running(lengths: npt.NDArray[np.int64], start: int = 0) -> npt.NDArray[np.int64]:
    """Offsets [n + 1] of what lies end to end behind `start` tokens.

    Examples:
        >>> running(np.array([2, 3]), start=2**31).tolist()
        [2147483648, 2147483650, 2147483653]
    """
    return start + np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
