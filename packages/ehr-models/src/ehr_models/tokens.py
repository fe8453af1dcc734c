"""Open `tokens/1` and hold one split as flat arrays with offsets: no list, no padding.

N subjects, T tokens.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ehr_models import __version__
from ehr_tracking.contracts import TOKENS, ContractError
from ehr_tracking.manifest import Manifest, check_file, read_manifest

STATIC = np.iinfo(np.int64).min
"""The `time` of a token that is always known: sorts before every real time."""

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[BOS]", "[EOS]")
"""Rows 0..6 of every `vocab.parquet`."""
PAD, UNK, CLS, SEP, MASK, BOS, EOS = range(len(SPECIALS))


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """Subjects of one split. Arrays may be memory-mapped; treat them as read-only."""

    subject_id: npt.NDArray[np.int64]
    """[N]"""
    offsets: npt.NDArray[np.int64]
    """[N + 1]; tokens of subject i are offsets[i]:offsets[i + 1]."""
    token: npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
    """[T] rows of `vocab.parquet`."""
    time: npt.NDArray[np.int64]
    """[T] microseconds since 1970, never decreasing within a subject; `STATIC` where always known."""
    age: npt.NDArray[np.float32]
    """[T] days since birth."""
    visit: npt.NDArray[np.uint16]
    """[T] ordinal from 1, 0 outside any visit."""
    segment: npt.NDArray[np.uint8]
    """[T] 0/1; zeros where the scheme has none."""

    def __len__(self) -> int:
        """Number of subjects."""
        return len(self.subject_id)


@dataclass(frozen=True, slots=True)
class TokenSet:
    """A sealed token data set."""

    directory: Path
    manifest: Manifest
    splits: tuple[str, ...]
    vocab_size: int
    """Rows of `vocab.parquet`."""
    vocab_sha256: str
    """Of `vocab.parquet`: equal where two artifacts mean the same by a token id."""


def open_tokens(directory: Path) -> TokenSet:
    """Check the contract of a token data set and say what it holds.

    Raises:
        ContractError: If it is unfinished, changed, or of another contract or version.
    """
    manifest = read_manifest(directory, TOKENS, reader=f"ehr-models {__version__}")
    vocab = pq.read_metadata(check_file(directory, manifest, "vocab.parquet"))
    splits = {p.split("/")[0] for p in manifest.files if "/" in p and p.endswith(".parquet")}
    return TokenSet(
        directory=directory,
        manifest=manifest,
        splits=tuple(sorted(splits)),
        vocab_size=vocab.num_rows,
        vocab_sha256=manifest.files["vocab.parquet"].sha256,
    )


def read_split(tokens: TokenSet, split: str) -> Tokens:
    """Read all shards of a split.

    Raises:
        ContractError: If the split is missing, or a shard was changed or breaks the contract.
    """
    shards = sorted(p for p in tokens.manifest.files if p.startswith(f"{split}/"))
    if not shards:
        raise ContractError(
            f"{tokens.directory} has no split {split}; it has {', '.join(tokens.splits)}"
        )
    tables = []
    for shard in shards:
        table = pq.read_table(check_file(tokens.directory, tokens.manifest, shard))
        TOKENS.check(
            {f.name: str(f.type) for f in table.schema}, where=str(tokens.directory / shard)
        )
        tables.append(table)
    return _flatten(pa.concat_tables(tables))


def _flatten(table: pa.Table) -> Tokens:
    token, offsets = _values(table, "token")
    time = _values(table, "time")[0].cast(pa.int64()).fill_null(int(STATIC))
    segment = (
        _values(table, "segment")[0].to_numpy()
        if "segment" in table.column_names
        else np.zeros(len(token), np.uint8)
    )
    return Tokens(
        subject_id=table["subject_id"].to_numpy(),
        offsets=offsets,
        token=token.to_numpy(),
        time=time.to_numpy(),
        age=_values(table, "age")[0].to_numpy(),
        visit=_values(table, "visit")[0].to_numpy(),
        segment=segment,
    )


def _values(table: pa.Table, name: str) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """The flat values of a list column and their offsets [N + 1]."""
    column = table[name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks else pa.array([], column.type)
    column = column.cast(pa.large_list(column.type.value_type))
    start = column.offsets.to_numpy()
    return column.flatten(), start - start[0]
