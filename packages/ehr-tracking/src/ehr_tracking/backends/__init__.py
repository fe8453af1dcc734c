"""Where a run is shown while it trains: `Tracker`, and the table of all there are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from ehr_tracking.errors import UserError

Status: TypeAlias = Literal["finished", "failed", "killed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """What a tracker is told of a run at its start: no data, and no path of this machine."""

    name: str
    params: Mapping[str, Any]
    """Dotted key of the config -> value."""
    tags: Mapping[str, str]
    """Producer, and the fingerprint of each input."""


class Tracker(Protocol):
    """Shows one run elsewhere; one process of a run has it.

    It is made from where it shows the run, the run directory, the run's card, and its own id of the run
    where it has one already. Whatever it raises, the run goes on.
    """

    id: str
    """Under which it goes on with the run after a kill."""
    last: int
    """Step that it was told of last, as it knows itself; 0 before the first. It hears of none twice."""

    def steps(self, steps: Sequence[Mapping[str, Any]]) -> None:
        """Take note of steps behind `last`, for good once this returns: `step` and figures of each."""
        ...

    def end(self, status: Status, tags: Mapping[str, str], files: Mapping[str, Path]) -> None:
        """Take note of the end.

        Args:
            status: How it ended; a run that was killed may go on.
            tags: Fingerprints of its checkpoints.
            files: Name -> what people read of it: summary, report, plots.
        """
        ...


@dataclass(frozen=True, slots=True)
class Backend:
    """One kind of tracker."""

    module: str
    """Imported when a tracker is opened."""
    tracker: str
    """Its class there."""
    needs: str
    """Module of the library, which the extra of the same name brings."""
    where: str | None
    """Where it shows a run, by default; None: it has to be said."""
    doc: str


TRACKERS = {
    "mlflow": Backend(
        "ehr_tracking.backends.mlflow", "Mlflow", "mlflow", None,
        "an MLflow server: mlflow:http://127.0.0.1:5000, with #EXPERIMENT behind it if you like",
    ),
    "tensorboard": Backend(
        "ehr_tracking.backends.tensorboard", "TensorBoard", "tensorboard", "tensorboard",
        "event files in the folder tensorboard of the run, or in another: tensorboard:FOLDER",
    ),
    "wandb": Backend(
        "ehr_tracking.backends.wandb", "Wandb", "wandb", "ehr-train",
        "an offline run of Weights & Biases in the run, of project ehr-train or wandb:PROJECT",
    ),
}  # fmt: skip
"""Name -> what shows a run in that way; adding one is a module and a line here."""


def parse(spec: str) -> tuple[Backend, str]:
    """A tracker as `--track` names it, and where it shows the run.

    Args:
        spec: `NAME` or `NAME:WHERE`.

    Raises:
        UserError: If there is no such tracker, or it is not said where.

    Examples:
        >>> parse("wandb:readmission")[1]
        'readmission'
        >>> parse("mlflow")
        Traceback (most recent call last):
        ehr_tracking.errors.UserError: tracker mlflow has to know where: an MLflow server: mlflow:http://127.0.0.1:5000, with #EXPERIMENT behind it if you like
    """
    name, _, where = spec.partition(":")
    if name not in TRACKERS:
        raise UserError(f"no tracker {name}; choose one of {', '.join(TRACKERS)}")
    backend = TRACKERS[name]
    if not where and backend.where is None:
        raise UserError(f"tracker {name} has to know where: {backend.doc}")
    return backend, where or str(backend.where)


def check_trackers(specs: Sequence[str]) -> None:
    """Refuse what cannot be a tracker; contacts nothing.

    Raises:
        UserError: For a name that there is not, twice the same, or a library that is not installed.
    """
    for i, spec in enumerate(specs):
        backend, _ = parse(spec)
        if spec in specs[:i]:
            raise UserError(f"tracker {spec} is named twice")
        if find_spec(backend.needs) is None:
            raise UserError(
                f"tracker {spec} needs {backend.needs}: install ehr-tracking[{backend.needs}]"
            )


def open_tracker(spec: str, run: Path, card: Card, known: str | None = None) -> Tracker:
    """Open a tracker of a run that begins or goes on.

    Args:
        spec: As of `parse`.
        run: The run directory.
        card: What the run is.
        known: The tracker's id of the run, where it has one.
    """
    backend, where = parse(spec)
    made: Tracker = getattr(import_module(backend.module), backend.tracker)(where, run, card, known)
    return made
