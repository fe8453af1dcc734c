"""The folder of one experiment or benchmark: begun, gone on with, or replaced, never by accident."""

import json
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike, write_whole
from ehr_tracking.names import require_name


def open_folder(
    parent: PathLike, name: str, mark: str, *, resume: bool, overwrite: bool
) -> tuple[Path, bool]:
    """The folder `parent/name`, made where it is not there.

    Args:
        parent: Need not exist.
        name: Of the experiment or benchmark.
        mark: The file in it that tells it from other folders.
        resume: Go on with what is there.
        overwrite: Replace what is there.

    Returns:
        The folder, and whether it is gone on with.

    Raises:
        UserError: If the name cannot be one of a folder, or something is there and neither is said.
    """
    folder = Path(parent) / require_name(name, "name")
    ours = (folder / mark).is_file()
    if folder.exists() and not ours and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and was not written by a tracker; choose another name")
    if ours and not resume and not overwrite:
        raise UserError(
            f"{folder} exists; choose another name, or pass resume=True to go on or overwrite=True"
        )
    if ours and not resume:
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder, ours and resume


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write JSON values whole; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(values, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote; nothing where there is no such file.

    Raises:
        UserError: If it is damaged.
    """
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise UserError(f"{path} is damaged: {e}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} is damaged: it holds no keys and values")
    return values


def now() -> str:
    """The time, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
