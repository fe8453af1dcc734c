"""Faults done to training runs for real, counted: do they end with the bits of a run that was left alone?

    uv run python benchmarks/faults.py [--kills 50] [--seed 0] [--only NAME ...]

A tiny model on made-up records, one thread, a process of its own for every start; moments are drawn at random.
Prints a row of a Markdown table for each fault. Linux only: it limits the files of other processes.
"""

import sys
from pathlib import Path

# this folder holds a tokenize, which is not the standard library's
sys.path.pop(0)

import argparse
import json
import os
import random
import resource
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import cycle
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"  # NumPy and torch read it when they are loaded

import numpy as np

STEPS = 30
SETTINGS = f"""
model.kind=gpt2 model.size=tiny model.hidden=16 model.heads=2 model.intermediate=32 model.dropout=0.1
data.context=32 data.batch_tokens=400 data.micro_tokens=150 precision=fp32
optim.steps={STEPS} optim.lr=0.003 validation.every=10 checkpoint.every=2
""".split()
_ROOM = 4096
"""Bytes to which a file can grow on a full disk: what the command says still fits, no weights do."""
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

    def start(self) -> ForkServerProcess:
        """Begin or go on."""
        self.process = get_context("forkserver").Process(
            target=command, args=(self.arguments, str(self.log), self.poisoned)
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


def command(arguments: list[str], log: str, poisoned: int | None) -> None:
    """`ehr-train` in a process of its own, which writes what it says into a file."""
    if poisoned is not None:
        poison(poisoned)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    from ehr_train.cli import main

    main(arguments)


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


class Faults:
    """One fault a method: what was done how often, what was seen, and how many ended with the same bits."""

    def __init__(self, scratch: Path, seed: int, kills: int) -> None:
        """Make the data, and a run that is left alone."""
        self.scratch, self.kills = scratch, kills
        self.random = random.Random(seed)
        self.tokens = write_tokens(scratch / "tokens", seed=0)
        self.number = 0
        self.whole, self.seconds = self.undisturbed()

    def run(self, *more: str) -> Run:
        """A new one."""
        self.number += 1
        return Run(self.tokens, self.scratch / f"run-{self.number}", *more)

    def undisturbed(self, *more: str) -> tuple[dict[str, str], float]:
        """What comes out of a run that is left alone, and its seconds."""
        run, began = self.run(*more), time.monotonic()
        ended = run.finish()
        assert ended.code == 0, ended
        return run.outcome(), time.monotonic() - began

    def stopped(self, step: int) -> Run:
        """A run that was told to stop behind a step."""
        run = self.run()
        process = run.start()
        assert run.wait(step)
        assert process.pid
        os.kill(process.pid, signal.SIGTERM)
        assert run.ended().code == 75
        return run

    def same(self, run: Run) -> bool:
        """Whether a run goes on to the end of one that was left alone."""
        ended = run.finish()
        assert ended.code == 0, ended
        return run.outcome() == self.whole

    def killed(self) -> "Row":
        """SIGKILL: half of the time at any moment of a life, else while a checkpoint is written."""
        phases: Counter[str] = Counter()
        runs = same = 0
        while phases.total() < self.kills:
            run = self.run()
            while phases.total() < self.kills:
                process = run.start()
                if phases.total() % 2:
                    run.wait(run.steps() + self.random.randrange(18), saving=True)
                    time.sleep(self.random.random() * 0.02)
                else:
                    time.sleep(self.random.random() * self.seconds)
                process.kill()
                if run.ended().code == 0:
                    break
                phases[run.phase()] += 1
            runs += 1
            same += self.same(run)
        seen = ", ".join(f"{n} {phase}" for phase, n in phases.most_common())
        return Row(f"SIGKILL at {phases.total()} random moments of {runs} runs", seen, same, runs)

    def disk_full(self) -> "Row":
        """No file can grow much any more, from the moment on at which a checkpoint is begun."""
        times = same = 0
        said: Counter[str] = Counter()
        for step in (1, 9, 21):
            run = self.run()
            process = run.start()
            assert run.wait(step, saving=True)
            assert process.pid
            _, most = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (_ROOM, most))
            ended = run.ended()
            said[f"exit code {ended.code}, `{ended.said[:24]}`"] += 1
            times += 1
            same += self.same(run)
        return Row("The disk fills while a checkpoint is saved", _counted(said), same, times)

    def corrupted(self) -> "Row":
        """Each file of the latest checkpoint is cut in half, changed in one byte, or removed."""
        begun, times, same = self.stopped(15), 0, 0
        said: Counter[str] = Counter()
        for name, harm in harms(begun.out):
            run = self.run()
            shutil.copytree(begun.out, run.out)
            harm(latest(run.out) / name)
            same += self.same(run)
            times += 1
            passed = [s for s in run.log.read_text().splitlines() if s.startswith("going on from")]
            said["the one before taken, and said so" if passed else "nothing said"] += 1
        return Row("A file of the latest checkpoint is damaged", _counted(said), same, times)

    def dead_rank(self) -> "Row":
        """SIGKILL to one of two processes."""
        two, _ = self.undisturbed("--nproc", "2")
        times = same = 0
        seconds, said = [], Counter[str]()
        for victim in (0, 1):
            run = self.run("--nproc", "2")
            process = run.start()
            assert run.wait(12)
            assert process.pid
            os.kill(workers(process.pid)[victim], signal.SIGKILL)
            began = time.monotonic()
            ended = run.ended()
            seconds.append(time.monotonic() - began)
            said[f"exit code {ended.code}, `{ended.said.partition(',')[0]}`"] += 1
            times += 1
            assert run.finish().code == 0
            same += run.outcome() == two
        seen = f"{_counted(said)}; ended within {max(seconds):.1f} s"
        return Row("One of two processes dies (SIGKILL)", seen, same, times)

    def not_a_number(self) -> "Row":
        """A batch has a loss and a gradient of NaN; the run is killed behind it and goes on."""
        from ehr_tracking.runs import read_log

        alone, run = self.run(), self.run()
        alone.poisoned = run.poisoned = 7
        assert alone.finish().code == 0
        process = run.start()
        assert run.wait(12)
        process.kill()
        run.ended()
        assert run.finish().code == 0
        same = run.outcome() == alone.outcome()
        skipped = read_log(run.out / "metrics.jsonl")[-1].get("skipped")
        seen = f"passed over and counted (`skipped: {skipped}`); killed behind it and gone on with"
        return Row("A batch gives NaN", seen, int(same), 1)

    def data_changed(self) -> "Row":
        """Another data set lies where that was which a run was begun with."""
        run, aside = self.stopped(9), self.scratch / "aside"
        self.tokens.rename(aside)
        write_tokens(self.tokens, seed=1)
        ended = run.finish()
        shutil.rmtree(self.tokens)
        aside.rename(self.tokens)
        seen = f"refused, exit code {ended.code}: `{ended.said.partition('otherwise: ')[2][:20]}`"
        return Row("The data set is another one when it goes on", seen, int(self.same(run)), 1)

    def signalled(self, name: str) -> "Row":
        """A signal at random moments of the steps."""
        times = same = 0
        said: Counter[str] = Counter()
        for _ in range(3):
            run = self.run()
            process = run.start()
            assert run.wait(1 + self.random.randrange(20))
            time.sleep(self.random.random() * 0.03)
            assert process.pid
            os.kill(process.pid, getattr(signal, name))
            ended = run.ended()
            said[f"exit code {ended.code}"] += 1
            assert f"stopped by {name} after step {run.steps()} of" in ended.said, ended
            times += 1
            same += self.same(run)
        seen = f"{_counted(said)}; the step was ended and saved"
        return Row(f"{name} in the middle of a step", seen, same, times)

    def rows(self, only: list[str]) -> Iterator["Row"]:
        """All of them, or some by the names of their methods."""
        signals = {name: lambda name=name: self.signalled(name) for name in ("SIGTERM", "SIGUSR1")}
        every: dict[str, Callable[[], Row]] = {
            "killed": self.killed,
            "disk_full": self.disk_full,
            "corrupted": self.corrupted,
            "dead_rank": self.dead_rank,
            "not_a_number": self.not_a_number,
            "data_changed": self.data_changed,
            **signals,
        }
        for name in only or every:
            yield every[name]()


class Row(NamedTuple):
    """Of the table."""

    fault: str
    seen: str
    same: int
    times: int

    def __str__(self) -> str:
        return f"| {self.fault} | {self.seen} | {self.same} of {self.times} |"


def _counted(said: "Counter[str]") -> str:
    return ", ".join(f"{n} x {what}" for what, n in said.most_common())


def latest(run: Path) -> Path:
    """The checkpoint that a run would go on from."""
    from ehr_tracking.checkpoints import CheckpointStore

    found = CheckpointStore(run / "checkpoints").latest()
    assert found is not None
    return found


def harms(run: Path) -> Iterator[tuple[Path, Callable[[Path], object]]]:
    """Every file of the latest checkpoint, relative to it, and in turn one of three things that can happen to it."""

    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    checkpoint = latest(run)
    files = sorted(p for p in checkpoint.rglob("*") if p.is_file())
    for path, harm in zip(files, cycle((cut, flip, Path.unlink)), strict=False):
        yield path.relative_to(checkpoint), harm


def workers(launcher: int) -> list[int]:
    """The processes that train, among the children of the one that started them."""
    found = []
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        with suppress(FileNotFoundError):
            if "ehr_train.worker" in Path(f"/proc/{child}/cmdline").read_text():
                found.append(int(child))
    return found


def write_tokens(directory: Path, seed: int) -> Path:
    """A sealed token data set of 80 records: codes that follow each other in a noisy cycle."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ehr_tracking.contracts import BOS_ID, SPECIALS, TOKENS
    from ehr_tracking.manifest import seal

    rng = np.random.default_rng(seed)
    codes, special = 57, len(SPECIALS)
    names = [*SPECIALS, *(f"C{i}" for i in range(codes))]
    directory.mkdir()
    words = pa.table({"id": pa.array(range(len(names)), pa.int32()), "token": names})
    pq.write_table(words, directory / "vocab.parquet")
    (directory / "tokenizer.json").write_text("{}")
    for split, first, n in (("train", 1000, 64), ("tuning", 2000, 16)):
        (directory / split).mkdir()
        lengths = rng.integers(3, 60, n)
        starts = rng.integers(codes, size=n)
        token = [
            [BOS_ID, *((s + np.arange(k)) % codes + special)]
            for s, k in zip(starts, lengths, strict=True)
        ]
        days = [[None, *(np.arange(k) * 86_400_000_000)] for k in lengths]
        lists = {
            "token": pa.array(token, pa.list_(pa.uint16())),
            "time": pa.array(days, pa.list_(pa.int64())).cast(pa.list_(pa.timestamp("us"))),
            "age": pa.array([[0.0] * (k + 1) for k in lengths], pa.list_(pa.float32())),
            "visit": pa.array([[0] * (k + 1) for k in lengths], pa.list_(pa.uint16())),
        }
        subject = pa.array(range(first, first + n), pa.int64())
        pq.write_table(pa.table({"subject_id": subject, **lists}), directory / split / "0.parquet")
    seal(directory, TOKENS, producer="benchmark", config={})
    return directory


def main() -> None:
    """Do all of it, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="SIGKILLs in all (50).")
    parser.add_argument("--only", nargs="*", default=[], help="Some faults, by name.")
    parser.add_argument("--seed", type=int, default=0, help="Of the moments.")
    args = parser.parse_args()
    get_context("forkserver").set_forkserver_preload(
        ["ehr_train.worker", "ehr_train.run", "ehr_train.cli", "matplotlib.pyplot"]
    )
    began = time.monotonic()
    # in memory: a process that is killed loses nothing that it wrote there either, and to sync costs nothing
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        faults = Faults(Path(folder), args.seed, args.kills)
        rows = []
        for row in faults.rows(args.only):
            print(row, flush=True)
            rows.append(row)
    whole = all(row.same == row.times for row in rows)
    print(
        json.dumps(
            {"benchmark": "faults", "same": whole, "seconds": round(time.monotonic() - began)}
        )
    )
    sys.exit(not whole)


if __name__ == "__main__":
    main()
