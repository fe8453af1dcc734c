"""Vectors by code, as they were read, and what may not be among them.

N vectors of width D.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ehr_tracking.errors import UserError

Floats = npt.NDArray[np.float32]


class Key(NamedTuple):
    """A code of a vocabulary: 250.0 of phecode and 250.0 of ICD-9-CM are two things."""

    vocabulary: str
    """`icd10cm`, `atc` and so on; empty for a name that is taken as it stands."""
    code: str

    def __str__(self) -> str:
        """As reports show it.

        Examples:
            >>> str(Key("icd10cm", "E11.6")), str(Key("", "LAB//1"))
            ('icd10cm:E11.6', 'LAB//1')
        """
        return f"{self.vocabulary}:{self.code}" if self.vocabulary else self.code


@dataclass(frozen=True, slots=True, eq=False)
class Vectors:
    """What one file or folder holds."""

    keys: Sequence[Key]
    """[N], each once."""
    matrix: Floats
    """[N, D], finite."""
    path: Path
    """For messages."""

    @property
    def width(self) -> int:
        """D."""
        return int(self.matrix.shape[1])


def checked(path: Path, keys: Sequence[Key], matrix: Floats) -> Vectors:
    """Vectors of which each code is there once and each number is finite.

    Args:
        path: Where they are from.
        keys: [N]
        matrix: [N, D]; rows are counted from 1, after a header, and columns by number from 0.

    Raises:
        UserError: Naming file, row and column of the first fault.
    """
    if not len(keys):
        raise UserError(f"{path} holds no vector")
    refuse_repeated(path, keys)
    finite = np.isfinite(matrix).all(1)
    if not finite.all():
        row = int(finite.argmin())
        column = int(np.isfinite(matrix[row]).argmin())
        raise UserError(
            f"{path} row {row + 1} ({keys[row]}), column {column}: {matrix[row, column]} is not a "
            "finite number"
        )
    return Vectors(keys, matrix, path)


def refuse_repeated(path: Path, names: Iterable[object], column: str = "code") -> None:
    """Raise where a name is there twice.

    Raises:
        UserError: Naming both rows, from 1.
    """
    first: dict[object, int] = {}
    for row, name in enumerate(names, 1):
        if first.setdefault(name, row) != row:
            raise UserError(
                f"{path} row {row}, column {column}: {name} is in row {first[name]} too"
            )


def joined(parts: Sequence[Vectors]) -> Vectors:
    """All vectors as one table; of a code that several hold, the first holder's counts in look-ups.

    Raises:
        UserError: If they are not all of one width.
    """
    first = parts[0]
    for part in parts[1:]:
        if part.width != first.width:
            raise UserError(
                f"{part.path} has vectors of width {part.width}, {first.path} of {first.width}: "
                "give tables of one width"
            )
    if len(parts) == 1:
        return first
    keys = [key for part in parts for key in part.keys]
    return Vectors(keys, np.concatenate([part.matrix for part in parts]), first.path)
