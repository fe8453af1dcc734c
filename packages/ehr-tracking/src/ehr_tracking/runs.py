"""The log of one run: JSON lines that survive a kill and continue on resume."""

import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ehr_tracking.files import PathLike, write_whole

_REPORTED = (
    "ehr-tokenize", "ehr-models", "ehr-train", "ehr-eval", "ehr-tracking",
    "torch", "transformers", "numpy", "polars", "pyarrow", "safetensors", "scikit-learn", "lightgbm",
)  # fmt: skip


class RunLog:
    """Appends records to one JSON-lines file."""

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record and hand it to the operating system; floats keep every bit.

        Raises:
            ValueError: If a value is NaN or infinite: JSON has neither.
        """
        line = json.dumps(record, allow_nan=False) + "\n"
        with self.path.open("a", encoding="utf-8") as f:
            f.write(line)

    def rewind(self, step: int) -> None:
        """Drop what a killed run wrote after `step`, and a torn last line.

        Args:
            step: Records with a greater `step` go; those without a `step` stay.
        """
        kept = [r for r in read_log(self.path) if r.get("step", step) <= step]
        write_whole(self.path, "".join(json.dumps(r, allow_nan=False) + "\n" for r in kept))


def read_log(path: PathLike) -> list[dict[str, Any]]:
    """Every whole record of a log, oldest first; a torn last line is left out.

    Raises:
        ValueError: If a line other than the last is damaged.
    """
    path = Path(path)
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    if lines[-1]:  # no newline: the writer was killed within this line
        lines[-1] = ""
    records = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as e:
            raise ValueError(f"{path}, line {number}: not JSON: {e.msg}") from None
    return records


def environment() -> dict[str, Any]:
    """What a reviewer needs to set up the same: Python, platform, processor, cores, versions."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "packages": {name: v for name in _REPORTED if (v := _version(name)) is not None},
    }


def _processor() -> str:
    """Its name where the system tells one, else the kind of machine."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text(encoding="utf-8").splitlines() if known.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, None) or platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
