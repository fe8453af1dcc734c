"""What can be compared of a run: a `run/1` directory, finished or not, or one of an `ExperimentTracker`."""

import json
import math
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ehr_tracking.checkpoints import CheckpointStore
from ehr_tracking.config import dotted, read_yaml
from ehr_tracking.errors import UserError
from ehr_tracking.experiments.directions import best, direction
from ehr_tracking.experiments.experiment import HISTORY, METADATA
from ehr_tracking.experiments.folder import read_json
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import MANIFEST, load_manifest
from ehr_tracking.runs import read_log

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One run."""

    name: str
    path: Path
    x: str
    """What its metrics go by: `step` or `epoch`."""
    settings: Mapping[str, Any]
    """Dotted key -> value."""
    facts: Mapping[str, Any]
    """`status`, `parameters`, steps or epochs, `tokens`, `seconds`, `train_loss` (mean over the last tenth);
    those that are known."""
    curves: Mapping[str, Points]
    """Metric -> (step or epoch, value), numbers alone."""

    @property
    def judged(self) -> list[str]:
        """The metrics that runs are compared by: all but those of what was trained on."""
        return [name for name in self.curves if not name.startswith("train_")]

    def best(self, metric: str) -> float | None:
        """Its best value of a metric; the last where nobody can tell which is better."""
        points = self.curves.get(metric)
        if not points:
            return None
        way = direction(metric)
        found = best(points, way) if way else None
        return found[1] if found else points[-1][1]


def read_records(paths: Sequence[PathLike]) -> list[Record]:
    """Read runs, each under a name of its own.

    Raises:
        UserError: If there are none, one is named twice, or something is no run.
    """
    found = [Path(path) for path in paths]
    if not found:
        raise UserError("name one run or more")
    if len({path.resolve() for path in found}) < len(found):
        raise UserError("a run is named twice")
    whole = [path.resolve() for path in found]
    names = [path.name for path in whole]
    if len(set(names)) < len(names):  # told apart by the folders that they do not share
        shared = os.path.commonpath(whole)
        names = [os.path.relpath(path, shared) for path in whole]
    return [_read(path, name) for path, name in zip(found, names, strict=True)]


def is_experiment(path: Path) -> bool:
    """Whether a directory is one of an `ExperimentTracker`."""
    return (path / METADATA).is_file() and not (path / "config.yaml").is_file()


def require_run(path: PathLike) -> Path:
    """A directory that is a run or an experiment.

    Raises:
        UserError: If it is neither.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such directory")
    if not (path / "config.yaml").is_file() and not is_experiment(path):
        raise UserError(f"{path} is neither a run nor an experiment")
    return path


def _read(path: Path, name: str) -> Record:
    return (_experiment if is_experiment(require_run(path)) else _run)(path, name)


def _run(path: Path, name: str) -> Record:
    steps = read_log(path / "metrics.jsonl")
    seconds = [t["seconds"] for t in read_log(path / "timings.jsonl") if "seconds" in t]
    last = steps[-1] if steps else {}
    store = CheckpointStore(path / "checkpoints")
    checkpoint = store.best() or store.latest()
    names = dict.fromkeys(k for r in steps for k in r if k.startswith("val_"))
    curves = {
        "train_loss": _points(steps, "loss"),
        **{name: _points(steps, name) for name in names},
    }
    facts = {
        "status": "finished" if (path / MANIFEST).is_file() else "unfinished",
        "parameters": _parameters(sorted(checkpoint.glob("*.safetensors"))) if checkpoint else None,
        "steps": last.get("step"),
        "tokens": last.get("tokens"),
        "seconds": round(math.fsum(seconds), 1) if seconds else None,
        "train_loss": _end(curves["train_loss"]),
    }
    return Record(
        name=name,
        path=path,
        x="step",
        settings={**dotted(read_yaml(path / "config.yaml")), **_inputs(checkpoint)},
        facts=facts,
        curves={name: points for name, points in curves.items() if points},
    )


def _inputs(checkpoint: Path | None) -> dict[str, str]:
    """What a checkpoint was trained from, as settings: tokens, labels, where it began."""
    if checkpoint is None:
        return {}
    found = load_manifest(checkpoint).inputs
    return {f"input {role}": f"{s.contract} {s.fingerprint[:16]}" for role, s in found.items()}


def _experiment(path: Path, name: str) -> Record:
    metadata, summary = read_json(path / METADATA), read_json(path / "summary.json")
    history = read_json(path / HISTORY)
    kept = [path / "checkpoints" / f"{n}.safetensors" for n in ("best_model", "latest")]
    checkpoint = next((p for p in kept if p.is_file()), None)
    curves = {
        n: [(e["epoch"], e["value"]) for e in entries if e["value"] is not None]
        for n, entries in history.items()
    }
    facts = {
        "status": metadata.get("status"),
        "parameters": _parameters([checkpoint]) if checkpoint else None,
        "epochs": len({e["epoch"] for entries in history.values() for e in entries}),
        "seconds": summary.get("seconds"),
        "train_loss": _end(curves.get("train_loss", ())),
    }
    return Record(
        name=name,
        path=path,
        x="epoch",
        settings=dotted(read_json(path / "hyperparameters.json")),
        facts=facts,
        curves={name: points for name, points in curves.items() if points},
    )


def _points(steps: Sequence[Mapping[str, Any]], name: str) -> Points:
    return [(r["step"], r[name]) for r in steps if name in r]


def _end(points: Points) -> float | None:
    """Mean over the last tenth of a curve: single steps are noisy."""
    last = [value for _, value in points[-max(1, len(points) // 10) :]]
    return math.fsum(last) / len(last) if last else None


def _parameters(files: Sequence[Path]) -> int | None:
    """Numbers in tensors of safetensors files, the optimizer's apart; read from their headers."""
    total = 0
    for path in files:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        states = header.pop("__metadata__", {}).keys()
        own = {k: v for k, v in header.items() if k.partition("/")[0] not in states}
        total += sum(math.prod(tensor["shape"]) for tensor in own.values())
    return total if files else None
