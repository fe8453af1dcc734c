"""Labels, features and predictions, brought to the same rows in the same order.

n rows of a split.
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from ehr_eval.features.read import (
    align_all,
    read_features,
    refuse_other_delays,
)
from ehr_eval.frames import KEY, read_labels
from ehr_eval.judge.bootstrap import patient_draws
from ehr_eval.judge.metrics.ranked import Floats
from ehr_eval.predictions import Predicted, predictions_source, read_predictions
from ehr_eval.protocol.best import read_risks
from ehr_eval.protocol.config import EhrshotConfig
from ehr_eval.protocol.taskrows import Given, SplitRows, TaskRows
from ehr_tracking.arrow.features import SPLIT_NAMES
from ehr_tracking.arrow.label_files import label_source
from ehr_tracking.config import ConfigError
from ehr_tracking.contracts import HELD_OUT, SPLITS, ContractError
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import Source, raw_source, source
from ehr_tracking.names import require_name

_RISKS = "best-risks"
"""What risks are in a lineage."""


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


def open_inputs(
    labels: Path,
    features: Mapping[str, Path],
    predictions: Mapping[str, Path],
    config: EhrshotConfig,
    risks: Path | None = None,
) -> Inputs:
    """Open and check everything before anything is computed.

    Args:
        labels: `labels/1` or a tree of MEDS labels.
        features: Name -> `features/1`.
        predictions: Name -> `predictions/1`, or a folder like it.
        config: The protocol.
        risks: The best possible risks, where they are known.

    Raises:
        ContractError: If an input is not what it should be, features, predictions or risks lack a
            label, or no label at all is in one of the splits.
        ConfigError: If the config names an unknown task.
        UserError: If there are no features, a name cannot be a file name or is there twice, or delays
            differ.
    """
    refuse_names(features, predictions)
    tables = read_labels(labels, config.labels)
    unknown = sorted(set(config.tasks or ()) - tables.keys())
    if unknown:
        raise ConfigError(f"tasks: {labels} has no task {unknown[0]}; it has {', '.join(tables)}")
    sets = {name: read_features(path) for name, path in features.items()}
    refuse_other_delays(sets)
    chosen = config.tasks or tuple(sorted(tables))
    aligned = {task: align_all(task, tables[task].sort(*KEY), sets) for task in chosen}
    _refuse_empty_splits(labels, aligned.values())
    given = _given(predictions, aligned, others=tables.keys() - set(chosen))
    sources = {"labels": label_source(labels)}
    sources |= {f"features.{name}": source(path) for name, path in features.items()}
    sources |= {f"predictions.{name}": predictions_source(p) for name, p in predictions.items()}
    if risks:
        sources["risks"] = raw_source(risks, contract=_RISKS)
    return Inputs(
        tasks=tuple(_task(name, aligned[name], sets, given[name], config) for name in chosen),
        features={name: found.directory / "features.safetensors" for name, found in sets.items()},
        sources=sources,
        best=read_risks(risks, _held_out(aligned)) if risks else {},
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
    splits = {}
    for split in SPLITS:
        rows = table.filter(split=split)
        splits[split] = SplitRows(
            subject_id=rows["subject_id"].to_numpy(),
            time=rows["prediction_time"].dt.epoch("us").to_numpy(),
            label=rows["boolean_value"].to_numpy().astype(bool),
            row={model: rows[f"row.{model}"].to_numpy() for model in models},
        )
    weight = patient_draws(splits[HELD_OUT].subject_id, config.bootstraps)
    return TaskRows(name, splits, weight, given)
