"""Files that are whole or not there, whatever stops the process or the machine."""

import errno
import os
import stat
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

PathLike: TypeAlias = str | os.PathLike[str]
"""How every public function takes a path; within the packages a path is a `Path`."""

_WAITING = 8
"""Files that are waited for at once: most of the time passes in the disk."""


def write_whole(path: PathLike, text: str) -> None:
    """Write a file beside `path`, rename it and wait for the disk: what was there stays until then.

    Args:
        path: In a folder that exists; a file there is replaced.
        text: Written as UTF-8.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        sync(partial)  # else a machine that stops may keep the new name and no content
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Return once a file's content, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as e:
        if e.errno not in {errno.EINVAL, errno.ENOTSUP}:  # a file system that cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def share(paths: Iterable[Path]) -> None:
    """Let those read files whom their folder lets in: safetensors makes them for their owner alone."""
    for path in paths:
        wanted, found = path.parent.stat().st_mode & 0o666, path.stat().st_mode
        if wanted & ~found:
            with suppress(PermissionError):  # linked to, and of someone else
                path.chmod(stat.S_IMODE(found) | wanted)


def sync_all(paths: Iterable[Path]) -> None:
    """Return once all of some files and folders are on the disk."""
    with ThreadPoolExecutor(_WAITING) as pool:
        list(pool.map(sync, paths))
