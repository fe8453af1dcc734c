"""What a command is given: its config and words as a job has them, and as they count in a key."""

import dataclasses
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from ehr_tracking.config import ConfigError
from ehr_tracking.manifest import raw_source


def as_given(config: Any) -> dict[str, Any]:  # noqa: ANN401 -- the config of any command
    """A config as plain JSON values, its paths absolute: a job runs elsewhere."""
    return _plain(config, lambda path: str(path.absolute()))


def word_of(word: str) -> str:
    """A word of a command, absolute where it names a file."""
    return str(Path(word).absolute()) if Path(word).is_file() else word


class Contents:
    """What files hold, each looked into once: many parts of a graph are given the same."""

    def __init__(self) -> None:
        self._of = cache(_content)

    def config(self, config: Any) -> dict[str, Any]:  # noqa: ANN401 -- the config of any command
        """As `as_given`, each path replaced by a number of what lies there.

        Raises:
            ConfigError: Where nothing does.
        """
        return _plain(config, self._of)

    def word(self, word: str) -> str:
        """What a word of a command says: what is in the file, where it names one."""
        return self._of(Path(word)) if Path(word).is_file() else word


def _content(path: Path) -> str:
    """SHA-256 of a file, or of all below a directory by relative path and content.

    Raises:
        ConfigError: If there is neither.
    """
    if not path.exists():
        raise ConfigError(f"{path}: no such file or directory, though a config names it")
    return raw_source(path, contract="file").fingerprint


def _plain(config: Any, of_path: Callable[[Path], str]) -> dict[str, Any]:  # noqa: ANN401
    tree: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config), default=of_path))
    return tree
