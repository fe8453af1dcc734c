"""What lies below a folder that a training could start from."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import MANIFEST
from ehr_tracking.tree import walk

Form = Literal["patients", "meds", "tokens"]
_DEPTH = 4
_HEAD = 4096
"""Bytes of a JSON file that are looked at: it may be large."""


class Found(NamedTuple):
    """One data set."""

    form: Form
    """Patients in JSON, a MEDS data set, or tokens."""
    path: Path


def form_of(path: PathLike) -> Form:
    """What a path holds.

    Raises:
        UserError: If it is none of those that a training can start from.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if path.is_file():
        if path.suffix == ".json" and b'"patients"' in _head(path):
            return "patients"
        raise UserError(f"{path} is no JSON file of patients")
    if _contract(path).startswith("tokens/"):
        return "tokens"
    if (path / "data").is_dir() and any((path / "data").rglob("*.parquet")):
        return "meds"
    raise UserError(f"{path} is neither patients in JSON nor a MEDS data set nor tokens")


def data_below(root: PathLike) -> list[Found]:
    """The data sets at most four folders below one, in path order; hidden folders are left out."""
    found = []
    for folder, folders, files in _near(Path(root)):
        for candidate in (folder, *(folder / f for f in files if f.endswith(".json"))):
            if candidate.name == MANIFEST:
                continue
            try:
                found.append(Found(form_of(candidate), candidate))
            except UserError:
                continue
        if found and found[-1].path == folder:
            folders[:] = []  # its parts are no data sets of their own
    return sorted(found, key=lambda f: f.path)


def vectors_below(root: PathLike) -> list[Path]:
    """The ClinVec directories at most four folders below one, in path order."""
    return sorted(folder for folder, _, files in _near(Path(root)) if vocabularies_of(files))


def vocabularies_of(files: list[str]) -> list[str]:
    """Those of which a ClinVec directory has vectors, from the names of its files.

    Examples:
        >>> vocabularies_of(["ClinVec_icd10cm.csv", "ClinVec_atc.csv", "ClinGraph_nodes.csv"])
        ['atc', 'icd10cm']
    """
    named = [f for f in files if f.startswith("ClinVec_") and f.endswith(".csv")]
    return sorted(f.removeprefix("ClinVec_").removesuffix(".csv") for f in named)


def _near(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Each folder that is looked into, as `walk` gives it."""
    for folder, folders, files in walk(root, strict=False):
        deep = len(folder.relative_to(root).parts) >= _DEPTH
        folders[:] = [] if deep else [f for f in folders if not f.startswith((".", "_"))]
        yield folder, folders, files


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD)
    except OSError:
        return b""


def _contract(path: Path) -> str:
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return ""
    return str(manifest.get("contract", "")) if isinstance(manifest, dict) else ""
