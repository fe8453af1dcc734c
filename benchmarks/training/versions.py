"""This version beside another: the same runs of both, in turns, so that a busy machine hits both."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parents[2]
MODELS = {
    "gpt2": ["model.kind=gpt2", "objective.kind=clm"],
    "behrt": ["model.kind=behrt", "objective.kind=mlm"],
}


@contextmanager
def checkout(against: str, scratch: Path) -> Iterator[Path]:
    """The root of the other version: a directory as it is, or a commit in a worktree of its own."""
    if (Path(against) / "packages").is_dir():
        yield Path(against).resolve()
        return
    root = scratch / "against"
    git = ["git", "-C", str(HERE), "worktree"]
    subprocess.run([*git, "add", "--detach", str(root), against], check=True, stdout=sys.stderr)
    try:
        yield root
    finally:
        subprocess.run([*git, "remove", "--force", str(root)], check=True)


def run(root: Path, data: Path, out: Path, settings: list[str]) -> dict[str, Any]:
    """One run of one version, in a process of its own with one thread."""
    sources = os.pathsep.join(str(p) for p in sorted(root.glob("packages/*/src")))
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("one.py")), str(data), str(out), *settings],
        env={**os.environ, "PYTHONPATH": sources, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(
    data: Path, scratch: Path, against: str, *, rounds: int, quick: bool
) -> list[dict[str, Any]]:
    """Runs of both versions in turns.

    Args:
        data: Token data set.
        scratch: For runs and a worktree.
        against: Directory or commit of the other version.
        rounds: Runs of each version and model.
        quick: Smaller models and fewer steps.

    Returns:
        A row for each model: tokens per CPU second of both versions, and their ratio, round by round;
        median and range.
    """
    warmup, steps = (2, 6) if quick else (4, 40)
    size = "tiny" if quick else "small"
    rows = []
    with checkout(against, scratch) as other:
        for name, model in MODELS.items():
            settings = [*model, f"model.size={size}", f"optim.steps={warmup + steps}"]
            settings += ["data.context=512", "validation.every=100000", "checkpoint.every=100000"]
            rates: dict[str, list[dict[str, float]]] = {"this": [], "that": []}
            for number in range(rounds):
                turns = [("this", HERE), ("that", other)]
                for version, root in turns if number % 2 else reversed(turns):
                    out = scratch / f"{name}-{version}-{number}"
                    rates[version].append(_rate(run(root, data, out, settings), warmup))
                    print(f"... {name} {version} {rates[version][-1]}", file=sys.stderr)
            rows.append({"model": f"{name} {size}", **_row(rates)})
    return rows


def _rate(found: dict[str, Any], warmup: int) -> dict[str, float]:
    # the last step saves a checkpoint, but is logged before it
    (t0, w0, c0), (t1, w1, c1) = found["marks"][warmup - 1], found["marks"][-1]
    return {
        "cpu": (t1 - t0) / (c1 - c0),
        "wall": (t1 - t0) / (w1 - w0),
        "waited": found["waited"] or 0.0,
    }


def _row(rates: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for version, found in rates.items():
        row[f"{version}, tokens/CPU-s"] = _spread([r["cpu"] for r in found], ".0f")
    for clock in ("cpu", "wall"):
        ratios = [a[clock] / b[clock] for a, b in zip(rates["this"], rates["that"], strict=True)]
        row[f"this/that, {clock}"] = _spread(ratios, ".3f")
    row["waits for data"] = f"{median(r['waited'] for r in rates['this']):.2%}"
    return row


def _spread(values: list[float], form: str) -> str:
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"
