"""One file of a run, to fetch from a machine that goes away: the same bytes for the same run."""

import gzip
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Literal

from ehr_tracking.checkpoints import POINTERS, CheckpointStore
from ehr_tracking.comparison.compare import free_file
from ehr_tracking.comparison.prune import thinned
from ehr_tracking.comparison.records import is_experiment, require_run
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike, sync
from ehr_tracking.manifest import MANIFEST
from ehr_tracking.tree import walk

Which = Literal["all", "best", "none"]
_Add = Callable[[str, Path | bytes], None]


def export(
    run: PathLike, out: PathLike, *, checkpoints: Which = "all", overwrite: bool = False
) -> tuple[int, int]:
    """Pack a run, or an experiment, into one archive.

    It holds one folder of the run's name. What is left out is left out of the run's manifest too, so that
    what is unpacked verifies. Times and owners are not kept: the same run gives the same bytes.

    Args:
        run: Its directory, finished or not.
        out: `*.tar.gz`, `*.tgz` or `*.zip`.
        checkpoints: All, the best (the latest where none is) or none.
        overwrite: Replace a file that is there.

    Returns:
        Files in it, and its bytes.

    Raises:
        UserError: If it is no run, the archive is there, lies in the run, or has another ending; or if a
            checkpoint was removed meanwhile, since the run still trains.
    """
    run, out = require_run(run), free_file(out, overwrite=overwrite)
    if run.resolve() in out.resolve().parents:
        raise UserError(
            f"{out} lies inside the run that it shall hold; choose a path outside of it"
        )
    left_out, changed = _left_out(run, checkpoints), {}
    if checkpoints == "best" and not is_experiment(run) and (kept := _best(run)):
        changed[f"checkpoints/{POINTERS}"] = CheckpointStore(run / "checkpoints").alone(kept.name)
    if left_out and (run / MANIFEST).is_file():
        changed[MANIFEST] = thinned(run, left_out, changed.get(f"checkpoints/{POINTERS}"))
    names = [name for name in _files(run) if not _below(name, left_out)]
    folder = run.resolve().name
    try:
        with _writing(out) as add:
            for name in names:
                add(f"{folder}/{name}", changed[name].encode() if name in changed else run / name)
    except FileNotFoundError as e:
        raise UserError(f"{e.filename} went while {run} was packed: it trains; pack again") from e
    return len(names), out.stat().st_size


def _best(run: Path) -> Path | None:
    store = CheckpointStore(run / "checkpoints")
    return store.best() or store.latest()


def _files(run: Path) -> list[str]:
    """Every file but hidden ones: locks, and what is being written."""
    found = []
    for folder, folders, files in walk(run):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [(folder / name).relative_to(run).as_posix() for name in files if name[0] != "."]
    return sorted(found)


def _left_out(run: Path, which: Which) -> set[str]:
    """Paths below the run of what is not packed: folders of checkpoints, or files."""
    if which == "all":
        return set()
    folder = run / "checkpoints"
    if which == "none":
        return {"checkpoints"}
    if is_experiment(run):
        best = "best_model" if (folder / "best_model.safetensors").is_file() else "latest"
        names = {path.name for path in folder.glob("*") if path.stem != best}
    else:
        names = {path.name for path in folder.glob("step-*") if path != _best(run)}
    return {f"checkpoints/{name}" for name in names}


def _below(name: str, folders: Collection[str]) -> bool:
    return any(name == folder or name.startswith(f"{folder}/") for folder in folders)


@contextmanager
def _writing(out: Path) -> Iterator[_Add]:
    """Add members to an archive that is written beside `out` and renamed when it is whole."""
    kinds = {".tar.gz": _tar, ".tgz": _tar, ".zip": _zip}
    opened = next((way for end, way in kinds.items() if out.name.endswith(end)), None)
    if opened is None:
        raise UserError(f"{out}: an archive ends in {', '.join(kinds)}")
    partial = out.with_name(f".{out.name}.partial")
    try:
        with opened(partial) as add:
            yield add
        sync(partial)
        partial.replace(out)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


@contextmanager
def _tar(path: Path) -> Iterator[_Add]:
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):

        def add(name: str, content: Path | bytes) -> None:
            member = tarfile.TarInfo(name)
            member.mode = 0o644
            if isinstance(content, bytes):
                member.size = len(content)
                archive.addfile(member, BytesIO(content))
                return
            with content.open("rb") as file:
                member.size = content.stat().st_size
                archive.addfile(member, file)

        yield add


@contextmanager
def _zip(path: Path) -> Iterator[_Add]:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:

        def add(name: str, content: Path | bytes) -> None:
            member = zipfile.ZipInfo(name)  # of 1980, as it is when no time is said
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = 0o644 << 16
            if isinstance(content, bytes):
                archive.writestr(member, content)
                return
            member.file_size = content.stat().st_size
            with content.open("rb") as file, archive.open(member, "w") as packed:
                shutil.copyfileobj(file, packed, 1 << 20)

        yield add
