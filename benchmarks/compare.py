"""How long a comparison of 200 finished artifacts takes to say that there is nothing to do; and kills.

    PYTHONPATH=. python benchmarks/compare.py              # 200 artifacts
    PYTHONPATH=. python benchmarks/compare.py --kill 3     # killed at random three times, against one that was not

The second makes a small comparison twice, whole process groups killed as a power cut does, and compares every
byte of results and tables.
"""

import argparse
import hashlib
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from workflow.graph import build
from workflow.loaded import load

ROOT = Path(__file__).parents[1]
SMALL = {
    **{"model.hidden": 16, "model.layers": 1, "model.heads": 2, "model.intermediate": 16},
    **{"data.context": 32, "data.batch_tokens": 256, "data.micro_tokens": 256},
    "optim.steps": 20,
}


def comparison(seeds: int, models: int = 2) -> dict[str, Any]:
    """A small one."""
    recipes = ("behrt-mlm", "gpt2-clm")
    return {
        "data": {"cohort": {"synth": {"set": {"num_patients": 150}}}},
        "schemes": {"joint": {}},
        "models": {
            f"m{i}": {
                "scheme": "joint",
                "recipe": str(ROOT / f"configs/train/{recipes[i % 2]}.yaml"),
                "set": SMALL,
                "seeds": list(range(seeds)),
            }
            for i in range(models)
        },
        "labels": {"set": {"tasks": ["long_stay"], "rows_per_subject": 2}},
        "evaluate": {
            "set": {
                **{"ks": [1, -1], "replicates": 1, "replicates_all": 1, "bootstraps": 10},
                **{"max_k": 4, "heads": {"lr": {"kind": "lr", "c": [1.0]}}},
            }
        },
    }


def write(path: Path, tree: dict[str, Any]) -> Path:
    """The file of a comparison."""
    path.write_text(yaml.safe_dump(tree))
    return path


def start(config: Path, out: Path) -> "subprocess.Popen[bytes]":
    """The driver in a process group of its own."""
    line = [sys.executable, "-m", "workflow", str(config), "--out", str(out), "--cores", "2"]
    return subprocess.Popen(line, cwd=ROOT, start_new_session=True)


def finished(folder: Path) -> None:
    """Time to know that of 200 artifacts all are there."""
    config = write(folder / "c.yaml", comparison(seeds=24, models=4))
    graph = build(load(config), {})
    for node in graph.values():
        proof = node.proof(folder / "o/store")
        proof.parent.mkdir(parents=True)
        proof.touch()
    begun, before = time.perf_counter(), cpu()
    assert start(config, folder / "o").wait() == 0
    took = time.perf_counter() - begun
    print(f"{len(graph)} artifacts: {took:.1f} s, {cpu() - before:.1f} s of a core")


def cpu() -> float:
    """Seconds that processes which this one has waited for computed."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def killed(folder: Path, times: int, seed: int) -> None:
    """Kill a comparison at random and let it go on; compare it with one that was left alone."""
    config = write(folder / "c.yaml", comparison(seeds=2))
    begun = time.perf_counter()
    assert start(config, folder / "whole").wait() == 0
    takes, draw = time.perf_counter() - begun, random.Random(seed)
    for _ in range(times):
        driver = start(config, folder / "killed")
        time.sleep(draw.uniform(0.1, 0.7) * takes)
        kill_all(driver.pid)
        driver.wait()
        print("killed", flush=True)
    assert start(config, folder / "killed").wait() == 0
    one, other = bytes_of(folder / "whole"), bytes_of(folder / "killed")
    print("the same bytes" if one == other else f"DIFFER: {sorted(one.items() ^ other.items())}")
    sys.exit(one != other)


def kill_all(pid: int) -> None:
    """A process and all that it started, at one stroke."""
    import psutil

    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    for process in family:
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def bytes_of(out: Path) -> dict[str, str]:
    """Hash of every file of results and tables, but those that say how long something took."""
    varies = ("timings.jsonl", "costs.csv", "manifest.json", "page.html", "environment.json")
    return {
        str(path.relative_to(out / "store")): hashlib.sha256(path.read_bytes()).hexdigest()
        for stage in ("results", "features", "counts", "labels", "tokens", "comparison", "audit")
        for path in sorted((out / "store" / stage).rglob("*"))
        if path.is_file() and path.name not in varies and not path.name.endswith("costs.csv")
    }


def main() -> None:
    """Run one of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kill", type=int, default=0, help="how often")
    parser.add_argument("--seed", type=int, default=0, help="of when")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.kill:
            killed(Path(folder), options.kill, options.seed)
        finished(Path(folder))


if __name__ == "__main__":
    main()
