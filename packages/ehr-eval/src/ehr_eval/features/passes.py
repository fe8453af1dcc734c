"""Which stretches of records a model reads, and where in them each feature row is read off.

n rows (one a subject and prediction time), S passes. Planning sees numbers of visible tokens, never
tokens, and a pass ends with the last token visible at its last row: what is recorded later cannot
move a bit of the result, not even through the composition of batches.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ehr_models.data.tokens import Tokens
from ehr_models.data.windows import Windows, fill, newest


@dataclass(frozen=True, slots=True, eq=False)
class Passes:
    """Windows and the rows read off them."""

    windows: Windows
    """[S]"""
    rows: npt.NDArray[np.int64]
    """[R] rows of features, by the window they are read off."""
    window: npt.NDArray[np.int64]
    """[R] that window, never decreasing."""
    ends: npt.NDArray[np.int64]
    """[R] how many tokens of it the row sees."""
    fill: npt.NDArray[np.int64] | None = None
    """[S] how long each pass is made with padding at its end, alone in its batch; None: not at all."""

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.windows)


def plan(
    tokens: Tokens,
    subject: npt.NDArray[np.int64],
    visible: npt.NDArray[np.int64],
    *,
    context: int,
    shared: bool,
    apart: bool = False,
    exact: bool = False,
) -> Passes:
    """Lay out the passes over one split, shortest first.

    Args:
        tokens: One split.
        subject: [n] rows of `tokens`, equal ones side by side.
        visible: [n] visible tokens; rows that see none get no pass.
        context: Most tokens in a window.
        shared: Read a subject once for all rows whose visible record fits the context (right for
            causal models only: there a state depends on no later token); else cut where each row's
            visible record ends.
        apart: Each row has a pass of its own, also of those that see the same tokens.
        exact: Passes whose results are a function of what each row sees, to the bit: alone in their batches, and
            shared by the rows of a subject that fit the same of a few lengths, to which they are filled up.
    """
    rows = np.flatnonzero(visible > 0)
    together = (visible[rows] <= context) & shared
    # a pass: the shared one of a subject, or that of the rows which see equally much
    length = np.minimum(_like(visible[rows]), context) if exact else np.ones_like(rows)
    key = np.where(together, -length, visible[rows])
    order = np.lexsort((rows, key, subject[rows]))
    rows, key = rows[order], key[order]
    new = np.ones(len(rows), bool)
    new[1:] = (np.diff(subject[rows]) != 0) | (np.diff(key) != 0) | apart
    begin = np.flatnonzero(new)
    most = np.maximum.reduceat(visible[rows], begin) if len(begin) else begin
    windows = newest(tokens, subject[rows[begin]], most, context)
    by_length = np.argsort(windows.length, kind="stable")
    window = np.argsort(by_length)[np.cumsum(new) - 1]
    back = np.argsort(window, kind="stable")
    ends = np.minimum(visible[rows], context)
    fill = None
    if exact:
        own = np.maximum(-key[begin], windows.length)
        fill = own[by_length]
    return Passes(windows.take(by_length), rows[back], window[back], ends[back], fill)


def _like(length: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The next power of two, 32 at least.

    Examples:
        >>> _like(np.array([1, 32, 33, 64, 1000])).tolist()
        [32, 32, 64, 64, 1024]
    """
    power = np.frexp(np.maximum(length - 1, 0))[1].astype(np.int64)
    return np.maximum(np.left_shift(1, power), 32).astype(np.int64)


def batches(passes: Passes, budget: int) -> Iterator[Passes]:
    """Group passes, in order, under a budget of tokens; one that exceeds it goes alone.

    Examples:
        >>> at = np.array([0, 2, 5, 9, 18])
        >>> windows = Windows(at[:-1], at[:-1], np.zeros(4, int), at[:-1], at[1:])
        >>> passes = Passes(windows, np.array([7, 8, 4, 1, 2]), np.array([0, 0, 1, 2, 3]), np.ones(5))
        >>> [(b.windows.length.tolist(), b.rows.tolist()) for b in batches(passes, 6)]
        [([2, 3], [7, 8, 4]), ([4], [1]), ([9], [2])]
    """
    for start, stop in pairwise(
        fill(passes.windows.length, 0 if passes.fill is not None else budget)
    ):
        mine = slice(*np.searchsorted(passes.window, [start, stop]))
        yield Passes(
            passes.windows.take(slice(start, stop)),
            passes.rows[mine],
            passes.window[mine] - start,
            passes.ends[mine],
            None if passes.fill is None else passes.fill[start:stop],
        )
