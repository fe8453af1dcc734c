"""Events of a block of subjects as parallel arrays, and their order."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

HOUR = 60
DAY = 24 * HOUR
YEAR_DAYS = 365.25
STATIC = np.iinfo(np.int64).min
"""Minute of a static event: before all others, and written as null."""

# Order of events that share a minute: what opens a visit, what happens in it, what closes it, death
OPEN, INSIDE, CLOSE, LAST = range(4)


@dataclass(frozen=True, slots=True)
class Rows:
    """Events as parallel arrays."""

    subject: Ints
    """Row of the subject in its block."""
    minute: Ints
    """Minutes since 1970-01-01."""
    rank: Ints
    """`OPEN` .. `LAST`."""
    code: Ints
    """Row of the world's vocabulary."""
    value: Floats
    """NaN where there is none."""


def concatenate(parts: list[Rows]) -> Rows:
    """Several sets of events as one."""
    return Rows(
        *(np.concatenate([getattr(p, name) for p in parts]) for name in Rows.__dataclass_fields__)
    )


def plain(subject: Ints, minute: Ints, rank: int, code: Ints) -> Rows:
    """Events without a value."""
    return Rows(subject, minute, np.full(len(subject), rank), code, np.full(len(subject), np.nan))


def in_order(rows: Rows) -> Rows:
    """The same events by subject, time, rank and code."""
    order = np.lexsort((rows.code, rows.rank, rows.minute, rows.subject))
    return Rows(*(getattr(rows, name)[order] for name in Rows.__dataclass_fields__))
