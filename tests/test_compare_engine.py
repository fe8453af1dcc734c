"""The engine over small graphs: what fails is told while the rest is made, and parts become jobs of Slurm."""

import os
import signal
import sys
from pathlib import Path

import pytest

from workflow import engine
from workflow.config import CompareConfig, DataConfig, ModelSpec, Resources, Settings
from workflow.estimate import Estimate
from workflow.nodes import Node
from workflow.progress import Progress

MAKE = "mkdir -p {out} && echo > {out}/manifest.json"
STAND_IN = """#!/bin/sh
# Slurm of one machine that starts each job at once; a job's number is that of a process.
jobs=$(dirname "$0")/jobs
case $(basename "$0") in
sbatch)
  for word; do echo "$word"; done > "$jobs/$$.words"
  (if SLURM_JOB_ID=$$ sh -c "${word#--wrap=}"; then echo COMPLETED; else echo FAILED; fi > "$jobs/$$.new" 2> "$jobs/$$.log"
   mv "$jobs/$$.new" "$jobs/$$.state") > /dev/null 2>&1 < /dev/null &
  echo $$ ;;
srun)
  while [ "${1#-}" != "$1" ]; do shift; done
  exec "$@" ;;
sacct)
  case "$*" in
  *Account*) echo none ;;
  *State*)
    for words in "$jobs"/*.words; do
      job=${words%.words}
      echo "${job##*/}|$(tail -n 1 "$job.state" 2> /dev/null || echo RUNNING)"
    done ;;
  esac ;;
sinfo) printf 'PARTITION\\nbatch*\\n' ;;
scontrol) printf 'MaxArraySize = 1001\\nMinJobAge = 300 sec\\n' ;;
esac
"""


def node(stage: str, script: str, *inputs: str, name: str = "a") -> Node:
    words = ("sh", "-c", script)
    return Node(stage=stage, name=name, key="0" * 64, words=words, inputs=inputs, shown=stage)


def config(**resources: Resources) -> CompareConfig:
    return CompareConfig(
        data={"a": DataConfig(meds=Path("a"))},
        schemes={"a": Settings()},
        models={"a": ModelSpec(scheme="a", recipe=Path("a"))},
        resources=resources,
    )


class Told(Progress):
    """Leaves a file where a part has failed, for another part to see."""

    def failed(self, one: str) -> None:
        super().failed(one)
        (self.store / "told").touch()


def run(nodes: list[Node], out: Path, settings: CompareConfig, *more: str, slurm=False) -> Progress:
    graph = {one.id: one for one in nodes}
    store = out / "store"
    store.mkdir()
    thought = dict.fromkeys(graph, Estimate(1, 100, "a guess"))
    plan = out / "plan.json"
    commands = engine.write_plan(plan, store, graph, graph, settings, thought, cores=2)
    progress = Told(graph, thought, commands, store, 2)
    line = engine.command(out, plan, cores=2, slurm=slurm, more=more)
    engine.run(line, out / "engine.log", graph, store, progress)
    return progress


@pytest.fixture(autouse=True)
def in_bounded_time():
    """An engine that hangs is stopped."""

    def late(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(300)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.slow
def test_what_fails_is_told_while_the_rest_is_made_on_no_more_cores(tmp_path, capsys) -> None:
    first = node("predictions", MAKE)  # on both cores, as the only one that is ready
    fails = node("runs", "echo 'Error: no room'; exit 2", first.id)
    needs = node("features", MAKE, fails.id)
    sees = "for i in $(seq 600); do test -f {out}/../../told && break; sleep .1; done"
    waits = node("labels", f"{sees}; test -f {{out}}/../../told && {MAKE}", first.id)
    lock = "{out}/../../lock"
    alone = [
        node("results", f"mkdir {lock} && sleep .5 && rmdir {lock} && {MAKE}", waits.id, name=name)
        for name in ("a", "b")
    ]  # each on both cores: neither while the other runs
    progress = run([first, fails, needs, waits, *alone], tmp_path, config())
    assert list(progress.failures) == [fails.id]
    for made in (waits, *alone):  # the first of which only is where the failure was told before
        assert made.is_done(tmp_path / "store")
    told = capsys.readouterr()
    assert told.err.startswith("runs failed: no room (")
    assert told.out.count("$ sh -c ") == 5
    assert "about 0 s left" in told.out  # nothing is left: features need what failed


@pytest.mark.slow
def test_parts_are_jobs_of_slurm_with_what_they_may_take(tmp_path, monkeypatch, capsys) -> None:
    jobs = tmp_path / "bin/jobs"
    jobs.mkdir(parents=True)
    for name in ("sbatch", "srun", "sacct", "sinfo", "scontrol", "squeue", "scancel"):
        (jobs.parent / name).write_text(STAND_IN)
        (jobs.parent / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{jobs.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    makes = node("labels", MAKE)
    fails = node("runs", "echo 'Error: no room'; exit 2", makes.id)
    settings = config(
        labels=Resources(threads=2, mem_mb=123, minutes=7), runs=Resources(gpus=1, mem_mb=456)
    )
    (out := tmp_path / "o").mkdir()
    soon = "--slurm-init-seconds-before-status-checks=1"
    progress = run([makes, fails], out, settings, soon, slurm=True)
    assert makes.is_done(out / "store")
    assert list(progress.failures) == [fails.id]
    assert "runs failed: no room (" in capsys.readouterr().err
    asked = [path.read_text().split() for path in jobs.glob("*.words")]
    first, second = sorted(asked, key=lambda words: "456" in words)
    assert {"--mem", "123", "-t", "7", "--cpus-per-task=2", "batch"} < {*first}
    assert {"--mem", "456", "-t", "60", "--cpus-per-task=1", "--gpus=1"} < {*second}
