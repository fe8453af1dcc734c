"""The files below a directory: through links, never in a circle, without what other tools leave."""

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import click

from ehr_tracking.errors import UserError

_SHOWN = 5
COHORT = "_cohort"
"""What labels keep beside the tasks: who is in them. Left out like all such names, but nothing to tell of."""


@cache
def note(line: str) -> None:
    """Say something on the error stream, once a process."""
    click.echo(line, err=True)


def walk(root: Path, *, strict: bool = True) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Each folder at or below a directory, its folders and its files, in the order of names.

    Links to folders are entered, but for those that lead back to a folder they lie in. Who takes a
    name out of the list of folders has it not entered.

    Args:
        root: A directory.
        strict: Raise for what may not be read, rather than leave it out.

    Raises:
        OSError: For a folder that cannot be read.
    """
    above: dict[str, tuple[tuple[int, int], ...]] = {str(root): ()}
    found = os.walk(root, onerror=_raise if strict else None, followlinks=True)
    for folder, folders, files in found:
        own = (*above.pop(folder), _identity(folder))
        paths = {name: os.path.join(folder, name) for name in sorted(folders)}  # noqa: PTH118
        folders[:] = [name for name, path in paths.items() if _identity(path) not in own]
        above |= {paths[name]: own for name in folders}
        yield Path(folder), folders, sorted(files)


def files_below(root: Path, suffix: str = "", *, quiet: bool = False) -> list[Path]:
    """The files at any depth, in path order, but for hidden ones.

    Names that begin with `.` or `_` are left out, and all that lies below such: editors, notebooks,
    Spark and file managers put them beside data.

    Args:
        root: A directory.
        suffix: Only files with names that end so.
        quiet: Do not say what was left out.

    Raises:
        UserError: For a link that leads nowhere: what should be there would be missed.
        OSError: For a folder that cannot be read.
    """
    found: list[Path] = []
    left_out: list[Path] = []
    for folder, folders, files in walk(root):
        hidden = [name for name in (*folders, *files) if name.startswith((".", "_"))]
        left_out += [folder / name for name in hidden]
        folders[:] = [name for name in folders if name not in hidden]
        visible = [folder / name for name in files if name not in hidden]
        _refuse_dangling(visible)
        found += [path for path in visible if path.name.endswith(suffix) and path.is_file()]
    if not quiet:
        _note_left_out(root, left_out)
    return sorted(found)


def entries(folder: Path) -> list[Path]:
    """What lies in one folder, in the order of names, but for what `files_below` leaves out.

    Raises:
        UserError: For a link that leads nowhere.
        OSError: If the folder cannot be read.
    """
    found = sorted(folder.iterdir())
    visible = [path for path in found if not path.name.startswith((".", "_"))]
    _refuse_dangling(visible)
    _note_left_out(folder, [path for path in found if path not in visible])
    return visible


def _refuse_dangling(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_symlink() and not path.exists():
            raise UserError(
                f"{path} is a link to {path.readlink()}, which is not there; mend it or remove it"
            )


def _note_left_out(root: Path, paths: Sequence[Path]) -> None:
    names = [path.relative_to(root).as_posix() for path in paths if path.name != COHORT]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    if names:
        note(f"{root}: left out {', '.join(names[:_SHOWN])}{more}: hidden, or of another tool")


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)  # noqa: PTH116 -- a string, as os.walk has it
    return found.st_dev, found.st_ino


def _raise(error: OSError) -> None:
    raise error
