"""One split as memory-mapped arrays that all processes share.

Parquet is the contract, but a trainer wants any subject at once: the first process writes each
split as one safetensors file of flat arrays, all of them map it.
"""

import json
import mmap
from dataclasses import fields
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from ehr_models.tokens import Tokens, TokenSet, read_split
from ehr_tracking.manifest import MANIFEST, sha256

_DTYPES = {"U8": "<u1", "U16": "<u2", "U32": "<u4", "I64": "<i8", "F32": "<f4"}


def cache_path(directory: Path, tokens: TokenSet, split: str) -> Path:
    """Where the arrays of a split lie; the name carries the fingerprint of the token set."""
    return directory / f"{split}-{sha256(tokens.directory / MANIFEST)[:16]}.safetensors"


def build_cache(directory: Path, tokens: TokenSet, split: str) -> Path:
    """Write the arrays of a split unless they are there; whole or not at all.

    Raises:
        ContractError: If the split is missing, changed, or breaks its contract.
    """
    path = cache_path(directory, tokens, split)
    if not path.is_file():
        arrays = read_split(tokens, split)
        directory.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        save_file(
            {f.name: np.ascontiguousarray(getattr(arrays, f.name)) for f in fields(Tokens)}, partial
        )
        partial.replace(path)
    return path


def open_cache(path: Path) -> Tokens:
    """Map the arrays of a split; nothing is read before it is used."""
    with path.open("rb") as f:
        size = int.from_bytes(f.read(8), "little")
        header = json.loads(f.read(size))
        data = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    arrays = {}
    for field in fields(Tokens):
        entry = header[field.name]
        arrays[field.name] = np.frombuffer(
            data,
            dtype=_DTYPES[entry["dtype"]],
            count=int(np.prod(entry["shape"])),
            offset=8 + size + entry["data_offsets"][0],
        )
    return Tokens(**arrays)
