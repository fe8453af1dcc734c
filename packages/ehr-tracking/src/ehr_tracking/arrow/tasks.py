"""Which tasks the files of labels are of: the one rule, told from where files lie.

A task is named by its whole path. Folders named like a split, a number or `name=value` hold pieces
of the task above them, and so do files named like a piece (`0`, `labels`, `part-00000`, `train`) or
like their folder. A file of any other name is a task of its own. What could be read in two ways is
refused: tasks are never merged on a guess.
"""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ehr_tracking.contracts import SPLITS, ContractError
from ehr_tracking.names import require_name

_FOLDER = re.compile(rf"{'|'.join(SPLITS)}|\d+|[^=]+=.*")
"""What a folder of pieces is called."""
_LIKE_SPLIT = frozenset({"val", "valid", "validation", "dev", "test", "tune"})
"""What others call splits."""
_WORD = rf"(?:labels?|data|part|shard|chunk|batch|file|{'|'.join(SPLITS)})"
_NUMBER = r"\d+(?:[-_.](?:of[-_.])?\d+)*"
_SPARK = r"part-\d+-[0-9a-f-]{36}(?:[-.]c\d+)?(?:\.\w+)*"
_FILE = re.compile(rf"{_WORD}(?:[-_.]?{_NUMBER})?|{_NUMBER}|{_SPARK}", re.IGNORECASE)
"""What a piece is called, without `.parquet`."""

Name = tuple[str, ...]


def name_tasks(root: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """The files of each task.

    Args:
        root: A directory, or a file.
        files: Those of labels at or below it.

    Returns:
        Name -> its files, both in order; folders of a name are parted by `/`.

    Raises:
        ContractError: If files could be of other tasks as well; naming both readings.

    Examples:
        >>> found = name_tasks(Path("l"), [Path("l/icu/los/train/0.parquet"), Path("l/died.parquet")])
        >>> sorted(found)
        ['died', 'icu/los']
    """
    if files and files[0] == root:
        return {_checked(_own_name(root)): list(files)}
    tasks: dict[Name, list[Path]] = {}
    for path in sorted(files):
        tasks.setdefault(_name(root, path.relative_to(root)), []).append(path)
    for name, of_task in tasks.items():
        _refuse_two_forms(root, name, of_task)
    _refuse_nested(root, tasks)
    return {_checked("/".join(name) or _own_name(root)): tasks[name] for name in sorted(tasks)}


def _own_name(path: Path) -> str:
    """Of one task that is given by itself: the nearest name that is not one of pieces."""
    path = Path(os.path.abspath(path))  # noqa: PTH100 -- without `..`, and links as they are named
    if path.is_file() and not _FILE.fullmatch(path.stem):
        return path.stem
    folders = path.parents if path.is_file() else (path, *path.parents)
    return next((p.name for p in folders if p.name and not _FOLDER.fullmatch(p.name)), path.stem)


def _name(root: Path, below: Path) -> Name:
    """Of the task that one file is of; empty for the task that lies in the root itself."""
    folders = list(below.parts[:-1])
    while folders and _FOLDER.fullmatch(folders[-1]):
        folders.pop()
    if folders and folders[-1].lower() in _LIKE_SPLIT:
        raise _ambiguous(
            root / below,
            f"a piece of task {'/'.join(folders[:-1]) or _own_name(root)}, {folders[-1]} being a split",
            f"of task {'/'.join(folders)}",
            f"call folders of splits {', '.join(SPLITS)}, and tasks otherwise",
        )
    split = next((name for name in folders if name in SPLITS), None)
    if split is not None:
        task = "/".join(name for name in folders if name != split)
        raise _ambiguous(
            root / below,
            f"a file of task {task}, of which {split} is a split",
            f"a piece of one task that {split} is a split of",
            "put splits below tasks: <task>/<split>/0.parquet",
        )
    if _is_piece(below):
        return tuple(folders)
    if len(folders) < len(below.parts) - 1:
        raise _ambiguous(
            root / below,
            f"a piece of task {'/'.join(folders) or _own_name(root)}",
            f"of task {'/'.join([*folders, below.stem])}",
            "name pieces 0.parquet, 1.parquet and so on, or put splits below tasks",
        )
    return (*folders, below.stem)


def _is_piece(path: Path) -> bool:
    return bool(_FILE.fullmatch(path.stem)) or path.stem == path.parent.name


def _refuse_two_forms(root: Path, name: Name, files: Iterable[Path]) -> None:
    """A file `died.parquet` beside a folder `died`."""
    flat = [path for path in files if name and path.parent == root.joinpath(*name[:-1])]
    others = [path for path in files if path not in flat]
    if flat and others:
        raise _ambiguous(
            flat[0],
            f"a piece of the same task as {others[0]}",
            "of another task of that name",
            "rename one of the two",
        )


def _refuse_nested(root: Path, tasks: dict[Name, list[Path]]) -> None:
    """A task in a folder that holds tasks."""
    for name in tasks:
        inner = [other for other in tasks if len(other) > len(name) and other[: len(name)] == name]
        if inner:
            raise _ambiguous(
                tasks[inner[0]][0],
                f"a piece of task {'/'.join(name) or _own_name(root)}, as is {tasks[name][0]}",
                f"of task {'/'.join(inner[0])}",
                "move one of the two: each task needs a folder or a file name of its own",
            )


def _ambiguous(path: Path, one: str, other: str, do: str) -> ContractError:
    return ContractError(f"{path} is either {one}, or {other}; {do}")


def _checked(name: str) -> str:
    for part in name.split("/"):
        require_name(part, "task")
    return name
