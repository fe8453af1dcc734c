"""The log of a run's steps: what can be reproduced apart from what cannot, and who reads along."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ehr_tracking.files import PathLike
from ehr_tracking.runs import RunLog

_METRICS, _TIMINGS = "metrics.jsonl", "timings.jsonl"
_BLOCK = 1 << 22
"""Bytes that are read at once."""


class StepLog:
    """`metrics.jsonl` and `timings.jsonl` of a run, a line a step in each."""

    def __init__(self, run: PathLike) -> None:
        """Open or create the log of a run directory."""
        self.metrics = RunLog(Path(run) / _METRICS)
        self.timings = RunLog(Path(run) / _TIMINGS)

    def append(self, metrics: Mapping[str, Any], timings: Mapping[str, Any]) -> None:
        """Append a line to each file; the metrics last, since they tell that a step is done.

        Args:
            metrics: `step` and figures that are the same in every run of the same work.
            timings: `step` and figures that are not.
        """
        self.timings.append(timings)
        self.metrics.append(metrics)

    def rewind(self, step: int) -> None:
        """Drop what a killed run wrote after `step`, from where it goes on, and a torn last line."""
        self.timings.rewind(step)
        self.metrics.rewind(step)


class StepReader:
    """Reads a log that another process may be writing, or may rewind."""

    def __init__(self, run: PathLike) -> None:
        """Begin at the first step of a run directory."""
        self._metrics = _Tail(Path(run) / _METRICS)
        self._timings = _Tail(Path(run) / _TIMINGS)
        self._halves: tuple[dict[int, dict[str, Any]], dict[int, dict[str, Any]]] = {}, {}

    def read(self) -> list[dict[str, Any]]:
        """Steps that were appended since the last call, figures and timings of each in one.

        Some steps come anew after a rewind: who must not hear twice has to look at `step`. After an
        empty answer all that the log holds has been read.
        """
        metrics, timings = self._halves
        while True:
            # a step's timings are there before its metrics are
            before = len(metrics), len(timings)
            metrics |= {r["step"]: r for r in self._metrics.read()}
            timings |= {r["step"]: r for r in self._timings.read()}
            whole = sorted(metrics.keys() & timings.keys())
            if whole or (len(metrics), len(timings)) == before:
                return [{**timings.pop(step), **metrics.pop(step)} for step in whole]


class _Tail:
    """New whole lines of a file that grows; from the first again where it was replaced."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file, self._offset = 0, 0

    def read(self) -> Iterator[dict[str, Any]]:
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            found = os.fstat(file.fileno())
            if found.st_ino != self._file or found.st_size < self._offset:
                self._file, self._offset = found.st_ino, 0
            file.seek(self._offset)
            block = file.read(_BLOCK)
        whole = block[: block.rfind(b"\n") + 1]
        self._offset += len(whole)
        yield from map(json.loads, whole.splitlines())
