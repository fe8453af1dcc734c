"""Subjects with ids that are no integers."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from ehr_tokenize.sources.cells import Cells
from ehr_tracking.errors import UserError

FILE = "source_subjects.parquet"


def hashed(name: str) -> int:
    """A stable positive 63-bit id (BLAKE2b) for a subject that is named by text.

    Examples:
        >>> hashed("P0001")
        2859779532213072835
    """
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Subjects:
    """The ids of one data set: canonical integers stay, all others are hashed and remembered."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._names: dict[int, str] = {}

    def number(self, cells: Cells, column: str) -> pl.Series:
        """[R] Int64 ids of a column of any ids; null where there is none.

        Raises:
            UserError: If two subjects get the same id.
        """
        if cells.piece.frame[column].dtype.is_numeric():
            return cells.integer(column)
        text = cells.text(column).str.replace(r"^(-?\d+)\.0+$", "${1}")  # 17.0, as pandas writes
        new = text.drop_nulls().unique().sort()
        ids = pl.DataFrame(
            {"name": new, "id": [self.id(name) for name in new]},
            schema={"name": pl.String, "id": pl.Int64},
        )
        return text.to_frame("name").join(ids, on="name", how="left", maintain_order="left")["id"]

    def id(self, name: str) -> int:
        """The id of one subject.

        Raises:
            UserError: If another subject has it.
        """
        if name not in self._ids:
            number = int(name) if _canonical(name) else hashed(name)
            other = self._names.setdefault(number, name)
            if other != name:
                raise UserError(f"subjects {other!r} and {name!r} get the same id {number}")
            self._ids[name] = number
        return self._ids[name]

    def write(self, metadata: Path) -> None:
        """List the hashed ids in metadata/source_subjects.parquet, if there are any."""
        rows = sorted((n, name) for n, name in self._names.items() if str(n) != name)
        if rows:
            schema = {"subject_id": pl.Int64, "source_id": pl.String}
            pl.DataFrame(rows, schema=schema, orient="row").write_parquet(metadata / FILE)


def read_names(root: Path) -> Mapping[int, str]:
    """Hashed id -> id in the source, for a data set that lists them."""
    path = root / "metadata" / FILE
    if not path.is_file():
        return {}
    return dict(pl.read_parquet(path).select("subject_id", "source_id").iter_rows())


def _canonical(name: str) -> bool:
    """Whether a name is a 64-bit integer and written as Python writes it."""
    digits = name.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 19:
        return False
    return str(int(name)) == name and -(2**63) <= int(name) < 2**63
