"""The files of labels: those of a `labels/1` artifact, or anyone's."""

from pathlib import Path

from ehr_tracking.contracts import LABELS, MEDS_LABELS
from ehr_tracking.manifest import (
    MANIFEST,
    Source,
    check_file,
    load_manifest,
    raw_source,
    read_manifest,
    source,
)
from ehr_tracking.tree import COHORT, files_below


def label_source(labels: Path) -> Source:
    """Labels as an input: the artifact that they are or belong to, else the files."""
    sealed = _artifact(labels)
    return raw_source(labels, contract=MEDS_LABELS) if sealed is None else source(sealed)


def label_files(labels: Path, *, reader: str) -> list[Path]:
    """The Parquet files of labels, in path order; sealed ones are checked against their manifest.

    Args:
        labels: A `labels/1` artifact, one task or one file of it, or the same without a manifest.
        reader: Distribution and version of the caller, for the message.

    Raises:
        ContractError: If a sealed file is missing or was changed, one is there that was not sealed,
            or `labels` is an artifact of another kind.
    """
    sealed = _artifact(labels)
    if sealed is None:
        return _parquet(labels)
    manifest = read_manifest(sealed, LABELS, reader=reader)
    below = labels if sealed == labels else labels.absolute()
    tables = (
        n for n in manifest.files if n.endswith(".parquet") and not n.startswith(f"{COHORT}/")
    )
    listed = (sealed / name for name in tables)
    found = sorted({*_parquet(below), *(path for path in listed if path.is_relative_to(below))})
    for path in found:
        check_file(sealed, manifest, path.relative_to(sealed).as_posix())
    return [labels / path.relative_to(below) for path in found]


def _artifact(labels: Path) -> Path | None:
    """The artifact that `labels` is, or is a task or a file of."""
    if (labels / MANIFEST).is_file():
        return labels
    above = labels.absolute().parents
    for directory in above[: 2 if labels.is_file() else 1]:
        if (directory / MANIFEST).is_file():
            kind = load_manifest(directory).contract.partition("/")[0]
            return directory if kind == LABELS.name else None
    return None


def _parquet(path: Path) -> list[Path]:
    return [path] if path.is_file() else files_below(path, ".parquet")
