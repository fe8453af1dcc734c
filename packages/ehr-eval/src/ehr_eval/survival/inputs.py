"""Labels with durations and the features of their rows, by split.

n rows of a split.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from ehr_eval.features.read import FeatureSet, align_all, read_features
from ehr_eval.frames import KEY, PRODUCER
from ehr_eval.judge.metrics.ranked import Floats
from ehr_eval.survival.config import SurvivalConfig
from ehr_tracking.arrow import labels as label_reader
from ehr_tracking.config import ConfigError
from ehr_tracking.contracts import HELD_OUT, SPLITS, TRAIN, ContractError
from ehr_tracking.errors import UserError


class Rows(NamedTuple):
    """The rows of a task in one split, in order of subject and time."""

    key: pl.DataFrame
    """[n] subject_id, prediction_time."""
    days: Floats
    """[n] to the event, or to where nothing is known any more."""
    event: npt.NDArray[np.bool_]
    """[n] which of the two."""
    row: Mapping[str, npt.NDArray[np.int64]]
    """Model -> [n] row of its features."""


@dataclass(frozen=True, slots=True, eq=False)
class TimedTask:
    """A task with durations."""

    name: str
    splits: Mapping[str, Rows]

    @property
    def problem(self) -> str | None:
        """Why nothing can be fitted or judged."""
        for split in SPLITS:
            if not len(self.splits[split].days):
                return f"no row in {split}"
        for split in (TRAIN, HELD_OUT):
            event = self.splits[split].event
            if not event.any():
                return f"no event in {split}: all {len(event):,} rows are censored"
        return None


def open_tasks(
    labels: Path, features: Mapping[str, Path], config: SurvivalConfig
) -> tuple[list[TimedTask], dict[str, FeatureSet]]:
    """Read labels and features, and bring them to the same rows.

    Args:
        labels: With `duration_days`.
        features: Name -> `features/1`; they say which row is in which split.
        config: Which tasks.

    Raises:
        ContractError: If an input is not what it should be, a duration is negative, an event is at the
            prediction time itself, or features lack a label.
        ConfigError: If the config names a task that has no durations.
        UserError: If there are no features, or no task can be judged.
    """
    if not features:
        raise UserError("no features were given; name some with NAME=PATH, the counts at least")
    sets = {name: read_features(path) for name, path in features.items()}
    tables = label_reader.read_labels(labels, reader=PRODUCER, columns=config.labels)
    timed = {task: t for task, t in tables.items() if label_reader.DURATION in t.column_names}
    if not timed:
        raise ContractError(
            f"{labels} has no task with {label_reader.DURATION}; make some, as with `ehr-eval labels "
            "--task time_to_death`"
        )
    unknown = sorted(set(config.tasks or ()) - timed.keys())
    if unknown:
        raise ConfigError(
            f"tasks: {labels} has no task {unknown[0]} with durations; it has {', '.join(timed)}"
        )
    tasks = []
    for name in config.tasks or sorted(timed):
        table = label_reader.time_to_event(timed[name], task=name)
        tasks.append(_task(name, pl.DataFrame(pl.from_arrow(table)).sort(KEY), sets))
    if all(task.problem for task in tasks):
        why = "; ".join(f"{task.name}: {task.problem}" for task in tasks)
        raise UserError(f"{labels}: nothing can be judged ({why})")
    return tasks, sets


def _task(name: str, labels: pl.DataFrame, sets: Mapping[str, FeatureSet]) -> TimedTask:
    at_once = labels.filter(pl.col("boolean_value") & (pl.col("duration_days") == 0))
    if at_once.height:
        subject, time = at_once.select(KEY).row(0)
        raise ContractError(
            f"task {name} has an event 0 days after the prediction time, of subject {subject} at {time}: "
            "what has happened by then is no outcome; leave such rows out"
        )
    aligned, splits = align_all(name, labels, sets), {}
    for each in SPLITS:
        part = aligned.filter(split=each)
        splits[each] = Rows(
            key=part.select(KEY),
            days=part["duration_days"].to_numpy().astype(np.float64),
            event=part["boolean_value"].to_numpy().astype(bool),
            row={model: part[f"row.{model}"].to_numpy() for model in sets},
        )
    return TimedTask(name, splits)
