"""A stretch of MEDS rows as flat arrays: what every kernel works on.

N subjects, E events, C codes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ehr_tokenize.meds.dataset import NOTHING, Extra, from_table, runs
from ehr_tokenize.meds.faults import row_problems
from ehr_tracking.errors import UserError


@dataclass(frozen=True, slots=True, eq=False)
class Events:
    """Whole subjects, one after the other; rows of a subject in time order, static ones first."""

    subject_id: npt.NDArray[np.int64]
    """[N]"""
    offsets: npt.NDArray[np.int64]
    """[N + 1]; events of subject i are offsets[i]:offsets[i + 1]."""
    time: npt.NDArray[np.int64]
    """[E] microseconds since 1970, or `STATIC`."""
    code: npt.NDArray[np.uint32]
    """[E] index into a list of C codes that goes with these events."""
    value: npt.NDArray[np.float32]
    """[E] NaN where there is none."""
    visit_id: npt.NDArray[np.int64] | None = None
    """[E] equal for events of one visit of a subject, 0 where none is named; of raw events alone, and
    None where no column names any."""

    def __len__(self) -> int:
        """Number of events."""
        return len(self.time)

    def subject(self) -> npt.NDArray[np.int64]:
        """[E] which of the N subjects each event belongs to."""
        return np.repeat(np.arange(len(self.subject_id)), np.diff(self.offsets))


def events_of(table: pa.Table, where: Path, extra: Extra = NOTHING) -> tuple[Events, list[str]]:
    """The rows of a MEDS table in memory as events, and the codes that these index.

    Args:
        table: In the types of MEDS.
        where: Names it in messages.
        extra: Further columns that tell codes apart.

    Raises:
        UserError: If rows break MEDS, or those of a subject do not follow each other.
    """
    batch = from_table(table, where, extra)
    for problem in row_problems(batch, None):
        raise UserError(str(problem))
    start = runs(batch)
    subject = batch.subject_id[start]
    if len(np.unique(subject)) < len(subject):
        raise UserError(f"{where}: the rows of a subject do not follow each other; sort them")
    offsets = np.append(start, len(batch.time))
    code = batch.code.astype(np.uint32)
    return Events(subject, offsets, batch.time, code, batch.value, batch.visit_id), batch.codes


def gather_index(
    start: npt.NDArray[np.int64], length: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64] | slice:
    """Rows start[i] : start[i] + length[i] of each i, one after the other.

    Examples:
        >>> gather_index(np.array([7, 0]), np.array([2, 3]))
        array([7, 8, 0, 1, 2])
        >>> gather_index(np.array([4, 6]), np.array([2, 3]))
        slice(4, 9, None)
    """
    if len(start) and np.array_equal(start[1:], start[:-1] + length[:-1]):
        return slice(int(start[0]), int(start[-1] + length[-1]))
    before = np.cumsum(length) - length
    return np.repeat(start - before, length) + np.arange(length.sum())


def ranges(
    length: npt.NDArray[np.int64], max_subjects: int, max_events: int
) -> list[tuple[int, int]]:
    """Cut N subjects into runs of at most so many subjects and events (at least one subject each).

    Examples:
        >>> ranges(np.array([5, 5, 50, 1, 1, 1]), max_subjects=2, max_events=10)
        [(0, 2), (2, 3), (3, 5), (5, 6)]
    """
    total = np.concatenate([[0], np.cumsum(length)])
    runs, start = [], 0
    while start < len(length):
        fits = int(np.searchsorted(total, total[start] + max_events, side="right")) - 1
        stop = max(start + 1, min(start + max_subjects, fits))
        runs.append((start, stop))
        start = stop
    return runs
