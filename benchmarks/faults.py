"""Faults done to training runs for real, counted: do they end with the bits of a run that was left alone?

    uv run python benchmarks/faults.py [--kills 50] [--seed 0] [--only NAME ...]

A tiny model on made-up records, one thread, a process of its own for every start, forked with its libraries loaded;
moments are drawn at random. Prints a row of a Markdown table for each fault. Linux only: it limits the files of
other processes, and has the kernel kill one when it has used so much of a processor.
"""

import sys
from pathlib import Path

# this folder holds a tokenize, which is not the standard library's
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parent / "training"))

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
from typing import NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"  # NumPy and torch read it when they are loaded

import numpy as np
from victim import EVERY, STEPS, Run

_ROOM = 4096
"""Bytes to which a file can grow on a full disk: what the command says still fits, no weights do."""


class Faults:
    """One fault a method: what was done how often, what was seen, and how many ended with the same bits."""

    def __init__(self, scratch: Path, seed: int, kills: int) -> None:
        """Make the data, and a run that is left alone."""
        self.scratch, self.kills = scratch, kills
        self.random = random.Random(seed)
        self.tokens = write_tokens(scratch / "tokens", seed=0)
        self.number = 0
        self.whole, self.took = self.undisturbed()
        """What comes out of it; seconds of a processor until it is trained, and most of a checkpoint."""

    def run(self, *more: str) -> Run:
        """A new one."""
        self.number += 1
        return Run(self.tokens, self.scratch / f"run-{self.number}", *more)

    def undisturbed(self, *more: str) -> tuple[dict[str, str], dict[str, float]]:
        """What comes out of a run that is left alone, and what of a processor it took."""
        run = self.run(*more)
        ended = run.finish()
        assert ended.code == 0, ended
        noted = run.log.with_suffix(".json")
        return run.outcome(), json.loads(noted.read_text()) if noted.exists() else {}

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
        """SIGKILL, again and again until a run ends: at any moment of its training, in turns with any of a checkpoint."""
        phases: Counter[str] = Counter()
        runs = same = 0
        while phases.total() < self.kills:
            run = self.run()
            while phases.total() < self.kills:
                share = self.random.random()
                if phases.total() % 2:
                    left = max(1, (STEPS - run.steps()) // EVERY)
                    save = 1 + self.random.randrange(left)
                    run.start(killed=share * self.took["save"], save=save)
                else:
                    run.start(killed=share * self.took["trained"])
                ended = run.ended()
                if ended.code == 0:
                    break
                assert ended.code == -signal.SIGKILL, ended
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
