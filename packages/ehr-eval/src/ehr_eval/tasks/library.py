"""The tasks that are installed with the package, by name and collection."""

import shutil
from pathlib import Path

from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike

LIBRARY = Path(__file__).parent / "library"
"""A folder for each collection, a file `<task>.yaml` in it for each task."""


def collections() -> dict[str, dict[str, Path]]:
    """Collection -> task -> its file, in the order of their names."""
    folders = sorted(path for path in LIBRARY.iterdir() if path.is_dir())
    return {f.name: {p.stem: p for p in sorted(f.glob("*.yaml"))} for f in folders}


def library_files() -> dict[str, Path]:
    """Task -> its file."""
    return {name: path for tasks in collections().values() for name, path in tasks.items()}


def find(name: PathLike) -> Path:
    """A file as it is, or that of a task of the library by its name.

    Raises:
        UserError: If it looks like a name and there is none of it.
    """
    path = Path(name)
    if path.suffix or path.parent != Path() or path.is_file():
        return path
    files = library_files()
    if path.name not in files:
        raise UserError(
            f"no task {path.name} in the library, and no such file; `ehr-eval tasks` lists what there is"
        )
    return files[path.name]


def of_collection(name: str) -> dict[str, Path]:
    """Task -> file of one collection.

    Raises:
        UserError: If there is none of that name.
    """
    there = collections()
    if name not in there:
        raise UserError(f"no collection {name} in the library; there are {', '.join(there)}")
    return there[name]


def copy_task(name: str, folder: PathLike) -> list[Path]:
    """Copy the file of a task, and the tables of codes that it names, to be changed.

    Args:
        name: Of the library.
        folder: Made where it is not there.

    Returns:
        What was written.

    Raises:
        UserError: If there is no such task, or a file of that name is there already.
    """
    path, folder = find(name), Path(folder)
    text = path.read_text(encoding="utf-8")
    files = [path, *(p for p in sorted(path.parent.glob("*.csv")) if p.name in text)]
    folder.mkdir(parents=True, exist_ok=True)
    taken = [folder / p.name for p in files if (folder / p.name).exists()]
    if taken:
        raise UserError(f"{taken[0]} exists already; nothing was copied")
    return [Path(shutil.copyfile(p, folder / p.name)) for p in files]
