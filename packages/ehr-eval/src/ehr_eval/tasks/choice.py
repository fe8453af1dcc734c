"""Which tasks are labelled: built in, of the library, of files, of ACES; and why others are not."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from ehr_eval.tasks.aces import AcesTask, read_aces_tasks
from ehr_eval.tasks.asked import ALREADY
from ehr_eval.tasks.by_file import label_by_file, lacking_codes, require_codes
from ehr_eval.tasks.chexpert import FINDINGS, label_reports, read_reports, task_name
from ehr_eval.tasks.config import LabelsConfig
from ehr_eval.tasks.course import Course
from ehr_eval.tasks.files import TaskFile, read_task_file, read_task_files
from ehr_eval.tasks.labelers import LEFT_OUT
from ehr_eval.tasks.library import library_files, of_collection
from ehr_eval.tasks.patterns import Codebook
from ehr_eval.tasks.record import Events, columns_of
from ehr_eval.tasks.registry import TASKS, choose
from ehr_tracking.config import ConfigError, to_dict
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike
from ehr_tracking.tree import note

RECURRENCE = "recurrence."
"""Before the name of a task: the rows of those who have had the outcome."""
Rows = dict[str, pl.DataFrame]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is to be labelled."""

    task_files: Sequence[PathLike] = ()
    """Tasks as YAML, or of the library by name."""
    collections: Sequence[str] = ()
    """Every task of these collections of the library that the data set can have."""
    aces: Sequence[PathLike] = ()
    """Tasks of ACES."""
    predicates: PathLike | None = None
    """Of ACES, in the place of their own."""
    chexpert: PathLike | None = None
    """A table of reports, for the chest X-ray tasks of EHRSHOT."""

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.task_files or self.collections or self.aces or self.chexpert)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """One task to label, which may give two sets of labels."""

    label: Callable[[Events, Course | None], Rows]
    """From the events of whole subjects, and what they were cut up into, to rows by name."""
    definitions: Mapping[str, str]
    """Name -> what is asked."""
    columns: tuple[str, ...] = ()
    """Of events, beside those that are always read."""
    by_course: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)
    """For the manifest."""
    inputs: Mapping[str, Path] = field(default_factory=dict)
    """What it reads beside events."""


def choose_all(
    config: LabelsConfig, asked: Asked, book: Codebook
) -> tuple[dict[str, Chosen], dict[str, str]]:
    """The tasks to label, and why some are skipped.

    Raises:
        UserError: If one that was named does not fit the data set or is there twice, or none is left.
        ConfigError: If a file is no task.
    """
    built_in, library = _named(config)
    chosen: dict[str, Chosen] = {}
    skipped: dict[str, str] = {}
    if built_in or not (asked or config.tasks is not None):
        only = replace(config, tasks=tuple(built_in) if config.tasks is not None else None)
        names, skipped = choose(only, book.codes)
        chosen = {name: _built_in(name, config) for name in names}
    for task in read_task_files([*asked.task_files, *library]).values():
        require_codes(book, task)
        _add(chosen, task.name, _by_file(task, config, book))
    skipped |= _add_collections(chosen, asked.collections, config, book)
    tasks, faults = read_aces_tasks(asked.aces, asked.predicates)
    skipped |= faults
    for name, aces in tasks.items():
        needed, absent = aces.lacking(book.codes)
        if needed:
            skipped[name] = f"{aces.path}: no code of the data set is predicate {', '.join(needed)}"
            continue
        if absent:
            note(
                f"{aces.path}: no code of the data set is predicate {', '.join(absent)}; asked without"
            )
        _add(chosen, name, _by_aces(name, aces))
    if asked.chexpert:
        _add(chosen, "chexpert", _by_reports(asked.chexpert))
    if not chosen:
        why = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise UserError(f"no task can be labelled: {why}")
    return chosen, skipped


def _add_collections(
    chosen: dict[str, Chosen], names: Sequence[str], config: LabelsConfig, book: Codebook
) -> dict[str, str]:
    """Add what fits of some collections; returns why the others do not."""
    skipped = {}
    for collection in names:
        for name, path in of_collection(collection).items():
            if name in chosen:
                continue
            task_or_why = _fitting(path, book)
            if isinstance(task_or_why, str):
                skipped[name] = task_or_why
            else:
                chosen[name] = _by_file(task_or_why, config, book)
    return skipped


def _named(config: LabelsConfig) -> tuple[list[str], list[str]]:
    """The built-in tasks that are named, and those of the library."""
    built_in = [name for name in config.tasks or () if name in TASKS]
    library = [name for name in config.tasks or () if name not in TASKS]
    there = library_files()
    unknown = [name for name in library if name not in there]
    if unknown:
        raise UserError(
            f"unknown task {unknown[0]}; there are {', '.join(TASKS)}, and those of the library "
            "(`ehr-eval tasks`)"
        )
    return built_in, library


def _fitting(path: Path, book: Codebook) -> TaskFile | str:
    """A task of the library, or why a data set cannot have it."""
    try:
        task = read_task_file(path)
    except ConfigError as e:  # a table of codes that is to be filled
        return str(e)
    lacking = lacking_codes(book, task)
    if not lacking:
        return task
    (first, told), *others = lacking.items()
    nor = f", nor {', '.join(name for name, _ in others)}" if others else ""
    return f"no code matches {first} = {told}{nor}"


def _add(chosen: dict[str, Chosen], name: str, task: Chosen) -> None:
    if name in chosen:
        raise UserError(f"task {name} is named and given as a file; leave one out")
    chosen[name] = task


def _built_in(name: str, config: LabelsConfig) -> Chosen:
    task = TASKS[name]

    def label(_: Events, course: Course | None) -> Rows:
        return {name: task.labeler(course, config)} if course else {}

    return Chosen(label=label, definitions={name: task.define(config)}, by_course=True)


def _by_file(task: TaskFile, config: LabelsConfig, book: Codebook) -> Chosen:
    more = f"{RECURRENCE}{task.name}"
    if config.recurrence and task.onset == "new" and not task.together:
        task = replace(task, onset="both")

    def label(events: Events, _: Course | None) -> Rows:
        rows = label_by_file(events, task, config, book)
        if task.onset != "both":
            return {task.name: rows.drop("recurrent")}
        again = pl.col("recurrent") & pl.col(LEFT_OUT).is_null()
        known = rows.with_columns(pl.when(again).then(pl.lit(ALREADY)).otherwise(LEFT_OUT).alias(LEFT_OUT))  # fmt: skip
        return {
            task.name: known.drop("recurrent"),
            more: rows.filter("recurrent").drop("recurrent"),
        }

    definitions = {task.name: task.doc}
    if task.onset == "both":
        definitions[more] = f"{task.doc} Of those who have had it already."
    about = {"task_files": {task.name: to_dict(task)}}
    return Chosen(label=label, definitions=definitions, columns=columns_of(task), about=about)


def _by_reports(path: PathLike) -> Chosen:
    reports = read_reports(path)

    def label(events: Events, _: Course | None) -> Rows:
        return label_reports(reports, events.spans.select("subject_id", "begins"))

    told = {
        task_name(f): f"Does a chest X-ray show: {f}? Asked 24 hours before the report."
        for f in FINDINGS
    }
    return Chosen(label=label, definitions=told, inputs={"chexpert": Path(path)})


def _by_aces(name: str, task: AcesTask) -> Chosen:
    def label(events: Events, _: Course | None) -> Rows:
        return {name: task.label(events.all)}

    definition = task.text.partition("\n")[0].lstrip("# ")
    told = definition if task.text.startswith("#") else f"As {task.path.name} says, by ACES."
    about = {"aces": {name: task.text}}
    return Chosen(label=label, definitions={name: told}, columns=task.columns, about=about)
