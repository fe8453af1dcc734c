"""Labels, predictions of one or several models, and who the rows are of: opened and checked.

n held-out rows of a task, m tuning rows.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from ehr_eval.frames import KEY, read_subjects, require_tasks
from ehr_eval.judge.groups import read_groups
from ehr_eval.judge.metrics.ranked import Floats
from ehr_eval.judgement.config import JudgeConfig
from ehr_eval.predictions import Draw, Predicted, prediction_files, read_aligned
from ehr_eval.tasks.label_tasks import read_labels
from ehr_tracking.arrow.labels import require_known
from ehr_tracking.arrow.meds import data_files
from ehr_tracking.config import ConfigError
from ehr_tracking.contracts import HELD_OUT, RESULTS, TUNING, ContractError
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import MANIFEST, check_file, load_manifest
from ehr_tracking.names import require_name
from ehr_tracking.tree import note

_PREDICTED = "predictions"
"""Folder of `results/1`."""
_ALL = Draw(-1, 0)


class Files(NamedTuple):
    """Where one model says something of one task."""

    where: Path
    held_out: Sequence[Path]
    tuning: Sequence[Path]


class Told(NamedTuple):
    """What one model says of one task."""

    held_out: Predicted
    tuning: Floats | None
    """[m] of the tuning rows; None where they are not predicted."""


@dataclass(slots=True, eq=False)
class TaskInput:
    """A task with what the models say of it."""

    name: str
    rows: pl.DataFrame
    """[n] subject_id, prediction_time, boolean_value, split of held-out rows, in order."""
    tuning: pl.DataFrame
    """[m] the same of tuning rows."""
    groups: pl.DataFrame
    """[n] the group of each held-out row by each attribute."""
    told: dict[str, Told] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    """Model -> why it cannot be judged."""

    @property
    def label(self) -> npt.NDArray[np.bool_]:
        """[n] outcomes."""
        return _labels(self.rows)

    @property
    def tuning_label(self) -> npt.NDArray[np.bool_]:
        """[m] outcomes."""
        return _labels(self.tuning)

    @property
    def subject_id(self) -> npt.NDArray[np.int64]:
        """[n] whose rows they are."""
        return self.rows["subject_id"].to_numpy()


def open_tasks(
    labels: Path, predictions: Mapping[str, Path], meds: Path, config: JudgeConfig
) -> list[TaskInput]:
    """Open everything; what is wrong with one model's predictions of one task stays with these.

    Args:
        labels: `labels/1` or a tree of MEDS labels.
        predictions: Name -> `predictions/1` or a folder like it, or `results/1`.
        meds: The data set that was labelled: its splits and events.
        config: Tasks, groups.

    Returns:
        Those tasks that any model predicts.

    Raises:
        ContractError: If labels, data set or a folder of predictions cannot be read.
        ConfigError: If the config names a task, a baseline or codes that are not there.
        UserError: If two models have one name, or no model predicts a task of the labels.
    """
    tables = read_labels(labels, config.labels)
    require_tasks(config.tasks, tables, labels)
    files = data_files(meds)
    subjects = read_subjects(meds, files, seed=config.seed)
    told = {t: table.select("subject_id").to_arrow() for t, table in tables.items()}
    require_known(told, subjects["subject_id"].to_numpy(), where=meds)
    models: dict[str, dict[str, Files]] = {}
    for name, path in predictions.items():
        require_name(name, "model")
        for model, of_task in models_of(name, path, tables.keys()).items():
            if model in models:
                raise UserError(f"two models are called {model}; give one another name")
            models[model] = of_task
    if config.baseline is not None and config.baseline not in models:
        raise ConfigError(
            f"baseline: no model is called {config.baseline!r}; there are {', '.join(models)}"
        )
    wanted = config.tasks or tuple(tables)
    chosen = [t for t in wanted if any(t in of_task for of_task in models.values())]
    if not chosen:
        raise UserError(f"no model predicts a task of {labels} ({', '.join(wanted)})")
    for task in wanted:
        if task not in chosen:
            note(f"{task}: no model predicts it")
    split = subjects.select("subject_id", "split")
    rows = {t: tables[t].join(split, on="subject_id", how="left").sort(KEY) for t in chosen}
    groups = _groups(files, rows, config)
    return [_task(name, rows[name], groups, models) for name in chosen]


def _groups(
    files: Sequence[Path], rows: Mapping[str, pl.DataFrame], config: JudgeConfig
) -> pl.DataFrame:
    """The groups of all held-out rows of all tasks."""
    held_out = pl.concat([table.filter(split=HELD_OUT).select(KEY) for table in rows.values()])
    return read_groups(files, held_out.unique().sort(KEY), config.groups)


def _task(
    name: str,
    table: pl.DataFrame,
    groups: pl.DataFrame,
    models: Mapping[str, Mapping[str, Files]],
) -> TaskInput:
    held_out, tuning = (table.filter(split=split) for split in (HELD_OUT, TUNING))
    of_rows = held_out.select(KEY).join(groups, on=KEY, how="left", maintain_order="left")
    task = TaskInput(name, held_out, tuning, of_rows.drop(KEY))
    for model, of_task in models.items():
        if name not in of_task:
            continue
        try:
            task.told[model] = _told(name, of_task[name], task)
        except ContractError as e:
            task.problems[model] = str(e)
    return task


def _told(name: str, files: Files, task: TaskInput) -> Told:
    held_out = read_aligned(name, files.held_out, task.rows, where=files.where)
    if not files.tuning:
        return Told(held_out, None)
    beside = read_aligned(name, files.tuning, task.tuning, where=files.where, split=TUNING)
    return Told(held_out, beside.probability)


def models_of(name: str, path: Path, known: Collection[str]) -> dict[str, dict[str, Files]]:
    """Model -> task -> its files: the one, or those of `results/1`.

    Args:
        name: What the user calls it.
        path: `predictions/1` or a folder like it, or `results/1`.
        known: Tasks of the labels.

    Raises:
        ContractError: If there are none, or one was changed.
    """
    for root in (path, path.parent):
        here = root == path or path.name == _PREDICTED
        if here and (root / MANIFEST).is_file() and load_manifest(root).contract == RESULTS.tag:
            return _of_results(name, root)
    beside = prediction_files(path, known, split=TUNING)
    found: dict[str, dict[str, Files]] = {}
    for task, draws in prediction_files(path, known).items():
        for draw, files in draws.items():
            model = name if draw == _ALL else f"{name} k={draw.k} r={draw.replicate}"
            tuning = beside.get(task, {}).get(draw, [])
            found.setdefault(model, {})[task] = Files(path, files, tuning)
    return found


def _of_results(name: str, root: Path) -> dict[str, dict[str, Files]]:
    manifest = load_manifest(root)
    found: dict[str, dict[str, Files]] = {}
    for listed in manifest.files:
        if not listed.startswith(f"{_PREDICTED}/"):
            continue
        _, *task, model, head = listed.removesuffix(".parquet").split("/")
        held_out = check_file(root, manifest, listed)
        beside = f"{TUNING}/{listed.removeprefix(f'{_PREDICTED}/')}"
        tuning = [check_file(root, manifest, beside)] if beside in manifest.files else []
        of_task = found.setdefault(f"{name} {model} {head}", {})
        of_task["/".join(task)] = Files(root, [held_out], tuning)
    if not found:
        raise ContractError(f"{root} holds no predictions: none was fitted on all rows (k = -1)")
    return found


def _labels(rows: pl.DataFrame) -> npt.NDArray[np.bool_]:
    return rows["boolean_value"].to_numpy().astype(bool)
