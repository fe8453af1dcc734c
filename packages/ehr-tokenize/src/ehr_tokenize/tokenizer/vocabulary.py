"""The tokens of a fitted tokenizer, and `vocab.parquet`, which holds one a row."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ehr_tokenize.meds.dataset import NO_INFO, CodeInfo
from ehr_tokenize.scheme.words import SPECIALS
from ehr_tracking.contracts import VOCABULARY_COLUMNS, Contract, ContractError

VOCAB = "vocab.parquet"
_TABLE = Contract("tokens", 1, "its vocabulary", VOCABULARY_COLUMNS)
_SCHEMA = pa.schema(
    [
        ("id", pa.int32()),
        ("token", pa.string()),
        ("kind", pa.string()),
        ("code", pa.string()),
        ("bin", pa.int32()),
        ("lower", pa.float32()),
        ("upper", pa.float32()),
        ("count", pa.int64()),
        ("subjects", pa.int64()),
        ("description", pa.string()),
        ("parents", pa.list_(pa.string())),
    ]
)
_FIELDS = ("kind", "code", "bin", "lower", "upper", "count", "subjects")
"""Of a `Token`, and columns of the table."""


@dataclass(slots=True)  # a frozen one takes four times as long to make, and there are many
class Token:
    """One row of the vocabulary."""

    text: str
    kind: str
    """special, code, value, category, part, bin, text, time, age or visit."""
    code: str | None = None
    bin: int | None = None
    lower: float | None = None
    upper: float | None = None
    count: int = 0
    subjects: int = 0
    info: CodeInfo = NO_INFO


def write_vocabulary(tokens: Sequence[Token], directory: Path) -> str:
    """Write `vocab.parquet`.

    Returns:
        Its SHA-256.
    """
    columns = {
        "id": list(range(len(tokens))),
        "token": [t.text for t in tokens],
        **{name: [getattr(t, name) for t in tokens] for name in _FIELDS},
        "description": [t.info.description for t in tokens],
        "parents": [t.info.parents for t in tokens],
    }
    path = directory / VOCAB
    pq.write_table(pa.table(columns, schema=_SCHEMA), path, compression="zstd")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_vocabulary(path: Path, sha256: str, fitted_with: str) -> list[Token]:
    """The tokens of a `vocab.parquet`.

    Args:
        path: The file.
        sha256: What it must have.
        fitted_with: The file that says so, for the message.

    Raises:
        ContractError: If it is another one, or is no vocabulary.
    """
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ContractError(f"{path} is not the vocabulary that {fitted_with} was fitted with")
    table = pq.read_table(pa.BufferReader(data))
    _TABLE.check({f.name: str(f.type) for f in table.schema}, where=str(path))
    tokens = [_from_row(row) for row in table.to_pylist()]
    if tuple(t.text for t in tokens[: len(SPECIALS)]) != SPECIALS:
        raise ContractError(f"{path} does not begin with {' '.join(SPECIALS)}")
    return tokens


def _from_row(row: dict[str, Any]) -> Token:
    info = CodeInfo(row["description"], row["parents"])
    return Token(text=row["token"], **{name: row[name] for name in _FIELDS}, info=info)
