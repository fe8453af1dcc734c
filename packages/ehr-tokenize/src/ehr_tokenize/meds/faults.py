"""What is wrong with rows: every fault, with the first row of it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ehr_tokenize.meds.columns import NO_CODES
from ehr_tokenize.meds.dataset import Batch
from ehr_tracking.arrow.meds import time_faults


@dataclass(frozen=True, slots=True)
class Problem:
    """One kind of fault, and where it is found first."""

    where: str
    """File and row, counted from 0."""
    what: str
    count: int

    def __str__(self) -> str:
        """One line."""
        more = f" ({self.count:,} such rows)" if self.count > 1 else ""
        return f"{self.where}: {self.what}{more}"


def row_problems(batch: Batch, before: tuple[int, int] | None) -> list[Problem]:
    """Nulls, codes that are none, odd times, and rows of a subject that are not in order.

    Args:
        batch: Rows.
        before: Subject and time of the row before the batch, in the same file.
    """
    bad = np.flatnonzero(batch.code < 0)
    faults = [
        (_rows(batch.null_subjects), "subject_id is null"),
        *((bad[batch.code[bad] == i], what) for i, what in NO_CODES.items()),
        *time_faults(batch.subject_id, batch.time, before),
    ]
    return [
        Problem(f"{batch.path} row {batch.row + int(rows[0])}", what, len(rows))
        for rows, what in faults
        if len(rows)
    ]


def _rows(mask: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.int64]:
    return np.zeros(0, np.int64) if mask is None else np.flatnonzero(mask)
