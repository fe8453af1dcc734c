"""Checkpoints of a run: swapped in atomically, named by step, pruned, with `latest` and `best`."""

import fcntl
import json
import math
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ehr_tracking.config import STRICT
from ehr_tracking.contracts import ADAPTER, CHECKPOINT, RUN, ContractError
from ehr_tracking.files import PathLike, sync, write_whole
from ehr_tracking.manifest import MANIFEST, check_file, damage, load_manifest

POINTERS = "pointers.json"
_Step = Annotated[str, Field(pattern=r"^step-\d{8,}$")]
"""Name of a checkpoint, which becomes a path."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class _Pointers:
    """What `pointers.json` holds."""

    latest: _Step | None = None
    best: _Step | None = None
    scores: dict[_Step, float | None] = Field(default_factory=dict)


class CheckpointStore:
    """The directory `<run>/checkpoints`.

    `pointers.json` holds the scores and says which checkpoint is the latest and which the best. It
    is replaced after the new checkpoint is in place and before an old one goes, so whenever a
    process dies, the pointers name whole checkpoints.
    """

    def __init__(
        self,
        directory: PathLike,
        *,
        keep: int = 2,
        keep_every: int | None = None,
        mode: Literal["min", "max"] = "min",
    ) -> None:
        """Open or create the store.

        Args:
            directory: `<run>/checkpoints`.
            keep: How many of the newest to keep; the best is kept besides.
            keep_every: Those after a multiple of so many steps are kept besides as well.
            mode: Whether a low or a high score is better.
        """
        if keep < 1:
            raise ValueError(f"keep = {keep}: at least the latest checkpoint must be kept")
        self.directory = Path(directory)
        self.keep = keep
        self.keep_every = keep_every
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
            if not (self.directory / POINTERS).is_file():  # no checkpoint yet, not: pointers lost
                self._write(_Pointers())
            partial.rename(self.directory / name)
            sync(self.directory)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        # what a killed run wrote after the checkpoint it is resumed from no longer counts
        before = {n: s for n, s in self._read().scores.items() if n < name}
        score = None if score is None or math.isnan(score) else score
        kept = self._point({**before, name: score})
        for path in self.directory.glob("step-*"):
            if path.name not in kept:
                _remove_unread(path)

    def latest(self) -> Path | None:
        """The newest checkpoint, or None before the first."""
        return self._path(self._read().latest)

    def best(self) -> Path | None:
        """The checkpoint with the best score, or None where none was scored."""
        return self._path(self._read().best)

    def forget(self, names: Collection[str]) -> None:
        """Take some checkpoints out of the scores; the latest and the best stay what they are."""
        pointers = self._read()
        kept = {n: s for n, s in pointers.scores.items() if n not in names}
        self._write(replace(pointers, scores=kept))

    def alone(self, name: str) -> str:
        """`pointers.json` of a copy that holds one of the checkpoints alone: its latest, and the best if it is."""
        pointers = self._read()
        best = name if pointers.best == name else None
        return _text(_Pointers(latest=name, best=best, scores={name: pointers.scores.get(name)}))

    def remove(self, names: Collection[str]) -> None:
        """Remove some checkpoints, but for those that somebody reads."""
        for name in names:
            _remove_unread(self.directory / name)

    def fall_back(self, metric: str | None = None) -> str | None:
        """Make the newest checkpoint that is as it was sealed the latest; remove nothing.

        Those up to the latest count. Where the pointers are damaged or gone, all do, and their scores are
        read from `metrics.json` of each.

        Args:
            metric: Its key of the score; without one, none is the best until one is scored again.

        Returns:
            From which to go on and what was passed over, in one line; None where nothing was.

        Raises:
            ContractError: If there are checkpoints, but none is whole.
        """
        pointers, passed = self._pointers()
        names = {p.name for p in self.directory.glob("step-*")}
        if not passed:
            names = {n for n in {*names, pointers.latest} if n and n <= (pointers.latest or "")}
        for name in sorted(names, reverse=True):
            found = self._damage(name)
            if found is None:
                break
            passed.append(found)
        else:
            if not names:
                return None
            raise ContractError(
                f"no checkpoint in {self.directory} is whole: {'; '.join(passed)}; begin anew"
            )
        if not passed:
            return None
        scores = pointers.scores or {n: self._score(n, metric) for n in names}
        before = {n: s for n, s in scores.items() if n < name}
        self._point({**before, name: scores.get(name)})
        return f"going on from {name}: {'; '.join(passed)}"

    def _pointers(self) -> "tuple[_Pointers, list[str]]":
        """The pointers, and why they are none where they should be."""
        if not (self.directory / POINTERS).is_file():
            return _Pointers(), [f"{self.directory / POINTERS} is missing"]
        try:
            return self._read(), []
        except ContractError as e:
            return _Pointers(), [str(e)]

    def _damage(self, name: str) -> str | None:
        try:
            return next(iter(damage(self.directory / name)), None)
        except ContractError as e:
            return str(e)

    def _score(self, name: str, metric: str | None) -> float | None:
        """From the metrics of a checkpoint; None where it has none, or they are not as sealed."""
        directory = self.directory / name
        try:
            path = check_file(directory, load_manifest(directory), "metrics.json")
        except ContractError:
            return None
        score = json.loads(path.read_bytes()).get(metric)
        return score if isinstance(score, float) and math.isfinite(score) else None

    def _path(self, name: str | None) -> Path | None:
        return None if name is None else self.directory / name

    def _read(self) -> "_Pointers":
        path = self.directory / POINTERS
        if not path.is_file():
            return _Pointers()
        try:
            return TypeAdapter(_Pointers).validate_json(path.read_bytes())
        except ValidationError:
            raise ContractError(
                f"{path} is damaged; name a checkpoint beside it, or resume the run"
            ) from None

    def _point(self, scores: Mapping[str, float | None]) -> set[str]:
        """Make the last of some checkpoints the latest; return which are to be kept."""
        latest = max(scores)
        scored = [(self.sign * s, n) for n, s in scores.items() if s is not None]
        best = min(scored)[1] if scored else None
        milestones = [n for n in scores if self.keep_every and step_of(n) % self.keep_every == 0]
        kept = {*sorted(scores)[-self.keep :], latest, *([best] if best else []), *milestones}
        pointers = _Pointers(
            latest=latest,
            best=best,
            scores={n: s for n, s in sorted(scores.items()) if n in kept},
        )
        self._write(pointers)
        return kept

    def _write(self, pointers: "_Pointers") -> None:
        write_whole(self.directory / POINTERS, _text(pointers))

    def _remove_partials(self) -> None:
        for path in self.directory.glob(".*.partial"):
            shutil.rmtree(path, ignore_errors=True)


def step_of(name: str) -> int:
    """Optimizer steps behind a checkpoint, by its name.

    Examples:
        >>> step_of("step-00000300")
        300
    """
    return int(name.partition("-")[2])


def _text(pointers: _Pointers) -> str:
    return json.dumps(asdict(pointers), indent=1) + "\n"


@contextmanager
def reading(path: PathLike) -> Iterator[Path]:
    """Yield the checkpoint that a path means, and keep its run from removing it until the block ends.

    Args:
        path: As of `resolve`: of a run that still trains, the best or newest whole one.

    Raises:
        ContractError: If there is no checkpoint.
    """
    found, before = resolve(path), None
    while (descriptor := _shared(found)) is None:  # removed since the pointers were read
        found, before = resolve(path), found
        if found == before:
            raise ContractError(f"{found} is gone; name another checkpoint")
    try:
        yield found
    finally:
        os.close(descriptor)


def _shared(checkpoint: Path) -> int | None:
    """A descriptor that keeps a checkpoint from being removed; None where it is gone."""
    try:
        descriptor = os.open(checkpoint, os.O_RDONLY)
    except FileNotFoundError:
        return None
    with suppress(OSError):  # a file system without locks
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits for one who is removing it
    if (checkpoint / MANIFEST).is_file():
        return descriptor
    os.close(descriptor)
    return None


def _remove_unread(checkpoint: Path) -> None:
    """Remove a checkpoint, unless somebody reads it: then the next time."""
    descriptor = os.open(checkpoint, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
        # first, so that what is left is never taken for whole
        (checkpoint / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(checkpoint)
    finally:
        os.close(descriptor)


def resolve(path: PathLike) -> Path:
    """The checkpoint that a path means: itself, or a run's best, else its latest.

    Args:
        path: A checkpoint directory or a run directory (finished or not).

    Raises:
        ContractError: If there is no checkpoint.
    """
    path = Path(path)
    store = CheckpointStore(path / "checkpoints")
    found = store.best() or store.latest()
    if found is not None:
        return found
    manifest = load_manifest(path)
    if manifest.contract.startswith(f"{RUN.name}/"):
        raise ContractError(f"{path} is a run without a checkpoint")
    if manifest.contract.partition("/")[0] not in (CHECKPOINT.name, ADAPTER.name):
        raise ContractError(f"{path} holds {manifest.contract}, not a checkpoint or a run")
    return path
