"""From a result back to the raw data: the tree of inputs, checked by hash where they are at hand."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from ehr_tracking.contracts import MEDS
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import MANIFEST, Source, raw_source, sha256, source, verify


def find_artifacts(root: Path) -> list[Path]:
    """Every artifact at or below a directory, in path order; not those inside another one.

    Raises:
        UserError: If there is no such directory.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such directory")
    if (root / MANIFEST).is_file():
        return [root]
    found = []
    for path in sorted(root.iterdir()):
        if path.is_dir() and not path.name.startswith("."):
            found += find_artifacts(path)
    return found


def lineage_lines(artifact: Path, roots: Sequence[Path]) -> list[str]:
    """The tree of an artifact's inputs as text, one line each.

    Args:
        artifact: A sealed directory.
        roots: Directories below which its inputs are looked for by fingerprint.

    Returns:
        Role, contract, producer, fingerprint, and where a directory with that very fingerprint lies;
        such a directory is verified file by file.
    """
    here = _by_fingerprint(roots)
    top = source(artifact)
    return [_line("", artifact.name, top, here), *_tree(top, here, "")]


def _tree(parent: Source, here: dict[str, Path], indent: str) -> Iterator[str]:
    items = list(parent.inputs.items())
    for i, (role, child) in enumerate(items):
        last = i == len(items) - 1
        yield _line(f"{indent}{'└─ ' if last else '├─ '}", role, child, here)
        yield from _tree(child, here, f"{indent}{'   ' if last else '│  '}")


def _line(indent: str, role: str, item: Source, here: dict[str, Path]) -> str:
    return (
        f"{indent}{role}: {item.contract} by {item.producer}, {item.fingerprint[:16]}"
        f"{_state(item, here)}"
    )


def _state(item: Source, here: dict[str, Path]) -> str:
    path = here.get(item.fingerprint)
    if path is None:
        return "" if item.inputs else " (raw)"
    if not (path / MANIFEST).is_file():
        return f" = {path} (raw, verified)"
    return f" = {path} ({'CHANGED' if verify(path) else 'verified'})"


def _by_fingerprint(roots: Sequence[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for root in roots:
        for path in _seen(root, MANIFEST):
            found[sha256(path)] = path.parent
        for data in _seen(root, "data"):  # MEDS data sets carry no manifest
            if data.is_dir() and not (data.parent / MANIFEST).is_file():
                raw = raw_source(data.parent, contract=MEDS)
                found[raw.fingerprint] = data.parent
    return found


def _seen(root: Path, name: str) -> list[Path]:
    """What bears a name below a directory, but not in hidden ones: stores, and runs being written."""
    found = sorted(root.rglob(name))
    return [p for p in found if not any(x.startswith(".") for x in p.relative_to(root).parts)]
