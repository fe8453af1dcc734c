"""How long a comparison of 200 finished artifacts takes to say that there is nothing to do; and kills.

    PYTHONPATH=. python benchmarks/compare.py              # 200 artifacts
    PYTHONPATH=. python benchmarks/compare.py --kill 3     # killed at random three times, against one that was not
    PYTHONPATH=. python benchmarks/compare.py --kill 3 --config configs/compare/mimic.yaml --meds path

The second makes a comparison twice (a small one, where none is named). All processes of one are killed at once,
as a power cut does, each time after a twentieth to three tenths of what the other took; it goes on to its end,
and every byte of all artifacts is compared, but for what says how long something took.
"""

import argparse
import contextlib
import hashlib
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

from workflow.graph import build
from workflow.loaded import load
from workflow.nodes import PACKAGE

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


TIMES = ("timings.jsonl", "saves.jsonl", "starts.jsonl", "costs.csv", "environment.json")
"""Files that say how long something took, or when it was begun again."""
SHOWN = {"runs": ("SUMMARY.txt", "report.html"), "comparison": ("page.html",)}
"""Stage -> files that show these."""


def write(path: Path, tree: dict[str, Any]) -> Path:
    """The file of a comparison."""
    path.write_text(yaml.safe_dump(tree))
    return path


def start(config: Path, out: Path, meds: Path | None = None) -> "subprocess.Popen[bytes]":
    """The driver; what it says goes to a file beside `out`."""
    line = [sys.executable, "-m", "workflow", str(config), "--out", str(out)]
    line += [] if meds is None else ["--meds", str(meds)]
    with out.with_suffix(".said").open("ab") as said:
        return subprocess.Popen(line, cwd=ROOT, stdout=said, stderr=said)


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


def killed(folder: Path, config: Path, meds: Path | None, times: int, seed: int) -> bool:
    """Kill a comparison at random and let it go on.

    Returns:
        Whether it ended as one that was left alone.
    """
    begun = time.perf_counter()
    assert start(config, folder / "whole", meds).wait() == 0, folder / "whole.said"
    takes, draw = time.perf_counter() - begun, random.Random(seed)
    print(f"left alone: {takes:.0f} s", flush=True)
    for _ in range(times):
        driver = start(config, folder / "killed", meds)
        after = draw.uniform(0.05, 0.3) * takes
        time.sleep(after)
        what = kill_all(psutil.Process(driver.pid))
        driver.wait()
        print(f"killed after {after:.0f} s: {what}", flush=True)
    begun = time.perf_counter()
    assert start(config, folder / "killed", meds).wait() == 0, folder / "killed.said"
    print(f"went on to its end: {time.perf_counter() - begun:.0f} s")
    one, other = bytes_of(folder / "whole"), bytes_of(folder / "killed")
    differ = sorted({name for name, _ in one.items() ^ other.items()})
    print(f"{len(one)} files, {len(differ)} differ", *differ, sep="\n  ")
    return not differ


def kill_all(top: psutil.Process) -> str:
    """Kill a process and all that it started at one stroke; what of ours there was."""
    family: set[psutil.Process] = set()
    while more := {top, *top.children(recursive=True)} - family:
        for process in more:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()  # or it might start another
        family |= more
    said = set()
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            said |= {Path(word).name for word in process.cmdline()[:2] if "/ehr-" in word}
            process.kill()
    return f"{len(family)} processes, {', '.join(sorted(said)) or 'none of our commands'}"


def bytes_of(out: Path) -> dict[str, str]:
    """Hash of every file of every artifact, but of what holds times: itself, or their fingerprint."""
    store = out / "store"
    return {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        for stage in PACKAGE
        for path in sorted((store / stage).rglob("*"))
        if path.is_file()
        and path.name not in (*TIMES, *SHOWN.get(stage, ()))
        and not path.name.endswith(".costs.csv")
        and (path.name != "manifest.json" or stage in ("tokens", "labels", "counts"))
    }


def main() -> None:
    """Run one of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kill", type=int, default=0, help="how often")
    parser.add_argument("--seed", type=int, default=0, help="of when")
    parser.add_argument("--config", type=Path, help="of the comparison that is killed")
    parser.add_argument("--meds", type=Path, help="in place of the data set that it trains on")
    parser.add_argument("--work", type=Path, help="a new folder, which is kept")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = folder.absolute()
        folder.mkdir(parents=True, exist_ok=options.work is None)
        if not options.kill:
            finished(folder)
            return
        config = options.config or write(folder / "c.yaml", comparison(seeds=2))
        if not killed(folder, config, options.meds, options.kill, options.seed):
            sys.exit(1)


if __name__ == "__main__":
    main()
