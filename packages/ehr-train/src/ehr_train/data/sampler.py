"""Which windows make up every step: a pure function of config and position.

E examples, I instances: an example is one, but where all of a long record is shown, in several windows.
The instances are cut into blocks by a permutation that can be asked for any part of it, and each block is
packed by itself: nothing that grows with I is made for an epoch, and no more than one block is looked at
to go on anywhere. A step holds at most so many real tokens, or so many windows, over all processes. How
it is shared out says `balance`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ehr_models.data.windows import Windows, chunk_at, chunks, newest, whole_visits, window_at
from ehr_train.data import draws
from ehr_train.data.examples import Examples
from ehr_train.data.packing import Packing, bundles_of_a_step, pack

Window = Literal["random", "newest", "visits", "all"]
Loader = Literal["tokens", "exact"]
Integers = npt.NDArray[np.int64]
ORDER = 2
"""Raised when the same config and position mean other windows than before."""
# so that uses of one seed draw differently
_DRAWN, _WINDOW, _MEMBERS, _BLOCKS, _BUNDLES = range(1, 6)
_STEPS = 256
"""Of a block at least, unless it were too large."""
_MOST = 8
"""Times as many windows as the smallest block that the largest may have."""


class Position(NamedTuple):
    """How far a run has come: what resuming needs to go on with the very next step."""

    epoch: int = 0
    block: int = 0
    """Blocks of this epoch that are behind."""
    done: int = 0
    """Steps of this block that are behind."""


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
    smallest: int = 2**16
    """Windows of a block, where there are so many: enough for steps to be drawn from all lengths, few
    enough to be packed in a moment."""

    @cached_property
    def _chunks(self) -> Integers:
        """[E + 1] windows of the examples before each, where all of a record is shown in chunks."""
        examples = self.examples
        count = chunks(examples.tokens, examples.subject, examples.visible, self.context)
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(count)])

    @cached_property
    def _visits(self) -> Windows:
        """[I] the windows of whole visits."""
        examples = self.examples
        return whole_visits(
            *(examples.tokens, examples.subject, examples.visible, self.context),
            np.arange(len(examples)),
        )

    def __len__(self) -> int:
        """Number of instances."""
        if self.window == "all":
            return int(self._chunks[-1])
        return len(self._visits) if self.window == "visits" else len(self.examples)

    @cached_property
    def tokens(self) -> int:
        """Real tokens of an epoch."""
        bounds = range(0, len(self), self.smallest)
        parts = (np.arange(a, min(a + self.smallest, len(self))) for a in bounds)
        return sum(int(self._lengths(part).sum()) for part in parts)

    @cached_property
    def blocks(self) -> int:
        """How many an epoch has."""
        if self.loader == "exact":
            return -(-len(self) // self.batch)
        size = min(_STEPS * self.batch * len(self) // self.tokens, _MOST * self.smallest)
        return -(-len(self) // max(size, self.smallest))

    @cached_property
    def steps_an_epoch(self) -> int:
        """Optimizer steps of an epoch, the same in each: of which windows a block is does not change."""
        if self.loader == "exact":
            return self.blocks
        return sum(self._packing(self._members(block, 0)).steps for block in range(self.blocks))

    def steps(self, position: Position) -> Iterator[tuple[Position, Windows]]:
        """Endlessly, from a position on: the position behind each step, and all of its windows."""
        epoch, first, done = position
        while True:
            for block in range(first, self.blocks):
                steps = self._block(epoch, block)
                for number in range(done, len(steps)):
                    yield Position(epoch, block, number + 1), self._windows(steps[number], epoch)
                done = 0
            epoch, first = epoch + 1, 0

    def epoch(self, epoch: int) -> Iterator[Windows]:
        """The windows of each step of an epoch."""
        for position, windows in self.steps(Position(epoch)):
            if position.epoch != epoch:
                return
            yield windows

    def _block(self, epoch: int, number: int) -> list[Integers]:
        """The instances of each step of one block of an epoch."""
        if self.loader == "exact":
            return [self._members(number, epoch)]
        block = int(draws.permuted(number, self.blocks, self.seed, _BLOCKS, epoch))
        members = self._members(block, epoch)
        members = members[draws.order(self.seed, _DRAWN, epoch, members)]
        packing = self._packing(members)
        place = draws.order(self.seed, _BUNDLES, epoch, block, np.arange(packing.bundles))
        step = np.argsort(place)[packing.bundle] // packing.each
        ends = np.cumsum(np.bincount(step, minlength=packing.steps))
        return np.split(members[np.argsort(step, kind="stable")], ends[:-1])

    @cached_property
    def _bundles(self) -> int:
        """Of a step; what does for one block does for all, as they are drawn alike."""
        return bundles_of_a_step(self._lengths(self._members(0, 0)), self.batch)

    def _packing(self, members: Integers) -> Packing:
        return pack(self._lengths(members), self.batch, self._bundles)

    def _members(self, block: int, epoch: int) -> Integers:
        """The instances of one block; of loader `tokens` the same in every epoch."""
        size, key = len(self), (self.seed, _MEMBERS)
        if self.loader == "exact":
            begin, end = block * self.batch, min((block + 1) * self.batch, size)
            return draws.permuted(np.arange(begin, end), size, *key, epoch)
        begin, end = (number * size // self.blocks for number in (block, block + 1))
        return draws.permuted(np.arange(begin, end), size, *key)

    def _lengths(self, instance: Integers) -> Integers:
        """[n] tokens of some windows, which are as long in every epoch."""
        if self.window in ("visits", "all"):
            return self._windows(instance, 0).length
        visible: Integers = self.examples.visible[instance].astype(np.int64)
        return np.minimum(visible, self.context)

    def _windows(self, instance: Integers, epoch: int) -> Windows:
        if self.window == "visits":
            return self._visits.take(instance)
        example, place = instance, np.zeros(0, np.int64)
        if self.window == "all":
            example = np.searchsorted(self._chunks, instance, side="right") - 1
            place = instance - self._chunks[example]
        tokens, row = self.examples.tokens, self.examples.subject[example]
        visible = self.examples.visible[example].astype(np.int64)
        if self.window == "all":
            return chunk_at(tokens, row, visible, place, self.context, example)
        if self.window == "newest":
            return newest(tokens, row, visible, self.context, example)
        places = np.maximum(visible - self.context, 0) + 1
        offset = draws.below(places, self.seed, _WINDOW, epoch, tokens.subject_id[row])
        return window_at(tokens, row, visible, offset, self.context, example)
