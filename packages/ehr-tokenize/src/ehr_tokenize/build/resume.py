"""What a run that was killed leaves to the next one: its tokenizer and its finished shards.

A run and the next belong together if config, inputs and version are the same; that is told by a
hash, which names the directory that both write in. Shards do not depend on each other, so each is
noted when it is finished, with its checksum: a machine that went down may have lost what it wrote.
"""

import hashlib
import json
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from ehr_tokenize.config import TokenizeConfig
from ehr_tokenize.scheme.weave import COUNTED
from ehr_tokenize.tokenizer.tokenizer import TOKENIZER, Tokenizer
from ehr_tokenize.tokenizer.vocabulary import VOCAB
from ehr_tracking.config import to_dict
from ehr_tracking.contracts import ContractError
from ehr_tracking.manifest import Source, sha256

_NOTES = ".finished"
_BLOCK = 1 << 24


@dataclass(frozen=True, slots=True, eq=False)
class WrittenShard:
    """What is known of a shard once it is written."""

    rows: int
    tokens: int
    families: npt.NDArray[np.int64]
    """[F, 7] as in `Sequences.families`, summed over its subjects."""


def run_key(producer: str, config: TokenizeConfig, inputs: Mapping[str, Source]) -> str:
    """The same for runs that write the same bytes, else different.

    Args:
        producer: Distribution and version.
        config: With its maps resolved.
        inputs: With their fingerprints.
    """
    subwords = config.subwords.path
    tree = {
        "producer": producer,
        "config": to_dict(config),
        "inputs": TypeAdapter(dict[str, Source]).dump_python(dict(inputs), mode="json"),
        "subwords": sha256(subwords) if subwords and subwords.is_file() else None,
    }
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]


class Finished:
    """The finished parts in the directory that a run writes in."""

    def __init__(self, directory: Path) -> None:
        """Find what is there."""
        self._directory, self._notes = directory, directory / _NOTES
        self._notes.mkdir(exist_ok=True)
        self.kept: set[str] = set()
        """Shards that need not be written again."""

    def shard(self, name: str) -> WrittenShard | None:
        """What was noted of a shard, if it is there as it was written."""
        try:
            note = json.loads(self._note(name).read_bytes())
            if note["crc32"] != _crc32(self._directory / name):
                return None
        except (OSError, ValueError):
            return None
        self.kept.add(name)
        return WrittenShard(
            note["rows"], note["tokens"], np.array(note["families"], np.int64).reshape(-1, COUNTED)
        )

    def note(self, name: str, shard: WrittenShard) -> None:
        """Note that a shard is finished."""
        tree = {
            "crc32": _crc32(self._directory / name),
            "rows": shard.rows,
            "tokens": shard.tokens,
            "families": shard.families.tolist(),
        }
        partial = self._note(name).with_suffix(".partial")
        partial.write_text(json.dumps(tree), encoding="utf-8")
        partial.replace(self._note(name))

    def tokenizer(self) -> Tokenizer | None:
        """The fitted tokenizer, if it is there whole."""
        if not (self._directory / TOKENIZER).is_file():
            return None
        try:
            return Tokenizer.from_pretrained(self._directory)
        except ContractError:  # lost in part when the machine went down
            for name in (TOKENIZER, VOCAB):
                (self._directory / name).unlink(missing_ok=True)
            return None

    def clear(self) -> None:
        """Remove the notes: all is written."""
        shutil.rmtree(self._notes)

    def _note(self, name: str) -> Path:
        return self._notes / f"{name.replace('/', '-')}.json"


def _crc32(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            value = zlib.crc32(block, value)
    return value
