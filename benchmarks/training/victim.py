"""A run that faults are done to: a process of its own for every start, forked with its libraries loaded.

Linux only: the kernel kills one when it has used so much of a processor.
"""

import ctypes
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NamedTuple

STEPS, EVERY = 30, 2
SETTINGS = f"""
model.kind=gpt2 model.size=tiny model.hidden=16 model.heads=2 model.intermediate=32 model.dropout=0.1
data.context=32 data.batch_tokens=400 data.micro_tokens=150 precision=fp32
optim.steps={STEPS} optim.lr=0.003 validation.every=10 checkpoint.every={EVERY}
""".split()
_POLL = 0.0005


class Ended(NamedTuple):
    """How a process ended."""

    code: int
    said: str


class Run:
    """A run directory, and the processes that are started on it one after the other."""

    def __init__(self, tokens: Path, out: Path, *more: str) -> None:
        """Start nothing yet.

        Args:
            tokens: What to train on.
            out: The run directory.
            more: Further options.
        """
        self.out, self.log = out, out.with_suffix(".log")
        settings = [part for setting in SETTINGS for part in ("-s", setting)]
        self.arguments = ["--tokens", str(tokens), "--out", str(out), "--device", "cpu"]
        self.arguments += ["--resume", *settings, *more]
        self.poisoned: int | None = None
        """A step whose loss and gradient are made NaN."""
        self.process: ForkServerProcess | None = None

    def start(self, killed: float | None = None, *, save: int = 0) -> ForkServerProcess:
        """Begin or go on.

        Args:
            killed: Seconds of a processor after which the kernel kills it.
            save: Which checkpoint of this process they are counted from, from 1; 0: from its start.
        """
        self.process = get_context("forkserver").Process(
            target=command, args=(self.arguments, self.log, self.poisoned, killed, save)
        )
        self.process.start()
        return self.process

    def ended(self) -> Ended:
        """Wait for the end of the process."""
        assert self.process is not None
        self.process.join()
        assert self.process.exitcode is not None
        said = self.log.read_text() if self.log.exists() else ""
        return Ended(self.process.exitcode, said.strip().rpartition("\n")[2])

    def finish(self) -> Ended:
        """Go on to the end, undisturbed."""
        self.start()
        return self.ended()

    def steps(self) -> int:
        """That are logged."""
        log = self.out / "metrics.jsonl"
        return log.read_bytes().count(b"\n") if log.exists() else 0

    def wait(self, steps: int, *, saving: bool = False) -> bool:
        """Until so many steps are logged, and a checkpoint is being written; False if it ends before."""
        assert self.process is not None
        while self.process.is_alive():
            if self.steps() >= steps and (self.saving() or not saving):
                return True
            time.sleep(_POLL)
        return False

    def saving(self) -> bool:
        """Whether a checkpoint is half written."""
        return any((self.out / "checkpoints").glob(".*.partial"))

    def phase(self) -> str:
        """Where a run stands that was killed."""
        if not (self.out / "config.yaml").exists():
            return "before the start"
        if self.saving():
            return "while saving"
        if not self.steps():
            return "before the first step"
        return "behind the last step" if self.steps() == STEPS else "between or in steps"

    def outcome(self) -> dict[str, str]:
        """Hashes of all that is reproducible: every file of the latest and of the best checkpoint, the log."""
        from ehr_tracking.checkpoints import CheckpointStore
        from ehr_tracking.manifest import sha256, verify

        store = CheckpointStore(self.out / "checkpoints")
        latest, best = store.latest(), store.best()
        assert latest is not None
        assert best is not None
        assert verify(self.out) == []
        named = {"latest": latest / "manifest.json", "best": best / "manifest.json"}
        return {name: sha256(p) for name, p in named.items()} | {
            "log": sha256(self.out / "metrics.jsonl")
        }


def command(
    arguments: list[str], log: Path, poisoned: int | None, killed: float | None, save: int
) -> None:
    """`ehr-train` in a process of its own, which writes what it says into a file, and what it used beside it."""
    watch_saves(log.with_suffix(".json"), killed, save)
    if killed is not None and not save:
        kill_after(killed)
    if poisoned is not None:
        poison(poisoned)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    from ehr_train.cli import main

    main(arguments)


def watch_saves(log: Path, killed: float | None, number: int) -> None:
    """Note what checkpoints take of a processor, and have this process killed from the begin of one of them on."""
    from ehr_tracking.checkpoints import CheckpointStore

    save, took = CheckpointStore.save, [0.0]

    @contextmanager
    def watched(self: CheckpointStore, *step: Any, **score: Any) -> Iterator[Path]:  # noqa: ANN401 -- as it is
        began = time.process_time()
        if killed is not None and number == len(took):
            kill_after(killed)
        with save(self, *step, **score) as directory:
            yield directory
        took.append(time.process_time() - began)
        log.write_text(json.dumps({"trained": time.process_time(), "save": max(took)}))

    CheckpointStore.save = watched  # type: ignore[method-assign]


def kill_after(seconds: float) -> None:
    """Have the kernel send SIGKILL to this process when it has used so many seconds of a processor.

    However busy the machine is, moments that are drawn so lie evenly over what a process does.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    event = (ctypes.c_int * 16)()  # struct sigevent: a value of 8 bytes, the signal, how it is told
    event[2], event[3] = signal.SIGKILL, 0
    timer = ctypes.c_void_p()
    when = (ctypes.c_long * 4)(0, 0, int(seconds), int(seconds % 1 * 1e9) + 1)
    clock = ctypes.c_int(time.CLOCK_PROCESS_CPUTIME_ID)
    if libc.timer_create(clock, ctypes.byref(event), ctypes.byref(timer)) or libc.timer_settime(
        timer, 0, ctypes.byref(when), None
    ):
        raise OSError(ctypes.get_errno(), "no timer")


def poison(number: int) -> None:
    """Have one step of this process come to a loss and a gradient of NaN."""
    from ehr_train.step import Stepper, Summed

    step, backward, now = Stepper.step, Stepper._backward, 0

    def stepped(self: Stepper, n: int, *rest: Any) -> Any:  # noqa: ANN401 -- as it is
        nonlocal now
        now = n
        return step(self, n, *rest)

    def spoilt(self: Stepper, questions: list[Any]) -> Summed:
        summed = backward(self, questions)
        if now != number:
            return summed
        for parameter in self.learner.model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(float("nan"))
        return summed._replace(means=summed.means * float("nan"))

    Stepper.step, Stepper._backward = stepped, spoilt  # type: ignore[method-assign]
