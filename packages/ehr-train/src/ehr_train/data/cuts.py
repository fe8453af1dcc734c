"""Prediction times drawn in records, each moment as likely as any other, and what comes behind them.

T tokens of a batch, S spans, K cuts.
"""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from ehr_models.data.tokens import STATIC, Tokens
from ehr_train.data import draws

if TYPE_CHECKING:
    from ehr_models.data.batch import Batch
    from ehr_models.data.windows import Windows

Integers = npt.NDArray[np.int64]
_PHASE, _WAITS, _WAIT = 71, 72, 73  # so that two uses of one seed draw differently
_LEAST, _MOST = 60e6, 90 * 86_400e6
"""Microseconds that a prediction time lies behind an event, where it does."""


@dataclass(frozen=True, slots=True, eq=False)
class Cuts:
    """Where records are cut."""

    span: Integers
    """[K] of the batch, never decreasing."""
    end: Integers
    """[K] tokens of the batch up to the last that is visible."""
    ahead: Integers
    """[K] where the first that is not lies in the flat arrays of the split."""
    stop: Integers
    """[K] where the record ends there."""
    time: Integers
    """[K] the prediction time, microseconds."""
    since: npt.NDArray[np.float64]
    """[K] seconds from the last visible token to it."""

    def __len__(self) -> int:
        """Number of cuts."""
        return len(self.span)

    def take(self, index: npt.NDArray[np.bool_]) -> Self:
        """Those cuts."""
        return type(self)(*(getattr(self, f.name)[index] for f in fields(self)))


def draw_cuts(
    batch: "Batch",
    windows: "Windows",
    tokens: Tokens,
    visible: Integers,
    *,
    every: int,
    between: float,
    seed: int,
    epoch: int,
) -> Cuts:
    """One in `every` moments of each window, counted from a random one on.

    A moment is a time at which something became known. That each is as likely as any other, whatever
    comes behind it, is what leaves answers calibrated: one cut a record would make those moments
    likelier behind which little follows. For the same reason a prediction time between two events is an
    event's time and a wait that is drawn without a look at the next event; where that falls behind the
    window or the record's end, there is no cut.

    Args:
        batch: On the CPU.
        windows: [S] those packed into it.
        tokens: Of the split.
        visible: [S] how many tokens of each record count.
        every: Moments.
        between: Share of cuts that wait.
        seed: Of the run.
        epoch: Draws change with it.
    """
    span, index, time = (t.numpy() for t in (batch.span, batch.index, batch.time))
    last = (windows.first + visible)[span]  # behind the record
    following = tokens.time[np.minimum(index + 1, last - 1)]
    moment = (time != STATIC) & ((index + 1 == last) | (following > time))
    moment &= windows.asks_of(index, span)
    row = np.flatnonzero(moment)
    before = np.searchsorted(span[row], np.arange(len(windows)))
    subject = tokens.subject_id[np.searchsorted(tokens.offsets, windows.first, side="right") - 1]
    phase = draws.below(every, seed, _PHASE, epoch, subject, windows.start - windows.first)
    number = np.arange(len(row)) - before[span[row]]
    row = row[(number + phase[span[row]]) % every == 0]
    key = (seed, epoch, subject[span[row]], index[row] - windows.first[span[row]])
    wait = _LEAST * (_MOST / _LEAST) ** draws.uniform(_WAIT, *key)
    waits = draws.uniform(_WAITS, *key) < between
    at = time[row] + np.where(waits, wait, 0).astype(np.int64)
    stop = last[row]
    ahead = np.array(
        [
            i + np.searchsorted(tokens.time[i:end], t, side="right")
            for i, end, t in zip(index[row] + 1, stop, at, strict=True)
        ],
        np.int64,
    )
    span = span[row]
    there = (ahead <= windows.stop[span]) & (at <= tokens.time[stop - 1])
    row, span, ahead, stop, at = (a[there] for a in (row, span, ahead, stop, at))
    since = (at - tokens.time[ahead - 1]) / 1e6
    return Cuts(span, row + ahead - index[row], ahead, stop, at, since)


@dataclass(frozen=True, slots=True, eq=False)
class Ahead:
    """What comes behind a cut, up to some time, each thing when it first comes. n things."""

    token: Integers
    """[n] in order of ids."""
    time: Integers
    """[n] microseconds behind the prediction time."""

    def first(self, token: Integers) -> Integers:
        """When each of some tokens first comes; the largest integer where it does not."""
        if not len(self.token):
            return np.full(len(token), NEVER)
        at = np.minimum(np.searchsorted(self.token, token), len(self.token) - 1)
        return np.where(self.token[at] == token, self.time[at], NEVER)

    def codes(self, code: Integers) -> tuple[Integers, Integers]:
        """The codes that are told, and when each first comes: in that order.

        Args:
            code: [V] number of the code that each token tells; -1 for none.
        """
        told = code[self.token]
        order = np.argsort(self.time, kind="stable")
        order = order[told[order] >= 0]
        name, place = np.unique(told[order], return_index=True)
        by_time = np.argsort(place)
        return name[by_time], self.time[order][place][by_time]


NEVER = np.iinfo(np.int64).max


def look_ahead(tokens: Tokens, cuts: Cuts, number: int, within: int) -> Ahead:
    """What comes behind one of the cuts.

    Args:
        tokens: Of the split.
        cuts: K of them.
        number: Which.
        within: Microseconds; what comes later is left out.
    """
    begin, stop, at = int(cuts.ahead[number]), int(cuts.stop[number]), int(cuts.time[number])
    time = tokens.time[begin:stop]
    time = time[: int(np.searchsorted(time, at + within, side="right"))]
    token, place = np.unique(tokens.token[begin : begin + len(time)], return_index=True)
    return Ahead(token.astype(np.int64), np.asarray(time)[place] - at)
