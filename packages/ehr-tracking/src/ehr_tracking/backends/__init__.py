"""Where a run tells of its steps: `Tracker`, and the table of those that there are."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from ehr_tracking.errors import UserError


class Tracker(Protocol):
    """Is told of each step of one run; the first process of a run has it."""

    def step(self, metrics: Mapping[str, Any], timings: Mapping[str, Any]) -> None:
        """Take note of a step, for good once this returns.

        Args:
            metrics: `step` and figures that are the same in every run of the same work.
            timings: `step` and figures that are not.
        """
        ...

    def rewind(self, step: int) -> None:
        """Take back what a killed run told after `step`, from where it goes on."""
        ...


@dataclass(frozen=True, slots=True)
class Backend:
    """One kind of tracker."""

    module: str
    """Imported when a tracker is opened, since it may need an extra."""
    tracker: str
    """Its class there, made from the run directory."""
    doc: str


TRACKERS = {
    "jsonl": Backend(
        "ehr_tracking.backends.jsonl", "Jsonl", "metrics.jsonl and timings.jsonl in the run"
    ),
}
"""Name -> what tells of a run in that way; adding one is a module and a line here."""


def open_tracker(name: str, run: Path) -> Tracker:
    """Open a tracker of a run that begins or goes on.

    Args:
        name: Of `TRACKERS`.
        run: The run directory.

    Raises:
        UserError: If there is no such tracker.
    """
    if name not in TRACKERS:
        raise UserError(f"no tracker {name}; choose one of {', '.join(TRACKERS)}")
    backend = TRACKERS[name]
    tracker: Tracker = getattr(import_module(backend.module), backend.tracker)(run)
    return tracker
