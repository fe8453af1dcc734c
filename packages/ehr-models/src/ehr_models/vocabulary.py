"""What each token means: the rows of `vocab.parquet`, as any tokenizer wrote them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ehr_tracking.contracts import TOKENS, ContractError
from ehr_tracking.files import PathLike

VOCABULARY = "vocab.parquet"
"""Its file, in `tokens/1` and in `checkpoint/1`."""
_CONTRACT = replace(TOKENS, columns=TOKENS.beside[VOCABULARY])


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """One token: a row of `vocab.parquet`."""

    id: int
    token: str
    """Unique text."""
    kind: str
    """special, code, value, time and so on."""
    code: str | None
    """MEDS code, where it stands for one."""
    bin: int | None
    """Value bin from 1."""
    lower: float | None
    """Of the bin, inclusive."""
    upper: float | None
    """Of the bin, exclusive."""
    count: int
    """Events in the train split."""
    subjects: int
    """Subjects in the train split."""
    description: str | None
    parents: Sequence[str] | None
    """Codes above it."""
    seconds: float | None = None
    """Typical length of the interval that a time token stands for."""
    starts_visit: bool = False
    """A visit begins with it."""
    origin: int | None = None
    """Row of the vocabulary that others made and this one was made of, behind its special tokens."""


def read_vocabulary(directory: PathLike) -> list[Word]:
    """The words of a token data set or a checkpoint, in the order of their ids.

    Args:
        directory: Holds `vocab.parquet`; whoever opened it has checked that it is unchanged.

    Raises:
        ContractError: If the file is missing, breaks its contract, or its ids are not 0, 1, 2...
    """
    directory = Path(directory)
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = directory / VOCABULARY
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as e:
        raise ContractError(f"{path} cannot be read: {str(e).splitlines()[0]}") from None
    _CONTRACT.check({f.name: str(f.type) for f in table.schema}, where=str(path))
    names = [f.name for f in fields(Word) if f.name in table.column_names]
    rows: list[dict[str, Any]] = table.select(names).to_pylist()
    for number, row in enumerate(rows):
        if row["id"] != number:
            raise ContractError(f"{path}, row {number}: id is {row['id']}, expected {number}")
        row["starts_visit"] = bool(row.get("starts_visit"))
    return [Word(**row) for row in rows]
