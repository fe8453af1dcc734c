"""Which windows every process sees in every step: a pure function of config and position.

E examples. An example is a subject and how many of its tokens may be seen. An epoch is one
permutation of the examples, cut into steps that hold at most `batch_tokens` real tokens. A step is
shared out by token counts, so the union over processes never depends on how many there are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ehr_models.batch import Span, newest
from ehr_models.tokens import BOS, CLS, Tokens
from ehr_train.data import draws

_ORDER, _WINDOW = 1, 2  # so that two uses of one seed draw differently


@dataclass(frozen=True, eq=False)
class Examples:
    """What a model is shown of a split."""

    tokens: Tokens
    subject: npt.NDArray[np.int64]
    """[E] row of `tokens`."""
    visible: npt.NDArray[np.int64]
    """[E] tokens of the subject that may be seen, counted from its first; at least 1."""
    label: npt.NDArray[np.float32] | None = None
    """[E] 0 or 1, where the task is to tell them apart."""

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.subject)


def whole_records(tokens: Tokens) -> Examples:
    """Every subject that has a token, with all of its tokens."""
    lengths = np.diff(tokens.offsets)
    subject = np.flatnonzero(lengths)
    return Examples(tokens, subject, lengths[subject])


class Position(NamedTuple):
    """How far a run has come: what resuming needs to go on with the very next step."""

    epoch: int = 0
    done: int = 0
    """Steps of this epoch that are behind."""


class Window(NamedTuple):
    """An example and the part of its record that is shown."""

    example: int
    span: Span


@dataclass(frozen=True, eq=False)
class Sampler:
    """The order of all steps."""

    examples: Examples
    context: int
    window: Literal["random", "newest"]
    batch_tokens: int
    seed: int

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """[E] tokens of each window."""
        return np.minimum(self.examples.visible, self.context)

    def steps_of(self, epochs: int) -> int:
        """Optimizer steps of the first `epochs` epochs."""
        return sum(len(self._epoch(epoch)[1]) - 1 for epoch in range(epochs))

    def steps(self, position: Position) -> Iterator[tuple[Position, list[Window]]]:
        """Endlessly, from a position on: the position behind each step, and all of its windows."""
        epoch, done = position
        while True:
            order, bounds = self._epoch(epoch)
            for batch in range(done, len(bounds) - 1):
                examples = order[bounds[batch] : bounds[batch + 1]].tolist()
                yield (
                    Position(epoch, batch + 1),
                    [Window(e, self._span(e, epoch)) for e in examples],
                )
            epoch, done = epoch + 1, 0

    def _epoch(self, epoch: int) -> tuple[npt.NDArray[np.int64], list[int]]:
        """The examples in order, and where each step begins and the last ends."""
        key = draws.bits(self.seed, _ORDER, epoch, np.arange(len(self.examples)))
        order = np.argsort(key, kind="stable")
        return order, fill(self.lengths[order], self.batch_tokens)

    def _span(self, example: int, epoch: int) -> Span:
        tokens, row = self.examples.tokens, int(self.examples.subject[example])
        visible = int(self.examples.visible[example])
        if self.window == "newest" or visible <= self.context:
            return newest(tokens, row, visible, self.context)
        subject = int(tokens.subject_id[row])
        offset = int(draws.below(visible - self.context + 1, self.seed, _WINDOW, epoch, subject))
        return window_at(tokens, row, offset, self.context)


def window_at(tokens: Tokens, subject: int, offset: int, context: int) -> Span:
    """The window of `context` tokens that begins `offset` tokens into a record.

    Behind its pinned first token it is one token shorter, so the last offset gives the newest.
    """
    first = int(tokens.offsets[subject])
    start = first + offset
    if offset and int(tokens.token[first]) in (CLS, BOS):
        return Span(start + 1, start + context, first)
    return Span(start, start + context)


def fill(lengths: npt.NDArray[np.int64], budget: int) -> list[int]:
    """Cut a row of windows into runs of at most `budget` tokens.

    Returns:
        Where each run begins, and where the last ends.

    Examples:
        >>> fill(np.array([3, 3, 3, 5, 1]), budget=6)
        [0, 2, 3, 5]
    """
    total = np.concatenate([[0], np.cumsum(lengths)])
    bounds = [0]
    while bounds[-1] < len(lengths):
        end = int(np.searchsorted(total, total[bounds[-1]] + budget, side="right")) - 1
        bounds.append(max(end, bounds[-1] + 1))
    return bounds


def share(windows: Sequence[Window], rank: int, world: int) -> list[Window]:
    """The windows of one process: longest first, each to the process with the fewest tokens so far.

    Examples:
        >>> windows = [Window(i, Span(0, n)) for i, n in enumerate([5, 1, 4, 2])]
        >>> [[w.example for w in share(windows, rank, 2)] for rank in (0, 1)]
        [[0, 1], [2, 3]]
    """
    loads = [0] * world
    mine = []
    for window in sorted(windows, key=lambda w: (-w.span.length, w.example)):
        owner = loads.index(min(loads))
        loads[owner] += window.span.length
        if owner == rank:
            mine.append(window)
    return mine


def packs(windows: Sequence[Window], micro_tokens: int) -> Iterator[list[Window]]:
    """Windows in runs of at most `micro_tokens`, for one forward pass each."""
    bounds = fill(np.array([w.span.length for w in windows], np.int64), micro_tokens)
    for start, stop in pairwise(bounds):
        yield list(windows[start:stop])
