"""The tokens of a fitted tokenizer, and `vocab.parquet`, which holds one a row."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ehr_tokenize.codes.patterns import matching
from ehr_tokenize.config import TokenizeConfig
from ehr_tokenize.scheme.words import VISIT_START
from ehr_tracking.arrow.meds import NO_INFO, CodeInfo
from ehr_tracking.contracts import SPECIALS, VOCABULARY_COLUMNS, Contract, ContractError

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
        ("seconds", pa.float64()),
        ("starts_visit", pa.bool_()),
    ]
)
_FIELDS = ("kind", "code", "bin", "lower", "upper", "count", "subjects")
"""Of a `Token`, and columns of the table."""
_TIME = ("seconds", "starts_visit")
"""The same, but tables of older versions lack them."""
_ORIGIN = "origin"
"""The same, of dictionaries alone."""


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
    seconds: float | None = None
    """Of a time token: the mean of the lengths of time that it told in train, else its usual one."""
    starts_visit: bool = False
    """Whether a visit begins with it; see `with_time`."""
    origin: int | None = None
    """Row of the dictionary that it was made of."""


def with_time(
    tokens: Sequence[Token], seconds: Mapping[str, float], config: TokenizeConfig
) -> list[Token]:
    """Tokens that say how long an interval is, and whether a visit begins with them.

    A visit begins with `[VS]` where the scheme has it, else with the token of a code that
    `visits.start_codes` finds; what the gap rule begins has no token of its own.

    Args:
        tokens: Without that.
        seconds: Text of a time token -> its length.
        config: Scheme and visits.

    Examples:
        >>> found = with_time([Token("ADMISSION", "code", "ADMISSION")], {}, TokenizeConfig())
        >>> found[0].starts_visit
        True
    """
    marked = config.scheme.visits == "start_end"
    codes = [] if marked else list(dict.fromkeys(t.code for t in tokens if t.code is not None))
    begins = matching(config.visits.start_codes, codes)
    starts = {c for c, begin in zip(codes, begins.tolist(), strict=True) if begin}
    return [
        replace(t, seconds=seconds.get(t.text))
        if t.kind == "time"
        else replace(t, starts_visit=True)
        if (marked and t.kind == "visit" and t.text == VISIT_START) or t.code in starts
        else t
        for t in tokens
    ]


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
        **{name: [getattr(t, name) for t in tokens] for name in _TIME},
    }
    table = pa.table(columns, schema=_SCHEMA)
    origins = pa.array([t.origin for t in tokens], pa.int32())
    if origins.null_count < len(origins):
        table = table.append_column(_ORIGIN, origins)
    path = directory / VOCAB
    pq.write_table(table, path, compression="zstd")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_vocabulary(path: Path, sha256: str, fitted_with: str) -> tuple[list[Token], bool]:
    """The tokens of a `vocab.parquet`, and whether it says what `with_time` does.

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
    return tokens, set(_TIME) <= set(table.column_names)


def _from_row(row: dict[str, Any]) -> Token:
    fields = {name: row[name] for name in _FIELDS}
    info = CodeInfo(row["description"], row["parents"])
    told = {n: row[n] for n in (*_TIME, _ORIGIN) if n in row}
    return Token(row["token"], **fields, info=info, **told)
