"""What a check says: what it found, or why it did not look."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that makes a result look better, or other, than it is."""

    where: str
    """Which input: a task, a set of features, the tokens."""
    what: str
    """In words, without anything of a single subject."""
    count: int
    """How many rows, subjects, tokens or columns: `what` says of which."""
    severity: Severity = "error"
    subjects: tuple[int, ...] = field(default=())
    """Whose they are, ascending: shown only where the user asks for it."""


class Skipped(Exception):  # noqa: N818 -- no error: a check that has nothing to look at
    """Why a check did not look."""


def ids(values: Iterable[int]) -> tuple[int, ...]:
    """Subjects as a finding holds them.

    Examples:
        >>> ids([7, 3, 7])
        (3, 7)
    """
    return tuple(sorted({int(value) for value in values}))
