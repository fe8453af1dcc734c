"""Which windows make up every step: a pure function of config and position.

E examples, I instances: an example is one, but where all of a long record is shown, in several windows.
An epoch is one permutation of the instances, cut into steps that hold at most so many real tokens, or so
many windows, over all processes. How a step is shared out says `balance`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ehr_models.data.windows import (
    Windows,
    every_chunk,
    fill,
    newest,
    whole_visits,
    window_at,
)
from ehr_train.data import draws
from ehr_train.data.examples import Examples

Window = Literal["random", "newest", "visits", "all"]
Loader = Literal["tokens", "exact"]
_ORDER, _WINDOW = 1, 2  # so that two uses of one seed draw differently
_WHOLE = {"visits": whole_visits, "all": every_chunk}
"""What shows all of a record, in windows that are the same in every epoch."""


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
    window: Window
    batch: int
    """Most of what a step holds: tokens, or windows where the loader is `exact`."""
    seed: int
    loader: Loader = "tokens"

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """[I] tokens of each window."""
        if self.window in _WHOLE:
            return self._fixed.length
        return np.minimum(self.examples.visible, self.context)

    @cached_property
    def _fixed(self) -> Windows:
        """[I] the windows that show all of every record."""
        examples = self.examples
        return _WHOLE[self.window](
            *(examples.tokens, examples.subject, examples.visible, self.context),
            np.arange(len(examples)),
        )

    def steps_of(self, epochs: int) -> int:
        """Optimizer steps of the first `epochs` epochs."""
        return sum(map(self.steps_in, range(epochs)))

    def steps_in(self, epoch: int) -> int:
        """Optimizer steps of one epoch."""
        return len(self._epoch(epoch)[1]) - 1

    def steps(self, position: Position) -> Iterator[tuple[Position, Windows]]:
        """Endlessly, from a position on: the position behind each step, and all of its windows."""
        epoch, done = position
        while True:
            order, bounds = self._epoch(epoch)
            for batch in range(done, len(bounds) - 1):
                instances = order[bounds[batch] : bounds[batch + 1]]
                yield Position(epoch, batch + 1), self._windows(instances, epoch)
            epoch, done = epoch + 1, 0

    def _epoch(self, epoch: int) -> tuple[npt.NDArray[np.int64], list[int]]:
        """The instances in order, and where each step begins and the last ends."""
        order = draws.order(self.seed, _ORDER, epoch, np.arange(len(self.lengths)))
        size = self.lengths[order] if self.loader == "tokens" else np.ones(len(order), np.int64)
        return order, fill(size, self.batch)

    def _windows(self, instance: npt.NDArray[np.int64], epoch: int) -> Windows:
        if self.window in _WHOLE:
            return self._fixed.take(instance)
        tokens, row = self.examples.tokens, self.examples.subject[instance]
        visible = self.examples.visible[instance]
        if self.window == "newest":
            return newest(tokens, row, visible, self.context, instance)
        places = np.maximum(visible - self.context, 0) + 1
        offset = draws.below(places, self.seed, _WINDOW, epoch, tokens.subject_id[row])
        return window_at(tokens, row, visible, offset, self.context, instance)
