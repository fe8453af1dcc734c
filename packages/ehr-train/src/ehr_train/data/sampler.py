"""Which windows every process sees in every step: a pure function of config and position.

E examples. An example is a subject and how many of its tokens may be seen. An epoch is one
permutation of the examples, cut into steps that hold at most `batch_tokens` real tokens. A step is
shared out by token counts, so the union over processes never depends on how many there are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ehr_models.data.tokens import Tokens
from ehr_models.data.windows import Windows, fill, newest, window_at
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

    def steps(self, position: Position) -> Iterator[tuple[Position, Windows]]:
        """Endlessly, from a position on: the position behind each step, and all of its windows."""
        epoch, done = position
        while True:
            order, bounds = self._epoch(epoch)
            for batch in range(done, len(bounds) - 1):
                examples = order[bounds[batch] : bounds[batch + 1]]
                yield Position(epoch, batch + 1), self._windows(examples, epoch)
            epoch, done = epoch + 1, 0

    def _epoch(self, epoch: int) -> tuple[npt.NDArray[np.int64], list[int]]:
        """The examples in order, and where each step begins and the last ends."""
        key = draws.bits(self.seed, _ORDER, epoch, np.arange(len(self.examples)))
        order = np.argsort(key, kind="stable")
        return order, fill(self.lengths[order], self.batch_tokens)

    def _windows(self, example: npt.NDArray[np.int64], epoch: int) -> Windows:
        tokens, row = self.examples.tokens, self.examples.subject[example]
        visible = self.examples.visible[example]
        if self.window == "newest":
            return newest(tokens, row, visible, self.context, example)
        bound = np.maximum(visible - self.context + 1, 1)
        offset = draws.below(bound, self.seed, _WINDOW, epoch, tokens.subject_id[row])
        return window_at(tokens, row, visible, offset, self.context, example)


def share(windows: Windows, rank: int, world: int) -> Windows:
    """The windows of one process: longest first, each to the process with the fewest tokens so far.

    Examples:
        >>> zero = np.zeros(4, np.int64)
        >>> windows = Windows(np.arange(4), zero, zero, zero, np.array([5, 1, 4, 2]))
        >>> [share(windows, rank, 2).example.tolist() for rank in (0, 1)]
        [[0, 1], [2, 3]]
    """
    loads = [0] * world
    mine = []
    lengths = windows.length
    for i in np.lexsort((windows.example, -lengths)).tolist():
        owner = loads.index(min(loads))
        loads[owner] += int(lengths[i])
        if owner == rank:
            mine.append(i)
    return windows.take(np.array(mine, np.int64))


def packs(windows: Windows, micro_tokens: int) -> Iterator[Windows]:
    """Windows in runs of at most `micro_tokens`, for one forward pass each."""
    for start, stop in pairwise(fill(windows.length, micro_tokens)):
        yield windows.take(slice(start, stop))
