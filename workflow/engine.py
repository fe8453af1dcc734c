"""One run of Snakemake over what is to be made, with progress over the whole graph."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from ehr_tracking.errors import UserError
from ehr_tracking.files import write_whole
from workflow.config import CompareConfig
from workflow.estimate import Estimate
from workflow.follow import Follower
from workflow.graph import Graph
from workflow.progress import Progress

HERE = Path(__file__).parent
_SHARED_OUT = ("meds", "predictions", "results")
"""Stages whose command shares its work out, while little else can run."""
_LOOK = 0.5
"""Seconds between two looks at what is there."""
_END = 30.0
"""Seconds that commands have to save what they can, once they are asked to stop."""


def write_plan(
    path: Path,
    store: Path,
    graph: Graph,
    make: Graph,
    config: CompareConfig,
    estimates: Mapping[str, Estimate],
    *,
    cores: int,
) -> dict[str, str]:
    """Write what Snakemake reads, and the config of each command.

    Args:
        path: Of the plan.
        store: Where artifacts lie.
        graph: All of them.
        make: Those that are to be made.
        config: Says what a job of a stage may take.
        estimates: Of each that is to be made.
        cores: Most that one may take.

    Returns:
        The command of each that is to be made.
    """
    jobs, commands = {}, {}
    for one, node in make.items():
        if node.config:
            file = node.beside(store, "configs")
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, yaml.safe_dump(dict(node.config), sort_keys=False))
        node.beside(store, "logs").parent.mkdir(parents=True, exist_ok=True)
        most, guess = config.of(node.stage), estimates[one]
        own = cores if node.stage in _SHARED_OUT else node.processes
        threads = min(cores, most.threads or own)
        commands[one] = node.command(store, threads=threads, gpus=most.gpus)
        jobs[one] = {
            "inputs": [str(graph[i].output(store)) for i in node.inputs],
            "command": node.shell(store, path, commands[one]),
            "threads": threads,
            "gpus": most.gpus,
            "mem_mb": most.mem_mb or round(2 * guess.memory_mb),
            "minutes": most.minutes or max(60, round(3 * guess.seconds / 60)),
        }
    used = {i for node in make.values() for i in node.inputs}
    tree = {
        "store": str(store),
        "targets": [str(node.output(store)) for one, node in make.items() if one not in used],
        "make": jobs,
        "every": {
            one: {"stage": n.stage, "name": n.name, "costs": str(n.beside(store, "costs"))}
            for one, n in graph.items()
        },
    }
    write_whole(path, json.dumps(tree, indent=1) + "\n")
    return commands


def command(out: Path, plan: Path, *, cores: int, slurm: bool, more: Sequence[str]) -> list[str]:
    """How Snakemake is called.

    File times, code and its own records say nothing: what is in the plan is to be made, what is not is there.
    """
    try:
        import snakemake  # noqa: F401
    except ImportError:
        raise UserError("Snakemake is missing: uv sync --group compare") from None
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 10**6
    where = (
        ["--executor", "slurm", "--jobs", str(cores)]
        if slurm
        else ["--cores", str(cores), "--resources", f"mem_mb={memory}", "gpu=1"]
    )
    return [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(HERE / "Snakefile")),
        *("--configfile", str(plan), "--directory", str(out), *where),
        *("--nolock", "--ignore-incomplete", "--keep-going", "--drop-metadata"),
        *("--rerun-triggers", "input", "--latency-wait", "60" if slurm else "5"),
        *("--scheduler", "greedy", "--nocolor", *more),
    ]


def run(line: Sequence[str], log: Path, make: Graph, store: Path, progress: Progress) -> None:
    """Run Snakemake to its end.

    Args:
        line: From `command`.
        log: For what it says.
        make: What is to be made.
        store: Where.
        progress: Is told what began, was made or failed.

    Raises:
        KeyboardInterrupt: Once all that ran was asked to stop, and has.
    """
    path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    bin_ = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    follower = Follower(log, {str(node.output(store)): one for one, node in make.items()})
    with log.open("ab") as file:
        engine = subprocess.Popen(
            line, stdout=file, stderr=file, start_new_session=True,
            env={**os.environ, "PYTHONPATH": path, "PATH": bin_},
        )  # fmt: skip
    left = dict(make)
    try:
        while True:
            ended = engine.poll() is not None
            for event, one in follower.news():
                (progress.failed if event == "failed" else progress.begun)(one)
            for one in [one for one, node in left.items() if node.is_done(store)]:
                del left[one]
                progress.made(one)
            if ended:
                return
            time.sleep(_LOOK)
    except BaseException:
        _stop(engine)
        raise


def _stop(engine: "subprocess.Popen[bytes]") -> None:
    for sent in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(engine.pid, sent)
        except ProcessLookupError:
            return
        try:
            engine.wait(_END)
        except subprocess.TimeoutExpired:
            continue
