"""Fewer checkpoints of a run, none of which anything else was made from."""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ehr_tracking.checkpoints import POINTERS, CheckpointStore
from ehr_tracking.comparison.records import is_experiment, require_run
from ehr_tracking.contracts import ContractError
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike, write_whole
from ehr_tracking.manifest import (
    MANIFEST,
    File,
    Source,
    load_manifest,
    manifest_text,
    sha256,
)
from ehr_tracking.outputs import held
from ehr_tracking.tree import walk


@dataclass(frozen=True, slots=True)
class Choice:
    """What becomes of one checkpoint."""

    name: str
    bytes: int
    why: str
    """Why it is kept; empty where it goes."""


def prune(
    run: PathLike, roots: Sequence[PathLike] = (), *, keep: int = 1, dry_run: bool = False
) -> list[Choice]:
    """Remove checkpoints of a run, or of an experiment, and list what was removed in no manifest any more.

    Kept are the best, the newest, and those that an artifact names as an input. One that is being read stays as well.

    Args:
        run: Its directory; nobody may be training it.
        roots: Below which artifacts are looked for; by default beside the run.
        keep: How many of the newest.
        dry_run: Remove nothing.

    Returns:
        What becomes of each checkpoint, oldest first.

    Raises:
        UserError: If it is no run, somebody is writing it, or an artifact names the very run, whose
            manifest would be another.
    """
    run = require_run(run)
    if keep < 1:
        raise UserError(f"keep {keep}: at least the newest stays")
    if is_experiment(run):
        return _prune_experiment(run, keep, dry_run=dry_run)
    with held(run):
        named = _named([Path(root) for root in roots] or [run.resolve().parent], run)
        store = CheckpointStore(run / "checkpoints")
        choices = _choices(store, keep, named)
        gone = [choice.name for choice in choices if not choice.why]
        if gone and (run / MANIFEST).is_file() and sha256(run / MANIFEST) in named:
            raise UserError(f"{named[sha256(run / MANIFEST)]} was made from {run} as it is sealed")
        if gone and not dry_run:
            store.forget(gone)
            if (run / MANIFEST).is_file():
                write_whole(run / MANIFEST, thinned(run, {f"checkpoints/{n}" for n in gone}))
            store.remove(gone)
    return choices


def thinned(run: Path, left_out: Collection[str], pointers: str | None = None) -> str:
    """The manifest of a run without what is left out.

    Args:
        run: Sealed.
        left_out: Paths below it, of files or folders.
        pointers: What `pointers.json` of its checkpoints shall hold; by default what it holds now.
    """
    manifest = load_manifest(run)
    files = {
        name: file
        for name, file in manifest.files.items()
        if not any(name == path or name.startswith(f"{path}/") for path in left_out)
    }
    name = f"checkpoints/{POINTERS}"
    if name in files:
        content = pointers.encode() if pointers is not None else (run / name).read_bytes()
        files[name] = File(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    return manifest_text(replace(manifest, files=files))


def _choices(store: CheckpointStore, keep: int, named: dict[str, Path]) -> list[Choice]:
    paths = sorted(path for path in store.directory.glob("step-*") if path.is_dir())
    newest = paths[-keep:]
    choices = []
    for path in paths:
        sealed = path / MANIFEST
        user = named.get(sha256(sealed)) if sealed.is_file() else None
        why = [
            *["best"] * (path == store.best()),
            *["latest"] * (path == store.latest()),
            *["newest"] * (path in newest and path != store.latest()),
            *([f"input of {user}"] if user else []),
        ]
        choices.append(Choice(path.name, _size(path), ", ".join(why)))
    return choices


def _named(roots: Iterable[Path], run: Path) -> dict[str, Path]:
    """Fingerprint -> an artifact, outside of the run, that has it among its inputs."""
    found: dict[str, Path] = {}
    for root in roots:
        if not root.is_dir():
            raise UserError(f"{root}: no such directory")
        for folder, folders, files in walk(root, strict=False):
            if folder.resolve() == run.resolve():
                folders.clear()
                continue
            if MANIFEST in files:
                try:
                    manifest = load_manifest(folder)
                except ContractError:  # not of ours
                    continue
                found |= dict.fromkeys(_fingerprints(manifest.inputs.values()), folder)
    return found


def _fingerprints(sources: Iterable[Source]) -> Iterator[str]:
    for source in sources:
        yield source.fingerprint
        yield from _fingerprints(source.inputs.values())


def _prune_experiment(run: Path, keep: int, *, dry_run: bool) -> list[Choice]:
    folder = run / "checkpoints"
    paths = sorted(
        folder.glob("checkpoint_epoch_*.safetensors"), key=lambda p: int(p.stem.rpartition("_")[2])
    )
    choices = []
    for i, path in enumerate(paths):
        why = "newest" if i >= len(paths) - keep else ""
        choices.append(Choice(path.stem, path.stat().st_size, why))
        if not why and not dry_run:
            path.unlink()
            path.with_suffix(".json").unlink(missing_ok=True)
    for name, why in (("best_model", "best"), ("latest", "latest")):
        path = folder / f"{name}.safetensors"
        if path.is_file():
            choices.append(Choice(name, path.stat().st_size, why))
    return choices


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
