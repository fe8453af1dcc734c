"""Steps made ready: what this process does in each, prepared by a thread while others are trained."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import Generic, Protocol, Self, TypeVar

from ehr_models.data.windows import Windows
from ehr_train.data.balance import deal
from ehr_train.data.sampler import Position

T = TypeVar("T")
Q = TypeVar("Q")
Made = TypeVar("Made", covariant=True)


class Ask(Protocol[Made]):
    """Makes what a process does in one pass."""

    def __call__(self, windows: Windows, epoch: int, *, counted: bool) -> Made:
        """Of the windows of the pass; whether they count."""


@dataclass(frozen=True, slots=True)
class Prepared(Generic[Q]):
    """One step, as one process takes it."""

    position: Position
    """Behind it."""
    passes: list[Q]
    """As many as on every other process."""
    tokens: int
    """Of the windows of all processes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """Which part of each step is whose."""

    rank: int
    world: int
    micro_tokens: int
    c: float
    """See `balance.work`."""

    def prepare(
        self,
        steps: Iterator[tuple[Position, Windows]],
        ask: Ask[Q],
    ) -> Iterator[Prepared[Q]]:
        """Make the questions of this process.

        Args:
            steps: Position and all windows of each step.
            ask: A process without a window takes part in a pass with the first one of the step,
                which does not count.
        """
        for position, windows in steps:
            length = windows.length
            shares = deal(length, world=self.world, micro_tokens=self.micro_tokens, c=self.c)
            yield Prepared(
                position,
                [
                    ask(windows.take(mine), position.epoch, counted=True)
                    if len(mine)
                    else ask(windows.take(slice(1)), position.epoch, counted=False)
                    for mine in shares[self.rank]
                ],
                int(length.sum()),
            )


class Ahead(Iterator[T]):
    """The items of an iterator, made by a thread that runs some of them ahead.

    They are those of the iterator, in its order; what it raises is raised here.
    """

    def __init__(self, items: Iterator[T], depth: int) -> None:
        """Begin.

        Args:
            items: Used by the thread alone from now on.
            depth: Most items that wait; 0 makes each when it is asked for, without a thread.
        """
        self.items = items
        self.waited = 0.0
        """Seconds that the last item was waited for."""
        self._ready: SimpleQueue[tuple[bool, T | BaseException]] = SimpleQueue()
        self._room = Semaphore(depth)
        self._closed = False
        self._thread: Thread | None = None
        if depth:
            self._thread = Thread(target=self._work, name="loader", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        try:
            while True:
                self._room.acquire()
                if self._closed:
                    return
                self._ready.put((True, next(self.items)))
        except BaseException as e:
            self._ready.put((False, e))

    def __next__(self) -> T:
        """The next item; `StopIteration` behind the last, as often as it is asked for."""
        begin = time.perf_counter()
        try:
            if self._thread is None:
                return next(self.items)
            whole, item = self._ready.get()
            if whole:
                self._room.release()
                return item  # type: ignore[return-value]
            self._ready.put((whole, item))  # for whoever asks again
            raise item  # type: ignore[misc]
        finally:
            self.waited = time.perf_counter() - begin

    def close(self) -> None:
        """End the thread, however many items are left."""
        self._closed = True
        if self._thread is not None:
            self._room.release()
            self._thread.join()

    def __enter__(self) -> Self:
        """The iterator itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the thread."""
        self.close()
