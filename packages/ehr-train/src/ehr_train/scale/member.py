"""One of several processes: how it joins the others, and what it leaves behind when it fails."""

import errno
import os
import select
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal, Self

import torch
import torch.distributed as dist

from ehr_tracking.errors import StoppedError, UserError, is_disk_full
from ehr_tracking.files import write_whole
from ehr_train.scale.stop import NAMES, Stop

POLL = 0.2
"""Seconds between two looks of the agent at its processes."""
_GRACE = 10 * POLL
"""Seconds before a process ends that failed: when it did only because another has ended, the agent ends it
before it prints what would hide the cause."""
_WORD = 1.0
"""Seconds within which a signal that the launcher got as well is followed by its word."""
_SCRATCH, _LAUNCHER = "EHR_TRAIN_SCRATCH", "EHR_TRAIN_LAUNCHER"
_ATTEMPT, _TIMEOUT = "EHR_TRAIN_ATTEMPT", "EHR_TRAIN_TIMEOUT"

Kind = Literal["stopped", "refused", "failed", "lost"]
"""How a process ends: it was asked to; by a `UserError`, which beginning anew does not mend; by any other error;
because it heard no more of another process."""


@dataclass(frozen=True, slots=True)
class Notes:
    """Files by which the processes of a machine and their launcher tell each other what happened."""

    scratch: Path

    @property
    def stop(self) -> Path:
        """By which signal all shall stop."""
        return self.scratch / "stop"

    def leave(self, kind: Kind, text: str) -> None:
        """Say what ends this process; on a full disk its exit code has to do."""
        with suppress(OSError):
            write_whole(self.scratch / f"{kind}-{os.environ['RANK']}", text)

    def left(self, kind: Kind) -> dict[int, str]:
        """What processes said, by their rank."""
        found = sorted(self.scratch.glob(f"{kind}-*"))
        return {int(p.name.rpartition("-")[2]): p.read_text(encoding="utf-8") for p in found}

    @classmethod
    def here(cls) -> Self:
        """Those of the process that asks."""
        return cls(Path(os.environ[_SCRATCH]))

    def environment(self, attempt: int, timeout: int) -> dict[str, str]:
        """Variables that processes started by this one have to find."""
        return {
            _SCRATCH: str(self.scratch),
            _LAUNCHER: str(os.getpid()),
            _ATTEMPT: str(attempt),
            _TIMEOUT: str(timeout),
        }


@contextmanager
def member(device: str) -> Iterator[Stop]:
    """Be one of the processes that `launch` started: join them, leave them, report what went wrong.

    What is yielded is asked to stop when the launcher is.

    A `UserError` is left for the launcher, which prints it as its own; the process ends with code 2. On a
    full disk nothing can be left but the exit code.
    """
    notes, stop = Notes.here(), Stop()
    _obey(int(os.environ[_LAUNCHER]), notes.stop, stop)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # of each attempt an agent of its own is the first one; torch keeps what was said in others apart by this
    os.environ["TORCHELASTIC_RESTART_COUNT"] = os.environ[_ATTEMPT]
    try:
        dist.init_process_group(
            "nccl" if device == "cuda" else "gloo",
            timeout=timedelta(seconds=int(os.environ[_TIMEOUT])),
        )
        yield stop
    except Exception as e:
        _end(e, notes)
    dist.destroy_process_group()


def _end(error: Exception, notes: Notes) -> None:
    """Leave what the launcher has to know; the others may wait for this process, and the agent ends them."""
    if is_disk_full(error):
        os._exit(errno.ENOSPC)
    if isinstance(error, UserError):
        notes.leave("stopped" if isinstance(error, StoppedError) else "refused", str(error))
        os._exit(2)
    if _is_of_others(error):
        notes.leave("lost", str(error))
        time.sleep(_GRACE)
    else:
        time.sleep(_GRACE)
        traceback.print_exception(error)
        what = traceback.format_exception_only(error)[-1].splitlines()[0]
        notes.leave("failed", what)
    os._exit(1)


def _is_of_others(error: Exception) -> bool:
    """Whether it says that another process is gone or silent."""
    said = str(error)
    return isinstance(error, dist.DistError) or any(
        sign in said for sign in ("gloo/transport", "pair closure")
    )


def attempt() -> int:
    """How often the processes were started anew before."""
    return int(os.environ.get(_ATTEMPT, "0"))


def _obey(launcher: int, stop_file: Path, stop: Stop) -> None:
    """Ask to stop when the launcher says so; end this process when the launcher is gone.

    A signal comes from the agent, which ends those that wait for one that failed, or it was sent to
    the launcher as well: then its word follows, and the process ends by itself. A thread hears of
    signals through a pipe, since the main thread may be waiting where it hears of none.
    """
    heard, told = os.pipe()
    os.set_blocking(told, False)
    for name in NAMES:
        signal.signal(getattr(signal, name), lambda *_: None)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)

    def watch() -> None:
        signalled = 0.0
        while os.getppid() == launcher:
            if select.select([heard], [], [], POLL)[0]:
                os.read(heard, 4096)
                signalled = signalled or time.monotonic()
            if stop_file.is_file():
                stop.by = stop_file.read_text(encoding="utf-8")
                signalled = 0.0
            elif signalled and time.monotonic() - signalled > _WORD:
                os._exit(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
