"""Being asked to stop by a signal: what runs step after step heeds it between two steps."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from ehr_tracking.errors import StoppedError

NAMES = tuple(n for n in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1") if hasattr(signal, n))
"""What schedulers, `timeout`, Ctrl-C and a lost terminal send."""


class Stop:
    """Whether, and by what, this process was asked to stop."""

    def __init__(self) -> None:
        """Nobody has asked yet, and nobody would heed."""
        self.by: str | None = None
        """Name of the signal."""
        self._tell: Callable[[str], None] | None = None

    def ask(self, by: str) -> None:
        """Ask.

        Args:
            by: Name of the signal.

        Raises:
            StoppedError: Where nobody heeds: not between steps, so there is nothing to be saved.
        """
        self.by = self.by or by
        if self._tell is None:
            raise StoppedError(f"stopped by {by}; go on with --resume")
        self._tell(by)

    @contextmanager
    def heeded(self, tell: Callable[[str], None] = lambda _: None) -> Iterator[None]:
        """In which asking raises nothing.

        Args:
            tell: Called with the name of the signal.
        """
        self._tell = tell
        try:
            yield
        finally:
            self._tell = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """In which the first signal asks, and a second one acts as it would have without us.

        But for SIGUSR1: schedulers send it ahead of what ends a job, and job scripts pass it on to who
        may have heard already, so a second one says nothing new. A signal that is ignored, as under nohup, stays so. Python hears signals in its main thread
        alone, so elsewhere nothing changes.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        found = {getattr(signal, name): signal.getsignal(getattr(signal, name)) for name in NAMES}
        before = {number: old for number, old in found.items() if old not in {signal.SIG_IGN, None}}

        def restore() -> None:
            for number, old in before.items():
                signal.signal(number, old)

        def handle(number: int, _: FrameType | None) -> None:
            restore()
            if hasattr(signal, "SIGUSR1"):
                signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            self.ask(signal.Signals(number).name)

        for number in before:
            signal.signal(number, handle)
        try:
            yield
        finally:
            restore()
