"""The tasks that are installed with the package, by name and collection."""

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
