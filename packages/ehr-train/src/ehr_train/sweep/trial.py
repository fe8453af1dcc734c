"""One trial: a run in a process of its own, watched while it validates."""

import json
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ehr_tracking.errors import Failure, UserError
from ehr_tracking.outputs import held

_LOG, _OUTPUT = "metrics.jsonl", "output.txt"
_POLL = 0.1
"""Seconds between two looks at a run."""
_ATTEMPTS = 3
"""A run that something killed is resumed, but not for ever."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a trial ended."""

    state: Literal["complete", "pruned", "failed", "stopped"]
    why: str = ""
    """The last line that a failed run said."""


class Figures:
    """The values of one figure in a log that grows, and is cut where a run goes on."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name, self._offset = path, name, 0
        self.values: list[float] = []
        """One a validation, the oldest first; those that are no number are left out."""

    def read(self) -> None:
        """Take in the lines that are whole."""
        size = self._path.stat().st_size if self._path.is_file() else 0
        if size < self._offset:
            self._offset, self.values = 0, []
        if size == self._offset:
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            value = json.loads(line).get(self._name)
            if isinstance(value, int | float) and math.isfinite(value):
                self.values.append(float(value))


def run_trial(
    command: Sequence[str],
    out: Path,
    figure: str,
    report: Callable[[list[float]], bool],
    stop: threading.Event,
    environment: Mapping[str, str],
) -> Outcome:
    """Run a command until it is done, going on where it was stopped.

    Args:
        command: With all options but `--out` and `--resume`.
        out: The run directory; what the run says goes into a file beside it.
        figure: Of the log, e.g. `val_loss`.
        report: Called with all values so far when there are new ones; true ends the run.
        stop: Ends the run where it can go on.
        environment: Added to ours.
    """
    _wait_for(out, stop)
    said = out.with_name(f"{out.name}-{_OUTPUT}")
    for _ in range(_ATTEMPTS):
        figures = Figures(out / _LOG, figure)
        with said.open("ab") as output:
            process = subprocess.Popen(
                [*command, "--out", str(out), "--resume"],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        ended = _watch(process, figures, report, stop)
        if ended is not None:
            return ended
        if process.returncode == 0:
            return Outcome("complete")
        if process.returncode == Failure.exit_code:
            break  # it would say so again
    return Outcome("failed", _last_line(said))


def _watch(
    process: "subprocess.Popen[bytes]",
    figures: Figures,
    report: Callable[[list[float]], bool],
    stop: threading.Event,
) -> Outcome | None:
    """Until the process ends; the outcome where it was we who ended it."""
    seen = 0
    while process.poll() is None:
        time.sleep(_POLL)
        figures.read()
        if len(figures.values) != seen:
            seen = len(figures.values)
            if report(figures.values):
                _end(process)
                return Outcome("pruned")
        if stop.is_set():
            _end(process)
            return Outcome("complete" if process.returncode == 0 else "stopped")
    figures.read()
    if len(figures.values) != seen:
        report(figures.values)
    return None


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ask a run to save and end, and wait for it."""
    process.send_signal(signal.SIGTERM)
    process.wait()


def _wait_for(out: Path, stop: threading.Event) -> None:
    """Until no process of a sweep that was killed writes this run any more."""
    while not stop.is_set():
        try:
            with held(out):
                return
        except UserError:
            time.sleep(_POLL)


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
