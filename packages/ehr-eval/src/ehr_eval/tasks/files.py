"""Tasks as YAML files: what counts as the outcome, from when on, for how long, and what ends the wait.

One file serves labels of real records (`ehr-eval labels --task-file`) and simulated futures
(`ehr-eval zeroshot --task`).
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from ehr_eval.tasks.config import Days
from ehr_tracking.config import STRICT, ConfigError, Regex, load_config
from ehr_tracking.files import PathLike

Slug = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


def _some(items: tuple["EventPattern", ...]) -> tuple["EventPattern", ...]:
    if not items:
        raise ValueError("name at least one code")
    return items


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EventPattern:
    """Events by their code and, where a bound is set, their value; one without a value then does not count."""

    code: Regex
    """Searched in codes."""
    above: float | None = None
    """Only values strictly above it."""
    below: float | None = None
    """Only values strictly below it."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class StartConfig:
    """When the question is asked."""

    code: Regex
    """What begins a stay: its codes count, here and below, only where they do not continue another."""
    until: Regex | None = None
    """What ends it; null: there are no stays, the code alone counts."""
    at: Literal["begin", "end"] = "begin"
    """Asked at the beginning of a stay, or at its end (of those that are left alive)."""
    hours: Annotated[float, Field(ge=0, le=8766)] = 0.0
    """After that; stays that are over by then are left out."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TaskFile:
    """One yes or no of the future."""

    name: Slug
    doc: str
    """The question in words, and what it needs of the data."""
    start: StartConfig
    """When it is asked, for labels; futures are drawn from the prediction times of labels."""
    outcome: Annotated[tuple[EventPattern, ...], AfterValidator(_some)]
    """What answers yes: any of these, strictly after the prediction time."""
    absent: bool = False
    """Whether the answer is yes where none of them comes instead."""
    stop: tuple[EventPattern, ...] = ()
    """What ends the wait: an outcome later than the moment of the first of these does not count."""
    given: tuple[EventPattern, ...] = ()
    """What decides: the first of these ends the wait, and where neither it nor an outcome comes, there is
    no answer. A risk is then among the futures that have one."""
    exclude: tuple[EventPattern, ...] = ()
    """Not asked of subjects with one of these up to the prediction time."""
    window: Literal["after", "next"] = "after"
    """The wait begins at the prediction time, or at the beginning of the next stay, whose end ends it."""
    horizon_days: Days | None = None
    """How long the wait is, the end included; null: until something ends it."""

    def __post_init__(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            ValueError: If the wait needs stays that `start.until` does not make, or never ends.
        """
        if (self.window == "next" or self.start.at == "end") and self.start.until is None:
            raise ValueError("start.until has to be set: it says where a stay ends")
        ends = self.stop or self.given or self.window == "next"
        if self.horizon_days is None and not ends:
            raise ValueError("set horizon_days, or a stop: the wait has no end")


def read_task_file(path: PathLike) -> TaskFile:
    """Read one task.

    Raises:
        ConfigError: If a key is unknown or missing, or a value is wrong; naming file and key.
    """
    return load_config(TaskFile, path)


def read_task_files(paths: Sequence[PathLike]) -> dict[str, TaskFile]:
    """Read tasks by their names.

    Raises:
        ConfigError: As `read_task_file`, or if two have one name.
    """
    found: dict[str, TaskFile] = {}
    for path in paths:
        task = read_task_file(path)
        if task.name in found:
            raise ConfigError(f"{path}: task {task.name} is given twice")
        found[task.name] = task
    return found
