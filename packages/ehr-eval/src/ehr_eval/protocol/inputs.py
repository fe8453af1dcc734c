"""Labels, features and predictions, brought to the same rows in the same order.

n rows of a split.
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl

from ehr_eval.features.read import (
    align_all,
    read_features,
    refuse_other_delays,
)
from ehr_eval.frames import KEY, require_tasks
from ehr_eval.judge.bootstrap import patient_draws
from ehr_eval.judge.metrics.ranked import Floats
from ehr_eval.predictions import Predicted, predictions_source, read_predictions
from ehr_eval.protocol.best import read_risks
from ehr_eval.protocol.config import EhrshotConfig
from ehr_eval.protocol.given_shots import read_given_shots
from ehr_eval.protocol.split_file import split_by
from ehr_eval.protocol.taskrows import Given, SplitRows, TaskRows
from ehr_eval.tasks.label_tasks import read_tasks
from ehr_tracking.arrow.features import SPLIT_NAMES
from ehr_tracking.arrow.label_files import label_source
from ehr_tracking.contracts import HELD_OUT, SPLITS, TRAIN, TUNING, ContractError
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import MANIFEST, Source, raw_source, source
from ehr_tracking.names import require_name
from ehr_tracking.tree import note

_RAW = {"risks": "best-risks", "splits": "split-file", "shots": "ehrshot-shots"}
"""What files without a manifest are in a lineage."""


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """What a run evaluates."""

    tasks: tuple[TaskRows, ...]
    features: Mapping[str, Path]
    """Model -> its `features.safetensors`."""
    sources: Mapping[str, Source]
    """For the manifest."""
    best: Mapping[str, Floats] = field(default_factory=dict)
    """Task -> the best possible risk of each held-out row, where they are known."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Task -> why it cannot be evaluated."""


def open_inputs(
    labels: Path,
    features: Mapping[str, Path],
    predictions: Mapping[str, Path],
    config: EhrshotConfig,
    risks: Path | None = None,
    splits: Path | None = None,
    shots: Path | None = None,
) -> Inputs:
    """Open and check everything before anything is computed.

    Args:
        labels: `labels/1` or a tree of MEDS labels.
        features: Name -> `features/1`.
        predictions: Name -> `predictions/1`, or a folder like it.
        config: The protocol.
        risks: The best possible risks, where they are known.
        splits: A file that names the split of each subject; without it those of the features count.
        shots: What names the shots; without it they are drawn.

    A task whose labels, features, splits or shots cannot be used is left out, and told.

    Raises:
        ContractError: If that is so of each task; if an input is not what it should be, features, predictions or risks lack a
            label, or no label at all is in one of the splits.
        ConfigError: If the config names an unknown task.
        UserError: If there are no features, a name cannot be a file name or is there twice, or delays
            differ.
    """
    refuse_names(features, predictions)
    tables, left_out = read_tasks(labels, config.labels)
    require_tasks(set(config.tasks or ()) - left_out.keys(), tables, labels)
    if config.tasks is not None:
        left_out = {task: why for task, why in left_out.items() if task in config.tasks}
    sets = {name: read_features(path, broken=True) for name, path in features.items()}
    refuse_other_delays(sets)
    chosen = [task for task in (config.tasks or sorted(tables)) if task in tables]
    named_shots = None if shots is None else read_given_shots(shots)
    aligned, drawn = {}, {}
    for task in chosen:
        try:
            rows = align_all(task, tables[task].sort(*KEY), sets)
            rows = rows if splits is None else split_by(splits, task, rows, sets)
            drawn[task] = {} if named_shots is None else named_shots.of(task, *_learnt(rows))
            aligned[task] = rows
        except ContractError as e:
            left_out[task] = str(e)
    if not aligned:
        raise ContractError(next(iter(left_out.values())))
    for why in left_out.values():
        note(f"left out: {why}")
    _refuse_empty_splits(labels, aligned.values())
    given = _given(predictions, aligned, others=tables.keys() - aligned.keys())
    sources = {"labels": label_source(labels)}
    sources |= {f"features.{name}": source(path) for name, path in features.items()}
    sources |= {f"predictions.{name}": predictions_source(p) for name, p in predictions.items()}
    for role, path in (("risks", risks), ("splits", splits)):
        if path:
            sources[role] = raw_source(path, contract=_RAW[role])
    if shots:
        sealed = (shots / MANIFEST).is_file()
        sources["shots"] = source(shots) if sealed else raw_source(shots, contract=_RAW["shots"])
    return Inputs(
        tasks=tuple(
            replace(_task(name, rows, sets, given[name], config), drawn=drawn[name])
            for name, rows in aligned.items()
        ),
        features={name: found.directory / "features.safetensors" for name, found in sets.items()},
        sources=sources,
        best=read_risks(risks, _held_out(aligned)) if risks else {},
        left_out=left_out,
    )


def refuse_names(features: Mapping[str, Path], predictions: Mapping[str, Path]) -> None:
    """Refuse models whose names clash or could be no file's, and none at all.

    Raises:
        UserError: With the name.
    """
    for name in (*features, *predictions):
        require_name(name, "model")
    if not features:
        raise UserError("no features were given; name some with NAME=PATH")
    both = sorted(features.keys() & predictions.keys())
    if both:
        raise UserError(f"features and predictions are both named {both[0]}; give one another name")


def _refuse_empty_splits(labels: Path, tables: Iterable[pl.DataFrame]) -> None:
    """Refuse labels of which none is fitted, chosen or judged on: that is no result, but a mistake."""
    rows = pl.concat([table["split"] for table in tables]).value_counts()
    counts = dict.fromkeys(SPLITS, 0) | dict(rows.iter_rows())
    empty = [split for split in SPLITS if not counts[split]]
    if empty:
        found = ", ".join(f"{split} {n:,}" for split, n in counts.items())
        raise ContractError(
            f"{labels}: no label is in {' or '.join(empty)} ({found}): nothing could be scored. "
            f"{SPLIT_NAMES} and make the features again"
        )


def _held_out(tasks: Mapping[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    return {task: table.filter(split=HELD_OUT) for task, table in tasks.items()}


def _given(
    predictions: Mapping[str, Path], tasks: Mapping[str, pl.DataFrame], *, others: Set[str]
) -> dict[str, dict[Given, Predicted]]:
    """Task -> what each model that was trained elsewhere says of the held-out rows."""
    held_out = _held_out(tasks)
    found: dict[str, dict[Given, Predicted]] = {task: {} for task in tasks}
    for model, path in predictions.items():
        read = read_predictions(path, held_out, others=others)
        missing = sorted(tasks.keys() - read.keys())
        if missing:
            raise ContractError(
                f"{path} has no predictions of task {missing[0]}; it has {', '.join(sorted(read))}: "
                "name the tasks that shall be evaluated with -s tasks=[...]"
            )
        for task, draws in read.items():
            found[task] |= {Given(model, *draw): predicted for draw, predicted in draws.items()}
    return found


def _task(
    name: str,
    table: pl.DataFrame,
    models: Iterable[str],
    given: Mapping[Given, Predicted],
    config: EhrshotConfig,
) -> TaskRows:
    splits = {split: _split_rows(table.filter(split=split), models) for split in SPLITS}
    weight = patient_draws(splits[HELD_OUT].subject_id, config.bootstraps)
    return TaskRows(name, splits, weight, given)


def _learnt(table: pl.DataFrame) -> tuple[SplitRows, SplitRows]:
    """Those of train and of tuning."""
    train, tuning = (_split_rows(table.filter(split=split), ()) for split in (TRAIN, TUNING))
    return train, tuning


def _split_rows(rows: pl.DataFrame, models: Iterable[str]) -> SplitRows:
    return SplitRows(
        subject_id=rows["subject_id"].to_numpy(),
        time=rows["prediction_time"].dt.epoch("us").to_numpy(),
        label=rows["boolean_value"].to_numpy().astype(bool),
        row={model: rows[f"row.{model}"].to_numpy() for model in models},
    )
