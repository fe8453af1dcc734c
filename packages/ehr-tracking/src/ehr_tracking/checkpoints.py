"""Checkpoints of a run: swapped in atomically, named by step, pruned, with `latest` and `best`."""

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from ehr_tracking.contracts import CHECKPOINT, RUN, ContractError
from ehr_tracking.files import write_whole
from ehr_tracking.manifest import MANIFEST, load_manifest

_POINTERS = "pointers.json"


class CheckpointStore:
    """The directory `<run>/checkpoints`.

    `pointers.json` holds the scores and says which checkpoint is the latest and which the best. It
    is replaced after the new checkpoint is in place and before an old one goes, so whenever a
    process dies, the pointers name whole checkpoints.
    """

    def __init__(
        self, directory: Path, *, keep: int = 2, mode: Literal["min", "max"] = "min"
    ) -> None:
        """Open or create the store.

        Args:
            directory: `<run>/checkpoints`.
            keep: How many of the newest to keep; the best is kept besides.
            mode: Whether a low or a high score is better.
        """
        if keep < 1:
            raise ValueError(f"keep = {keep}: at least the latest checkpoint must be kept")
        self.directory = directory
        self.keep = keep
        self.sign = 1.0 if mode == "min" else -1.0

    @contextmanager
    def save(self, step: int, *, score: float | None) -> Iterator[Path]:
        """Yield an empty directory; the caller writes and seals a checkpoint there.

        Args:
            step: Optimizer steps done.
            score: Of the validation metric; None (or NaN) where none was computed.
        """
        name = f"step-{step:08d}"
        partial = self.directory / f".{name}.partial"
        self._remove_partials()
        partial.mkdir(parents=True)
        try:
            yield partial
            if not (partial / MANIFEST).is_file():
                raise AssertionError(f"checkpoint {name} was not sealed")
            shutil.rmtree(self.directory / name, ignore_errors=True)
            partial.rename(self.directory / name)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self._point(name, None if score is None or math.isnan(score) else score)

    def latest(self) -> Path | None:
        """The newest checkpoint, or None before the first."""
        return self._path("latest")

    def best(self) -> Path | None:
        """The checkpoint with the best score, or None where none was scored."""
        return self._path("best")

    def _path(self, pointer: str) -> Path | None:
        name = self._read().get(pointer)
        return self.directory / name if name else None

    def _read(self) -> dict[str, Any]:
        path = self.directory / _POINTERS
        if not path.is_file():
            return {"scores": {}}
        pointers: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return pointers

    def _point(self, latest: str, score: float | None) -> None:
        # what a killed run wrote after the checkpoint it is resumed from no longer counts
        scores = {n: s for n, s in self._read()["scores"].items() if n < latest}
        scores[latest] = score
        scored = [(self.sign * s, n) for n, s in scores.items() if s is not None]
        best = min(scored)[1] if scored else None
        kept = {*sorted(scores)[-self.keep :], latest, best}
        pointers = {
            "latest": latest,
            "best": best,
            "scores": {n: s for n, s in sorted(scores.items()) if n in kept},
        }
        write_whole(self.directory / _POINTERS, json.dumps(pointers, indent=1) + "\n")
        for path in self.directory.glob("step-*"):
            if path.name not in kept:
                shutil.rmtree(path)

    def _remove_partials(self) -> None:
        for path in self.directory.glob(".*.partial"):
            shutil.rmtree(path, ignore_errors=True)


def resolve(path: Path) -> Path:
    """The checkpoint that a path means: itself, or a run's best, else its latest.

    Args:
        path: A checkpoint directory or a run directory (finished or not).

    Raises:
        ContractError: If there is no checkpoint.
    """
    store = CheckpointStore(path / "checkpoints")
    found = store.best() or store.latest()
    if found is not None:
        return found
    manifest = load_manifest(path)
    if manifest.contract.startswith(f"{RUN.name}/"):
        raise ContractError(f"{path} is a run without a checkpoint")
    if not manifest.contract.startswith(f"{CHECKPOINT.name}/"):
        raise ContractError(f"{path} holds {manifest.contract}, not a checkpoint or a run")
    return path
