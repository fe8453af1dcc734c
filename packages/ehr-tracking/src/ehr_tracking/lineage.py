"""From a result back to the raw data: the tree of inputs, checked by hash where they are at hand."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from ehr_tracking.contracts import MEDS
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import MANIFEST, Source, raw_source, sha256, source, verify
from ehr_tracking.tree import walk


def find_artifacts(root: PathLike) -> list[Path]:
    """Every artifact at or below a directory, once, in path order; not those inside another one.

    Raises:
        UserError: If there is no such directory.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: no such directory")
    found = []
    for folder, folders, files in walk(root):
        if MANIFEST in files:
            found.append(folder)
            folders.clear()
        folders[:] = [name for name in folders if not name.startswith(".")]
    return _once(found)


def lineage_lines(artifact: PathLike, roots: Sequence[PathLike]) -> list[str]:
    """The tree of an artifact's inputs as text, one line each.

    Args:
        artifact: A sealed directory.
        roots: Directories below which its inputs are looked for by fingerprint.

    Returns:
        Role, contract, producer, fingerprint, and where each directory with that very fingerprint
        lies. Where there are several, the one that was used is among them, and nothing tells which: a
        manifest holds no paths. Each is verified file by file.
    """
    artifact = Path(artifact)
    here = _by_fingerprint([Path(root) for root in roots])
    top = source(artifact)
    return [_line("", artifact.name, top, here), *_tree(top, here, "")]


def _tree(parent: Source, here: dict[str, list[Path]], indent: str) -> Iterator[str]:
    items = list(parent.inputs.items())
    for i, (role, child) in enumerate(items):
        last = i == len(items) - 1
        yield _line(f"{indent}{'└─ ' if last else '├─ '}", role, child, here)
        yield from _tree(child, here, f"{indent}{'   ' if last else '│  '}")


def _line(indent: str, role: str, item: Source, here: dict[str, list[Path]]) -> str:
    return (
        f"{indent}{role}: {item.contract} by {item.producer}, {item.fingerprint[:16]}"
        f"{_state(item, here)}"
    )


def _state(item: Source, here: dict[str, list[Path]]) -> str:
    paths = here.get(item.fingerprint)
    if paths is None:
        return "" if item.inputs else " (raw)"
    return " = " + " or ".join(f"{path} ({_holds(path)})" for path in _once(paths))


def _once(paths: Sequence[Path]) -> list[Path]:
    """Each directory by its shortest path, where links lead to it as well."""
    ordered = sorted(set(paths), key=lambda path: (-len(path.parts), path))
    return sorted({path.resolve(): path for path in ordered}.values())


def _holds(path: Path) -> str:
    if not (path / MANIFEST).is_file():
        return "raw, verified"
    return "CHANGED" if verify(path) else "verified"


def _by_fingerprint(roots: Sequence[Path]) -> dict[str, list[Path]]:
    """Fingerprint -> the directories that have it, not in hidden ones: stores, and runs being written."""
    found: dict[str, list[Path]] = {}
    for root in roots:
        for folder, folders, files in walk(root, strict=False):
            folders[:] = [name for name in folders if not name.startswith(".")]
            if MANIFEST in files:
                found.setdefault(sha256(folder / MANIFEST), []).append(folder)
            elif "data" in folders:  # MEDS data sets carry no manifest
                with suppress(UserError, OSError):  # what cannot be read is no input at hand
                    raw = raw_source(folder, contract=MEDS)
                    found.setdefault(raw.fingerprint, []).append(folder)
    return found
