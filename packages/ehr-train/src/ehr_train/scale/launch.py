"""Several processes, on this machine or as part of several: how they start, and how they end."""

import errno
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist

from ehr_tracking.errors import STOPPED, StoppedError, UserError, is_disk_full
from ehr_tracking.files import write_whole
from ehr_train.scale.stop import NAMES, Stop

_ERROR_FILE = "EHR_TRAIN_ERROR_FILE"
_STOP_FILE = "EHR_TRAIN_STOP_FILE"
_LAUNCHER = "EHR_TRAIN_LAUNCHER"
_POLL = 0.2
"""Seconds between two looks of the agent at its processes."""
_GRACE = 10 * _POLL
"""Seconds before a process raises: when it fails only because another has ended, the agent ends it
before it prints what would hide the cause."""
_WORD = 1.0
"""Seconds within which a signal that the launcher got as well is followed by its word."""
_PATIENCE = 1800
"""Seconds for which machines wait for the first one, which prepares the data before it starts."""


@dataclass(frozen=True, slots=True)
class Nodes:
    """Machines that train one run together; they see the same files at the same paths."""

    count: int = 1
    number: int = 0
    """Which one this is; 0 prepares the run, writes its report and seals it."""
    rendezvous: str = "localhost:0"
    """HOST:PORT of the first, where there are several."""

    def where(self) -> dict[str, Any]:
        """As torch's agent is told where they meet: at a place of the agent's own if there is but one."""
        if self.count == 1:
            return {
                "rdzv_backend": "c10d",
                "rdzv_endpoint": "localhost:0",
                "local_addr": "localhost",
                "run_id": f"ehr-train-{os.getpid()}",
            }
        return {
            "rdzv_backend": "static",
            "rdzv_endpoint": self.rendezvous,
            "rdzv_configs": {"rank": self.number, "timeout": _PATIENCE},
            "run_id": "ehr-train",
        }


ALONE = Nodes()


def launch(
    module: str,
    spec: Mapping[str, Any],
    nproc: int,
    device: str,
    stop: Stop,
    nodes: Nodes = ALONE,
) -> None:
    """Run `python -m module spec` as `nproc` processes under torchrun's agent and wait for them.

    Args:
        module: Its `__main__` block enters `member` and does the work.
        spec: JSON values, the same for every process.
        nproc: Processes on this machine; the cores are shared out among them.
        device: cpu or cuda.
        stop: Listening; the processes are told, and end by themselves.
        nodes: Machines on each of which as many are run.

    Raises:
        UserError: What a process raised as such; or that a process was killed.
        StoppedError: If all were stopped.
        OSError: If the disk is full.
    """
    import logging

    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # each has a level of its own, so that of their parent says nothing
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    with TemporaryDirectory(prefix="ehr-train-") as scratch:
        error_file, stop_file = Path(scratch) / "error", Path(scratch) / "stop"
        environment = {
            _ERROR_FILE: str(error_file),
            _STOP_FILE: str(stop_file),
            _LAUNCHER: str(os.getpid()),
            "OMP_NUM_THREADS": str(threads_each(nproc)),
        }
        if nodes.count == 1 and device == "cpu" and sys.platform == "linux":
            environment["GLOO_SOCKET_IFNAME"] = "lo"  # else gloo asks what the host's name means
        config = LaunchConfig(
            min_nodes=nodes.count,
            max_nodes=nodes.count,
            nproc_per_node=nproc,
            max_restarts=0,
            monitor_interval=_POLL,
            signals_to_handle="SIGQUIT",  # the others are ours
            **nodes.where(),
        )
        with _environment(environment), stop.heeded(lambda by: write_whole(stop_file, by)):
            try:
                elastic_launch(config, sys.executable)("-m", module, json.dumps(spec))
            except ChildFailedError as e:
                if any(f.exitcode == errno.ENOSPC for f in e.failures.values()):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
                stopped = any(f.exitcode == STOPPED for f in e.failures.values())
                raise (StoppedError if stopped else UserError)(_explain(e, error_file)) from None
            except SignalException as e:
                raise StoppedError(
                    f"stopped by {signal.Signals(e.sigval).name}; go on with --resume"
                ) from None


def _explain(error: Any, error_file: Path) -> str:  # noqa: ANN401 -- ChildFailedError
    if error_file.is_file():
        return error_file.read_text(encoding="utf-8")
    process, failure = error.get_first_failure()
    if failure.exitcode == -9:
        return (
            f"process {process} was killed, perhaps for want of memory; "
            "lower data.micro_tokens and go on with --resume"
        )
    return f"process {process} failed with exit code {failure.exitcode}; its traceback is above"


@contextmanager
def _environment(extra: Mapping[str, str]) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in extra}
    os.environ.update(extra)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


@contextmanager
def member(device: str) -> Iterator[Stop]:
    """Be one of the processes that `launch` started: join them, leave them, report what went wrong.

    What is yielded is asked to stop when the launcher is.

    A `UserError` is left in a file for the launcher, which prints it as its own; the process ends
    with code 2, or as one that was stopped. On a full disk nothing can be left but the exit code.
    """
    stop = Stop()
    _obey(int(os.environ[_LAUNCHER]), Path(os.environ[_STOP_FILE]), stop)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield stop
    except Exception as e:
        # the others may wait for this process; the agent ends them
        if is_disk_full(e):
            os._exit(errno.ENOSPC)
        if not isinstance(e, UserError):
            time.sleep(_GRACE)
            raise
        _report(e)
        os._exit(STOPPED if isinstance(e, StoppedError) else 2)
    dist.destroy_process_group()


def _report(error: UserError) -> None:
    path = Path(os.environ[_ERROR_FILE])
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(str(error), encoding="utf-8")
    partial.replace(path)


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
            if select.select([heard], [], [], _POLL)[0]:
                os.read(heard, 4096)
                signalled = signalled or time.monotonic()
            if stop_file.is_file():
                stop.by = stop_file.read_text(encoding="utf-8")
                signalled = 0.0
            elif signalled and time.monotonic() - signalled > _WORD:
                os._exit(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def threads_each(nproc: int) -> int:
    """Threads of each process: the cores this process may use, shared out."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) // nproc)
