"""Labels as tasks of yes and no: EHRSHOT's severities and chest X-rays are made such."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pyarrow as pa

from ehr_eval.frames import KEY, PRODUCER
from ehr_eval.tasks.chexpert import FINDINGS, bits, task_name
from ehr_tracking.arrow import labels as label_reader
from ehr_tracking.arrow.label_csv import LabelColumns
from ehr_tracking.contracts import ContractError
from ehr_tracking.files import PathLike
from ehr_tracking.tree import note

CHEXPERT, LAB = "chexpert", "lab_"
"""What EHRSHOT calls them: its chest X-ray task, and the beginning of its laboratory tasks."""
_INTEGER = "integer_value"


class LabelTasks(NamedTuple):
    """What labels hold."""

    tables: dict[str, pl.DataFrame]
    """Task -> subject_id, prediction_time, boolean_value; sorted by the first two, without duplicates."""
    left_out: dict[str, str]
    """Task -> why its labels cannot be used."""


def read_tasks(path: Path, columns: LabelColumns | None = None) -> LabelTasks:
    """Read labels; a task that cannot be used does not keep others from being used.

    A task `chexpert` of whole numbers becomes one of yes and no for each of 14 findings (the first is the highest
    bit); of tasks `lab_*` of whole numbers, severities from 1 on are yes. Times to an event are no yes or no: they
    are left out, and said.

    Args:
        path: As of `ehr_tracking.arrow.labels.read_labels`.
        columns: What a CSV file calls its columns.

    Raises:
        ContractError: If no task can be used, with the first reason.
    """
    read, left_out = label_reader.try_labels(path, reader=PRODUCER, columns=columns)
    timed = [task for task, t in read.items() if label_reader.DURATION in t.column_names]
    if timed:
        note(f"with durations, so for `ehr-eval survival`: {', '.join(timed)}")
    tables: dict[str, pl.DataFrame] = {}
    for task, table in read.items():
        if task in timed:
            continue
        try:
            tables |= dict(yes_or_no(task, table))
        except ContractError as e:
            left_out[task] = str(e)
    if not tables and left_out:
        raise ContractError(next(iter(left_out.values())))
    return LabelTasks(tables, left_out)


def read_labels(path: PathLike, columns: LabelColumns | None = None) -> dict[str, pl.DataFrame]:
    """Task -> subject_id, prediction_time, boolean_value, as of `read_tasks`; why others are left out is printed.

    Args:
        path: As of `read_tasks`.
        columns: What a CSV file calls its columns.

    Raises:
        ContractError: As `read_tasks`.
    """
    tables, left_out = read_tasks(Path(path), columns)
    for why in left_out.values():
        note(f"left out: {why}")
    return tables


def yes_or_no(task: str, table: pa.Table) -> Iterator[tuple[str, pl.DataFrame]]:
    """A task, or those that it is made up of, as yes and no.

    Args:
        task: Its name.
        table: As of `ehr_tracking.arrow.labels.read_labels`.

    Yields:
        Name and subject_id, prediction_time, boolean_value.

    Raises:
        ContractError: If a value is neither.
    """
    if _INTEGER in table.column_names and not table[_INTEGER].null_count:
        frame = pl.DataFrame(pl.from_arrow(table.select([*KEY, _INTEGER])))
        number = frame[_INTEGER]
        if task == CHEXPERT:
            yield from _findings(task, frame)
            return
        if task.startswith(LAB) and number.is_between(0, 3).all():
            yield task, frame.select(*KEY, boolean_value=pl.col(_INTEGER) >= 1)
            return
    yield task, pl.DataFrame(pl.from_arrow(label_reader.binary(table, task=task)))


def _findings(task: str, frame: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    try:
        known = {number: bits(number) for number in frame[_INTEGER].unique().to_list()}
    except ValueError as e:
        raise ContractError(f"task {task}: {e}") from None
    for finding in FINDINGS:
        said = {number: answers[finding] for number, answers in known.items()}
        value = pl.col(_INTEGER).replace_strict(said, return_dtype=pl.Boolean)
        yield task_name(finding), frame.select(*KEY, boolean_value=value)
