"""Lists of codes that stand in a table beside a task file."""

import csv
from pathlib import Path
from typing import Any

from ehr_tracking.config import ConfigError

_KEYS = {"file", "column"}


def fill_in_codes(tree: Any, path: Path) -> Any:  # noqa: ANN401 -- YAML holds any value
    """A tree of settings with `{file: ..., column: ...}` below each `codes` replaced by what the table lists.

    Args:
        tree: Of a task file.
        path: The file, for messages; tables lie beside it.

    Raises:
        ConfigError: If a table is missing, has no such column, or lists no code.
    """
    if isinstance(tree, list):
        return [fill_in_codes(item, path) for item in tree]
    if not isinstance(tree, dict):
        return tree
    found = {key: fill_in_codes(value, path) for key, value in tree.items()}
    given = found.get("codes")
    if isinstance(given, dict):
        unknown = sorted(map(str, given.keys() - _KEYS))
        if unknown or not isinstance(given.get("file"), str):
            what = f"unknown key {unknown[0]}" if unknown else "file has to be set"
            raise ConfigError(
                f"{path}: codes: {what}; a table is {{file: codes.csv, column: code}}"
            )
        found["codes"] = read_code_table(
            path.parent / given["file"], str(given.get("column", "code"))
        )
    return found


def read_code_table(path: Path, column: str = "code") -> list[str]:
    """The codes that a CSV file lists, each once, in its order; lines that begin with `#` are notes.

    Raises:
        ConfigError: If it is missing, is not text, has no such column, or lists none.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(line for line in file if not line.startswith("#"))
            if column not in (names := rows.fieldnames or []):
                have = f"; it has {', '.join(names)}" if names else ""
                raise ConfigError(f"{path}: no column {column} in this table of codes{have}")
            codes = [(row[column] or "").strip() for row in rows]
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such table of codes") from None
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise ConfigError(f"{path}: not a CSV table ({' '.join(str(e).split())})") from None
    found = list(dict.fromkeys(code for code in codes if code))
    if not found:
        raise ConfigError(f"{path} lists no code yet: fill its column {column}, one code a line")
    return found
