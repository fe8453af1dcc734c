"""Open `tokens/1`, and what one split of it is in memory: flat arrays with offsets.

N subjects, T tokens.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ehr_models import __version__
from ehr_tracking.contracts import BOS_ID, CLS_ID, TEXT_TOKENS, TOKENS, ContractError
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import (
    MANIFEST,
    Manifest,
    check_file,
    load_manifest,
    read_manifest,
    sha256,
)

STATIC = np.iinfo(np.int64).min
"""The `time` of a token that is always known: sorts before every real time."""


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """Subjects of one split. Arrays may be memory-mapped; treat them as read-only."""

    subject_id: npt.NDArray[np.int64]
    """[N]"""
    offsets: npt.NDArray[np.int64]
    """[N + 1]; tokens of subject i are offsets[i]:offsets[i + 1]."""
    prefix: npt.NDArray[np.uint32]
    """[N] how many leading tokens are static, [CLS] or [BOS]: they stay in view in every window."""
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
    fingerprint: str
    """SHA-256 of the manifest, which holds those of all files."""
    splits: tuple[str, ...]
    vocab_size: int
    """Rows of `vocab.parquet`."""
    vocab_sha256: str
    """Of `vocab.parquet`: equal where two artifacts mean the same by a token id."""


def open_tokens(directory: PathLike, *, texts: bool = False) -> TokenSet:
    """Check the contract of a token data set and say what it holds.

    All that lies beside its shards (vocabulary, tokenizer, coverage) is compared with the manifest, whoever
    reads it: a directory that was changed is no input. Shards are, when they are opened.

    Args:
        directory: Where it lies.
        texts: Take `text_tokens/1` as well, whose ids are a language model's and whose rows are texts.

    Raises:
        ContractError: If it is unfinished, changed, or of another contract or version.
    """
    directory = Path(directory)
    import pyarrow.parquet as pq

    mine = texts and load_manifest(directory).contract == TEXT_TOKENS.tag
    contract = TEXT_TOKENS if mine else TOKENS
    manifest = read_manifest(directory, contract, reader=f"ehr-models {__version__}")
    shards = {p for p in manifest.files if "/" in p and p.endswith(".parquet")}
    for name in manifest.files.keys() - shards:
        check_file(directory, manifest, name)
    vocab = pq.read_metadata(check_file(directory, manifest, "vocab.parquet"))
    splits = {p.split("/")[0] for p in shards}
    return TokenSet(
        directory=directory,
        manifest=manifest,
        fingerprint=sha256(directory / MANIFEST),
        splits=tuple(sorted(splits)),
        vocab_size=vocab.num_rows,
        vocab_sha256=manifest.files["vocab.parquet"].sha256,
    )


def shards_of(tokens: TokenSet, *splits: str) -> list[str]:
    """The files of some splits, split by split in the order of their subjects.

    Raises:
        ContractError: If there is no such split.
    """
    shards: list[str] = []
    for split in splits:
        found = sorted(p for p in tokens.manifest.files if p.startswith(f"{split}/"))
        if not found:
            raise ContractError(
                f"{tokens.directory} has no split {split}; it has {', '.join(tokens.splits)}"
            )
        shards += found
    return shards


def leading(
    offsets: npt.NDArray[np.int64], token: npt.NDArray[np.integer], time: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint32]:
    """How many tokens at the head of each record are static, [CLS] or [BOS].

    Args:
        offsets: [N + 1] from 0.
        token: [T]
        time: [T], `STATIC` where always known.

    Returns:
        [N]

    Examples:
        >>> token = np.array([BOS_ID, 9, 8, 8, 9, BOS_ID, CLS_ID])
        >>> time = np.array([STATIC, STATIC, 3, 4, 1, STATIC, 0])
        >>> leading(np.array([0, 4, 5, 5, 7]), token, time).tolist()
        [2, 0, 0, 2]
    """
    later = np.flatnonzero((time != STATIC) & (token != CLS_ID) & (token != BOS_ID))
    first = np.append(later, len(token))[np.searchsorted(later, offsets[:-1])]
    prefix: npt.NDArray[np.int64] = np.minimum(first, offsets[1:]) - offsets[:-1]
    return prefix.astype(np.uint32)
