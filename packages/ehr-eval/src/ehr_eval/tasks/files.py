"""Tasks as YAML files: what counts as the outcome, from when on, for how long, and what ends the wait.

One file serves labels of real records (`ehr-eval labels`) and simulated futures (`ehr-eval zeroshot
--task`). Those of the library are named, any other is a path.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from ehr_eval.tasks.code_tables import fill_in_codes
from ehr_eval.tasks.config import Censored, Days
from ehr_eval.tasks.library import find
from ehr_eval.tasks.patterns import Age, CodePattern, Count, EventPattern, History
from ehr_tracking.config import STRICT, ConfigError, Regex, read_yaml, validate
from ehr_tracking.files import PathLike

Slug = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Hours = Annotated[float, Field(ge=0, le=8766)]


def _some(items: tuple[EventPattern, ...]) -> tuple[EventPattern, ...]:
    if not items:
        raise ValueError("name at least one code")
    return items


@dataclass(frozen=True, kw_only=True, config=STRICT)
class StartConfig(CodePattern):
    """When the question is asked, and of whom."""

    until: Regex | None = None
    """What ends a stay that a code begins: its codes count, here and below, only where they do not
    continue another stay. Null: there are no stays, the code alone counts."""
    ids: tuple[str, ...] | None = None
    """Columns that name the stay of an event, the first that is filled counts; null: `visit_ids`."""
    transfer_hours: Hours | None = None
    """Stays that follow each other within this gap are one; null: the setting of that name."""
    longer_than_hours: Hours | None = None
    """Only stays that last longer, as long as it is known."""
    at: Literal["begin", "end", "every", "random"] = "begin"
    """Asked at the beginning of a stay; at its end (of those that are left alive); at every so many hours of
    it, or of the record where there are no stays; or at some moments of a stay or record, drawn by hash."""
    every_hours: Annotated[float, Field(gt=0)] | None = None
    """How far such times are apart."""
    count: Count = 1
    """How many are drawn of a subject."""
    hours: Hours = 0.0
    """After that; stays that are over by then are left out."""
    minutes_before: Annotated[float, Field(ge=0)] = 0.0
    """Before that, as before a result is known."""
    end_of_day: bool = False
    """At 23:59 of that day. What has happened by the end of the day has happened by then."""
    whole_minutes: bool = False
    """At the beginning of that minute; what has happened since then has happened by then."""
    alive: bool = True
    """Not asked of the dead; at the end of a stay, nor while another one runs on."""
    history_days: Days | None = None
    """Only where so much of the record lies before, birth aside."""
    active_days: Days | None = None
    """Only where something else is recorded within so many days before."""
    min_age: Age | None = None
    """In years, that one included; needs MEDS_BIRTH."""
    max_age: Age | None = None
    """In years, that year included."""

    def __post_init__(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            ValueError: If a code or `until` is missing for what is asked, or what spaces times.
        """
        if self.code is None and not self.codes:
            if self.at not in {"every", "random"} or self.until is not None or self.children:
                raise ValueError("give code, or codes: what begins a stay")
        else:
            super().__post_init__()
            if self.until is None and self.at != "begin":
                raise ValueError("start.until has to be set: it says where a stay ends")
        if (self.at == "every") != (self.every_hours is not None):
            raise ValueError("every_hours goes with `at: every`")

    @property
    def whole_record(self) -> bool:
        """Whether times are those of the record, not of stays."""
        return self.code is None and not self.codes


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TaskFile:
    """One yes or no of the future."""

    name: Slug
    doc: str
    """The question in words, and what it needs of the data."""
    version: Count = 1
    """Raised with each change that can change a label."""
    source: str = ""
    """Where the question and its rule come from."""
    checked: str = ""
    """What its labels were compared with."""
    start: StartConfig
    """When it is asked, for labels; futures are drawn from the prediction times of labels."""
    outcome: Annotated[tuple[EventPattern, ...], AfterValidator(_some)] | None = None
    """What answers yes: any of these, strictly after the prediction time."""
    together: tuple[Annotated[tuple[EventPattern, ...], AfterValidator(_some)], ...] = ()
    """Instead: groups of which each has to have come, before or after the prediction time. The outcome is
    the moment at which the last of them comes for the first time. Labels alone."""
    stay_days: Days | None = None
    """Instead: yes is a stay of that length or longer. Labels alone."""
    answer: Literal["yes", "code", "value"] = "yes"
    """What labels hold: yes or no (`boolean_value`); or instead of an outcome, of the first event of `given`
    the last part of its code (`categorical_value`), or its value (`float_value`). Labels alone."""
    absent: bool = False
    """Whether the answer is yes where none of them comes instead."""
    stop: tuple[EventPattern, ...] = ()
    """What ends the wait: an outcome later than the moment of the first of these does not count."""
    given: tuple[EventPattern, ...] = ()
    """What decides: the first of these ends the wait, and where neither it nor an outcome comes, there is
    no answer. A risk is then among the futures that have one."""
    exclude: tuple[History, ...] = ()
    """Not asked of subjects with one of these up to the prediction time."""
    require: tuple[History, ...] = ()
    """Asked only of subjects with one of these up to the prediction time."""
    onset: Literal["any", "new", "both"] = "any"
    """Which outcomes: `new`, not asked of subjects who have had it by the prediction time; `both`: those
    are a task of their own, `recurrence.<name>`."""
    grades: tuple[EventPattern, ...] = ()
    """Of the events of `outcome`, ever more severe ones: labels have a column `severity`, 1 where the answer
    is yes, one more for each of these that comes. Labels alone."""
    window: Literal["after", "next", "moment"] = "after"
    """The wait begins at the prediction time, or at the beginning of the next stay, whose end ends it; or it
    is but the moment of what the question comes before (`start.minutes_before`)."""
    from_days: Days | None = None
    """The wait begins so many days later, that moment included. Labels alone."""
    horizon_days: Days | None = None
    """How long the wait is from the prediction time, the end included; null: until something ends it."""
    censored: Censored | None = None
    """As the setting of that name, for this task."""

    def __post_init__(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            ValueError: If there is not one outcome, the wait needs stays that `start.until` does not make,
                or it never ends.
        """
        outcomes = [self.outcome is not None, bool(self.together), self.stay_days is not None]
        if self.answer != "yes":
            if any(outcomes) or not self.given or self.grades or self.onset != "any":
                raise ValueError(f"answer: {self.answer} is of `given`, and goes with no outcome")
        elif sum(outcomes) != 1:
            raise ValueError("give one of outcome, together and stay_days")
        if self.start.until is None and (self.window == "next" or self.stay_days is not None):
            raise ValueError("start.until has to be set: it says where a stay ends")
        if self.stay_days is not None and self.onset != "any":
            raise ValueError("a stay has no onset; name an outcome")
        if self.together and self.onset == "both":
            raise ValueError("what comes together comes once: it has no recurrence")
        if self.window == "moment" and not (self.start.minutes_before and self.start.at == "begin"):
            raise ValueError("window: moment goes with start.minutes_before")
        ends = self.stop or self.given or self.window != "after" or self.stay_days is not None
        if self.horizon_days is None and not ends:
            raise ValueError("set horizon_days, or a stop: the wait has no end")

    def groups(self) -> dict[str, tuple[CodePattern, ...]]:
        """Its patterns of codes by what they are for; a group of `together` each, what begins a stay first."""
        begins = () if self.start.whole_record else (self.start,)
        together = {f"together.{n}": group for n, group in enumerate(self.together)}
        until = (CodePattern(code=self.start.until),) if self.start.until else ()
        named = {"start": begins, "start.until": until, "outcome": self.outcome or (), **together}
        for name in ("given", "require", "stop", "exclude", "grades"):
            named[name] = getattr(self, name)
        return {name: tuple(patterns) for name, patterns in named.items() if patterns}

    def for_labels_alone(self) -> str | None:
        """The setting, if any, by which its answer can be told of real records alone."""
        for name in ("together", "stay_days", "from_days", "grades"):
            if getattr(self, name):
                return name
        if self.window == "moment":
            return "window: moment"
        if self.answer != "yes":
            return f"answer: {self.answer}"
        for name in ("outcome", "stop", "given"):
            for pattern in getattr(self, name) or ():
                if settings := pattern.for_labels_alone():
                    return f"{name}.{min(settings)}"
        return None


def read_task_file(path: PathLike) -> TaskFile:
    """Read one task.

    Args:
        path: The file, or the name of a task of the library.

    Raises:
        ConfigError: If a key is unknown or missing, a value is wrong, or a table of codes is missing or
            empty; naming file and key.
    """
    file = find(path)
    tree = fill_in_codes(read_yaml(file), file)
    return validate(TaskFile, tree, where=str(file))


def read_task_files(paths: Sequence[PathLike]) -> dict[str, TaskFile]:
    """Read tasks by their names.

    Raises:
        ConfigError: As `read_task_file`, or if two have one name.
    """
    found: dict[str, TaskFile] = {}
    for path in paths:
        task = read_task_file(path)
        if task.name in found:
            raise ConfigError(f"{Path(path)}: task {task.name} is given twice")
        found[task.name] = task
    return found
