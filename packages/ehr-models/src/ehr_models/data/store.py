"""A split, or several as one, as memory-mapped arrays that every process and every command shares.

Parquet is the contract, but training, features and generation want any subject at once. The first
that asks writes each column as one safetensors file, a few MB at a time; all map them. A store is
keyed by the fingerprint of its tokens and survives the run that made it.
"""

import fcntl
import hashlib
import json
import mmap
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ehr_models.data.tokens import Tokens, TokenSet, shards_of
from ehr_tracking.contracts import ContractError

ENVIRONMENT = "EHR_STORE"
"""The environment variable that says where stores shall lie instead of beside their tokens."""
_HEAD = 256
"""Bytes of a file before its values."""
_CODES = {"|u1": "U8", "<u2": "U16", "<u4": "U32", "<i8": "I64", "<f4": "F32"}
_TYPES = {code: np.dtype(name) for name, code in _CODES.items()}
_COLUMNS: dict[str, npt.DTypeLike] = {
    "subject_id": np.int64,
    "offsets": np.int64,
    "prefix": np.uint32,
    "time": np.int64,
    "age": np.float32,
    "visit": np.uint16,
    "segment": np.uint8,
}


def open_split(tokens: TokenSet, *splits: str) -> Tokens:
    """Map a split into memory; the first time, write its store.

    Nothing is read before it is used. Several splits are one after the other, in a store of their own:
    it takes their room on the disk once more, and no more memory than one split.

    Args:
        tokens: From `open_tokens`.
        splits: One of its splits, or several.

    Raises:
        ContractError: If the split is missing, or a shard was changed or breaks the contract.
        OSError: If the disk is full.
    """
    shards_of(tokens, *splits)
    name = "+".join(splits)
    places = [root / tokens.fingerprint[:16] / name for root in _roots(tokens.directory)]
    place = next((p for p in places if p.is_dir()), None) or _build(places, tokens, *splits)
    return Tokens(**{f.name: read_column(place / f"{f.name}.safetensors") for f in fields(Tokens)})


def _roots(directory: Path) -> list[Path]:
    """Where the stores of a token set may lie, the best place first."""
    directory = directory.resolve()
    named = f"{directory.name}-{hashlib.sha256(os.fsencode(directory)).hexdigest()[:8]}.store"
    if chosen := os.environ.get(ENVIRONMENT):
        return [Path(chosen) / named]
    roots = [directory.with_name(f".{directory.name}.store")]
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 -- `Path.home` raises where a container's user has none
    if Path(cache).is_absolute():
        roots.append(Path(cache) / "ehr-models" / named)
    return roots


def _build(places: list[Path], tokens: TokenSet, *splits: str) -> Path:
    """Write the columns of some splits, whole or not at all; stores of older tokens go."""
    place = next((p for p in places if _is_writable(p.parent)), places[0])
    place.parent.mkdir(parents=True, exist_ok=True)
    with _lock(place.parents[1]) as alone:
        if place.is_dir():  # made while this process waited
            return place
        if alone:
            for left in place.parent.glob(".*.partial"):
                shutil.rmtree(left, ignore_errors=True)
        partial = Path(mkdtemp(prefix=f".{place.name}.", suffix=".partial", dir=place.parent))
        try:
            partial.chmod(0o755)
            _write(partial, tokens, *splits)
            try:
                partial.rename(place)
            except OSError:
                if not place.is_dir():  # else another was first, where there are no locks
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        for old in place.parents[1].iterdir():
            if old.is_dir() and old != place.parent:
                shutil.rmtree(old, ignore_errors=True)
    return place


def _is_writable(directory: Path) -> bool:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(directory, os.W_OK)


@contextmanager
def _lock(directory: Path) -> Iterator[bool]:
    """Hold the directory; whether the file system knows locks."""
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _write(directory: Path, tokens: TokenSet, *splits: str) -> None:
    from ehr_models.data.shards import pieces, running, token_type

    types = {**_COLUMNS, "token": token_type(tokens, *splits)}
    with ExitStack() as stack:
        columns = {
            name: stack.enter_context(ColumnWriter(directory / f"{name}.safetensors", dtype))
            for name, dtype in types.items()
        }
        columns["offsets"].write(np.zeros(1, np.int64))
        for piece in pieces(tokens, *splits):
            offsets = running(piece.lengths, start=columns["token"].count)
            columns["offsets"].write(offsets[1:])
            for name, values in piece.arrays.items():
                columns[name].write(values)


class ColumnWriter:
    """A safetensors file of one array [n], written in pieces; its header is filled in at the end."""

    def __init__(self, path: Path, dtype: npt.DTypeLike) -> None:
        """Begin a file.

        Args:
            path: Its stem names the array.
            dtype: Of the array; pieces of other types are converted.
        """
        self.path = path
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.count = 0
        self.file = path.open("wb")
        self.file.write(b" " * _HEAD)

    def write(self, values: npt.NDArray[Any]) -> None:
        """Append a piece."""
        self.file.write(np.ascontiguousarray(values, self.dtype).data)
        self.count += len(values)

    def __enter__(self) -> Self:
        """The writer itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Fill in the header, and see the file safe on its disk."""
        with self.file as f:
            if kind is None:
                size = self.count * self.dtype.itemsize
                entry = {"dtype": _CODES[self.dtype.str], "shape": [self.count]}
                header = json.dumps({self.path.stem: {**entry, "data_offsets": [0, size]}})
                f.seek(0)
                f.write((_HEAD - 8).to_bytes(8, "little") + header.encode().ljust(_HEAD - 8))
                f.flush()
                os.fsync(f.fileno())


def read_column(path: Path) -> npt.NDArray[Any]:
    """Map an array of `ColumnWriter`, read-only.

    Raises:
        ContractError: If the file is not as it was written.
    """
    try:
        with path.open("rb") as f:
            entry = json.loads(f.read(_HEAD)[8:])[path.stem]
            whole = os.fstat(f.fileno()).st_size == _HEAD + entry["data_offsets"][1]
            data = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    except (FileNotFoundError, ValueError, KeyError):
        whole = False
    if not whole:
        raise ContractError(f"{path} is damaged; remove {path.parent}, it is made again")
    (count,) = entry["shape"]
    return np.frombuffer(data, _TYPES[entry["dtype"]], count, _HEAD)
