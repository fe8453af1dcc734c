"""Text files that are whole or not there."""

from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a file beside `path` and rename it: what was there stays until all is written.

    Args:
        path: In a folder that exists; a file there is replaced.
        text: Written as UTF-8.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
