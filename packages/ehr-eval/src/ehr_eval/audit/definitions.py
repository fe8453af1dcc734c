"""What the outcome of a task is: by its file, the labels' manifest, or the table of built-in tasks."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import polars as pl
from pydantic import TypeAdapter, ValidationError

from ehr_eval.audit.inputs import Inputs
from ehr_eval.frames import read_events
from ehr_eval.tasks.choice import RECURRENCE
from ehr_eval.tasks.config import LabelsConfig
from ehr_eval.tasks.course import read_course
from ehr_eval.tasks.files import TaskFile
from ehr_eval.tasks.make import read_codebook
from ehr_eval.tasks.patterns import Codebook
from ehr_eval.tasks.record import Events, Record, columns_of
from ehr_tracking.arrow.meds import data_files

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """What the audit needs to know of a task."""

    outcomes: Callable[[Events], pl.DataFrame] | None
    """subject_id, time of what answers it; None where a length of time does."""
    once: bool
    """It cannot have happened before: a death, or a first diagnosis."""
    stays: Callable[[Events], pl.DataFrame] | None = None
    """subject_id, start, end of the stays within which it is asked, if it is."""
    horizon_days: float | None = None
    absent: bool = False
    """Yes where no outcome comes."""
    columns: tuple[str, ...] = ()
    """Of events, beside those that are always read."""


_BUILT_IN = {
    "in_hospital_mortality": (("death", "died"), True, True),
    "long_stay": ((), False, True),
    "mortality_1y": (("death",), True, False),
    "readmission_30d": (("admission",), False, False),
    "new_diagnosis_1y": (("diagnosis",), True, False),
    "abnormal_lab_next_visit": (("lab",), False, False),
    "time_to_death": (("death",), True, False),
    "time_to_readmission": (("admission",), False, False),
    "time_to_diagnosis": (("diagnosis",), True, False),
}
"""Task -> fields of `LabelsConfig` that are its outcome, whether that comes once, whether it is asked in a stay."""


def definitions(inputs: Inputs) -> dict[str, Definition]:
    """Task -> what it is, of the tasks of the labels that are known, whatever these hold."""
    config = validated(LabelsConfig, inputs.label_config) or LabelsConfig()
    files, found = _files(inputs), {}
    book = read_codebook(inputs.meds, data_files(inputs.meds)) if files else None
    for task in inputs.asked:
        file = files.get(task.removesuffix(RECURRENCE))
        if file is not None and book is not None:
            found[task] = _by_file(file, config, book, again=task.endswith(RECURRENCE))
        elif task in _BUILT_IN:
            found[task] = _built_in(task, config)
    return found


def events_of(inputs: Inputs, known: Mapping[str, Definition]) -> Iterator[Events]:
    """The events of each file of the data set, with all that some tasks look at."""
    columns = dict.fromkeys(c for definition in known.values() for c in definition.columns)
    more = (*LabelsConfig().visit_ids, *columns)
    for path in data_files(inputs.meds):
        yield Events(read_events(path, more=tuple(dict.fromkeys(more))))


def validated(kind: type[T], config: Mapping[str, Any]) -> T | None:
    """A config from what a manifest keeps of it and of more; None where it is of another version."""
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    text = json.dumps({name: value for name, value in config.items() if name in known})
    try:
        return TypeAdapter(kind).validate_json(text)
    except ValidationError:
        return None


def _files(inputs: Inputs) -> dict[str, TaskFile]:
    """Task -> its file: of the labels' manifest, and those that were given."""
    told, found = inputs.label_config.get("task_files"), {}
    for name, about in told.items() if isinstance(told, dict) else ():
        if (file := validated(TaskFile, about)) is not None:
            found[name] = file
    return found | inputs.task_files


def _built_in(task: str, config: LabelsConfig) -> Definition:
    names, once, in_stay = _BUILT_IN[task]

    def outcomes(events: Events) -> pl.DataFrame:
        code = pl.any_horizontal(
            pl.col("code").str.contains(getattr(config, name)) for name in names
        )
        value = pl.col("numeric_value")
        high = (value > config.lab_above).fill_null(False) & value.is_not_nan()
        return events.timed.filter(code & (high if names == ("lab",) else True)).select(
            "subject_id", "time"
        )

    def stays(events: Events) -> pl.DataFrame:
        return read_course(events.all, config).stays.select("subject_id", "start", "end")

    return Definition(
        outcomes=outcomes if names else None,
        once=once,
        stays=stays if in_stay else None,
        columns=config.visit_ids,
    )


def _by_file(task: TaskFile, config: LabelsConfig, book: Codebook, *, again: bool) -> Definition:
    """By its file; `again` for the rows of those who have had the outcome."""
    ever = {
        p.regex for p in task.exclude if p.days is None and p.since == "record" and p.times == 1
    }
    outcome = task.outcome or ()
    answers = (
        () if task.answer == "yes" else task.given
    )  # a class or a number, that of the first of these
    first = task.onset != "any" or all(p.regex in ever or "MEDS_DEATH" in p.regex for p in outcome)

    def outcomes(events: Events) -> pl.DataFrame:
        record = Record(events, task, config, book)
        found = record.of(answers) if answers else record.outcomes()
        return found.select("subject_id", "time")

    def stays(events: Events) -> pl.DataFrame:
        return Record(events, task, config, book).course.stays.select("subject_id", "start", "end")

    return Definition(
        outcomes=None if task.stay_days is not None else outcomes,
        once=first and bool(outcome) and not again,
        stays=stays if task.start.until is not None and task.start.at != "end" else None,
        horizon_days=task.horizon_days if task.window == "after" else None,
        absent=task.absent,
        columns=(*config.visit_ids, *columns_of(task)),
    )
