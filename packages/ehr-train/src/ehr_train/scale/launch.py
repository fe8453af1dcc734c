"""Several processes, on this machine or as part of several: how they start, and how they end."""

import errno
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore

from ehr_tracking.errors import StoppedError, UserError
from ehr_tracking.files import write_whole
from ehr_train.scale.member import POLL, Notes
from ehr_train.scale.stop import Stop

_PATIENCE = 1800
"""Seconds for which machines wait for the first one, which prepares the data before it starts."""
_LEAVE = 5
"""Seconds within which a process that the agent ends has to be gone."""
_OVER = "over"
"""Key of what ended the run on one machine, for the others."""


@dataclass(frozen=True, slots=True)
class Processes:
    """How the processes of a run hold together, in the words of torchrun."""

    nnodes: int = 1
    """Machines; they see the same files at the same paths."""
    node_rank: int = 0
    """Which one this is; 0 prepares the run, writes its report and seals it."""
    rdzv: str = "localhost:0"
    """HOST:PORT of the first, where there are several."""
    max_restarts: int = 0
    """How often all are started anew after one has died, to go on from the latest checkpoint."""
    timeout: int = 600
    """Seconds for which processes wait for one that says nothing."""

    def agent(self, attempt: int) -> dict[str, Any]:
        """As torch's agent is told where they meet: at a place of the agent's own if there is but one."""
        if self.nnodes == 1:
            return {
                "rdzv_backend": "c10d",
                "rdzv_endpoint": "localhost:0",
                "local_addr": "localhost",
                "run_id": f"ehr-train-{os.getpid()}-{attempt}",
            }
        wait = self.timeout if attempt else _PATIENCE
        return {
            "rdzv_backend": "static",
            "rdzv_endpoint": self.rdzv,
            "rdzv_configs": {"rank": self.node_rank, "timeout": wait},
            "run_id": f"ehr-train-{attempt}",
        }

    def interface(self) -> str | None:
        """That of this machine alone, where all are on it: else gloo asks what the host's name means."""
        local = self.nnodes == 1 or self.rdzv.rpartition(":")[0] in {"localhost", "127.0.0.1"}
        return {"linux": "lo", "darwin": "lo0"}.get(sys.platform) if local else None


TOGETHER = Processes()


class _DiedError(Exception):
    """A process died of what may not happen again."""


def launch(
    module: str,
    spec: Mapping[str, Any],
    nproc: int,
    device: str,
    stop: Stop,
    processes: Processes = TOGETHER,
) -> None:
    """Run `python -m module spec` as `nproc` processes under torchrun's agent and wait for them.

    Where one dies, all are ended, and begun anew as often as `processes` says.

    Args:
        module: Its `__main__` block enters `member` and does the work, from where it was left.
        spec: JSON values, the same for every process.
        nproc: Processes on this machine; the cores are shared out among them.
        device: cpu or cuda.
        stop: Listening; the processes are told, and end by themselves.
        processes: Machines on each of which as many are run, and what happens if one dies.

    Raises:
        UserError: What a process raised as such; or that one died or is silent.
        StoppedError: If all were stopped.
        OSError: If the disk is full.
    """
    # each has a level of its own, so that of their parent says nothing
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    with _Others(processes).told() as others:
        for attempt in count():
            try:
                _attempt([module, json.dumps(spec)], nproc, device, stop, processes, attempt)
            except _DiedError as e:
                if over := others.over():
                    raise UserError(f"another machine ended: {over}") from None
                if attempt == processes.max_restarts or stop.by:
                    raise UserError(f"{e}; go on with --resume") from None
                click.echo(f"{e}; restart {attempt + 1} of {processes.max_restarts}", err=True)
            else:
                return


def _attempt(
    work: list[str], nproc: int, device: str, stop: Stop, processes: Processes, attempt: int
) -> None:
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=processes.nnodes,
        max_nodes=processes.nnodes,
        nproc_per_node=nproc,
        max_restarts=0,
        monitor_interval=POLL,
        shutdown_timeout=_LEAVE,
        signals_to_handle="SIGQUIT",  # the others are ours
        **processes.agent(attempt),
    )
    with TemporaryDirectory(prefix="ehr-train-") as scratch:
        notes = Notes(Path(scratch))
        environment = notes.environment(attempt, processes.timeout)
        environment["OMP_NUM_THREADS"] = str(threads_each(nproc))
        if device == "cpu" and (interface := processes.interface()):
            environment["GLOO_SOCKET_IFNAME"] = interface
        with _environment(environment), stop.heeded(lambda by: write_whole(notes.stop, by)):
            try:
                elastic_launch(config, sys.executable)("-m", *work)
            except ChildFailedError as e:
                raise _explained(e, notes, nproc, processes) from None
            except SignalException as e:
                raise StoppedError(
                    f"stopped by {signal.Signals(e.sigval).name}; go on with --resume"
                ) from None
            except dist.DistError as e:
                raise _DiedError(f"the machines cannot meet at {processes.rdzv}: {e}") from None


def _explained(error: Any, notes: Notes, nproc: int, processes: Processes) -> Exception:  # noqa: ANN401 -- ChildFailedError
    """What ended the processes: the word of one that knew goes before the signs of what others saw."""
    if any(f.exitcode == errno.ENOSPC for f in error.failures.values()):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for stopped in notes.left("stopped").values():
        return StoppedError(stopped)
    for refused in notes.left("refused").values():
        return UserError(refused)
    for rank, what in notes.left("failed").items():
        return _DiedError(f"process {rank} failed with {what}; its traceback is above")
    rank, failure = error.get_first_failure()
    if failure.exitcode == -signal.SIGKILL:
        return _DiedError(
            f"process {rank} was killed, perhaps for want of memory: lower data.micro_tokens then"
        )
    if failure.exitcode < 0:
        name = signal.Signals(-failure.exitcode).name
        return _DiedError(f"process {rank} was ended by {name}; what it said is above")
    lost = notes.left("lost")
    if not lost:
        return _DiedError(f"process {rank} failed with exit code {failure.exitcode}")
    first = processes.node_rank * nproc
    silent = [str(rank) for rank in range(first, first + nproc) if rank not in lost]
    who = f"process {', '.join(silent)}" if silent else "a process of another machine"
    if any("imed out" in said or "timeout" in said for said in lost.values()):
        return _DiedError(f"{who} has said nothing for {processes.timeout} seconds")
    return _DiedError(f"{who} is gone")


class _Others:
    """The other machines: what ends the run on one is said on all."""

    def __init__(self, processes: Processes) -> None:
        """Meet them, where there are any.

        Raises:
            UserError: If they cannot be met.
        """
        self._store: Any = None
        if processes.nnodes == 1:
            return
        host, _, port = processes.rdzv.rpartition(":")
        try:
            # the agents of all attempts use this server
            self._store = TCPStore(
                host,
                int(port),
                is_master=processes.node_rank == 0,
                timeout=timedelta(seconds=_PATIENCE),
                wait_for_workers=False,
                multi_tenant=True,
            )
        except dist.DistError as e:
            raise UserError(f"the machines cannot meet at {processes.rdzv}: {e}") from None

    @contextmanager
    def told(self) -> "Iterator[_Others]":
        """In which an error that goes through is told to them."""
        try:
            yield self
        except (UserError, OSError) as e:
            if self._store is not None and not self.over():
                with suppress(dist.DistError):  # the first machine is gone
                    self._store.set(_OVER, str(e))
            raise

    def over(self) -> str | None:
        """What ended the run on another machine, if something did."""
        with suppress(dist.DistError):
            if self._store is not None and self._store.check([_OVER]):
                return str(self._store.get(_OVER), "utf-8")
        return None


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


def threads_each(nproc: int) -> int:
    """Threads of each process: the cores this process may use, shared out."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) // nproc)
