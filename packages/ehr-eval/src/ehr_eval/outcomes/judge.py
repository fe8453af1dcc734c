"""Every model of a task, judged on its held-out rows.

n held-out rows, C classes (1 where the outcome is a number), B bootstrap draws.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from ehr_eval.features.read import FeatureSet, align_all
from ehr_eval.frames import KEY
from ehr_eval.judge.bootstrap import interval, rows_and_draws
from ehr_eval.judge.compare import Model, Score
from ehr_eval.judge.metrics.ranked import Floats
from ehr_eval.outcomes.classes import confusion
from ehr_eval.outcomes.config import OutcomesConfig
from ehr_eval.outcomes.problem import OutcomeProblem, Rows, Truth
from ehr_tracking.arrow.features import SPLIT_NAMES
from ehr_tracking.contracts import HELD_OUT, SPLITS, TRAIN, TUNING, ContractError

NO_MODEL = "train"
"""In place of a model: what train alone says of everybody."""


@dataclass(slots=True, eq=False)
class Judged:
    """What came out of a task."""

    task: str
    problem: OutcomeProblem
    sizes: dict[str, int]
    """Split -> rows."""
    classes: tuple[str, ...]
    """Their names; none where the outcome is a number."""
    truth: Truth
    """[n]"""
    predicted: dict[Model, Floats] = field(default_factory=dict)
    """[n, C]"""
    selected: dict[Model, dict[str, object]] = field(default_factory=dict)
    scores: dict[Model, dict[str, Score | None]] = field(default_factory=dict)
    """Model -> metric -> score; None where undefined."""


def judge(
    problem: OutcomeProblem,
    task: str,
    labels: Any,  # noqa: ANN401 -- pyarrow has no types
    sets: Mapping[str, FeatureSet],
    predictions: Mapping[str, Path],
    config: OutcomesConfig,
) -> Judged:
    """Fit an ordinary model on each set of features, read predictions, and score all of them.

    Args:
        problem: Of `PROBLEMS`.
        task: Its name.
        labels: Its table, from `labels.read_task`.
        sets: Name -> features, which say which row is in which split.
        predictions: Name -> predictions of held-out rows.
        config: Bootstraps and grids.

    Raises:
        ContractError: If features or predictions lack a label, predictions are not what they should
            be, or no label is in one of the splits.
        UserError: If all train rows are of one class.
    """
    truth, names = problem.truth(labels, task)
    keys = pl.DataFrame(pl.from_arrow(labels.select(KEY)))
    rows = align_all(task, keys.with_columns(truth=pl.Series(truth)).sort(KEY), sets)
    parts = {split: rows.filter(split=split) for split in SPLITS}
    sizes = {split: part.height for split, part in parts.items()}
    empty = [split for split in SPLITS if not sizes[split]]
    if empty:
        raise ContractError(
            f"no label of task {task} is in {' or '.join(empty)}: nothing could be judged. "
            f"{SPLIT_NAMES} and make the features again"
        )
    held_out = parts[HELD_OUT]
    given, names = problem.given(predictions, task, held_out, names)
    judged = Judged(task, problem, sizes, names, held_out["truth"].to_numpy())
    judged.predicted = {Model(name, "given"): found for name, found in given.items()}
    width = max(1, len(names))
    for name, features in sets.items():
        train, tuning, new = (_rows(parts[s], features, name) for s in (TRAIN, TUNING, HELD_OUT))
        with threadpool_limits(1):  # the same bits on any number of cores
            fit = problem.fit(train, tuning, new[0], width, config)
        judged.predicted[Model(name, problem.head)] = fit.predicted
        judged.selected[Model(name, problem.head)] = fit.selected
    floor = problem.floor(parts[TRAIN]["truth"].to_numpy(), held_out.height, width)
    judged.predicted[Model(NO_MODEL, problem.floor_head)] = floor
    weight = rows_and_draws(held_out["subject_id"].to_numpy(), config.bootstraps).astype(float)
    for model, predicted in judged.predicted.items():
        values = {m: of.score(judged.truth, predicted, weight) for m, of in problem.metrics.items()}
        judged.scores[model] = {
            m: None if v[0] != v[0] else Score(float(v[0]), v[1:]) for m, v in values.items()
        }
    return judged


def _rows(part: pl.DataFrame, features: FeatureSet, name: str) -> Rows:
    return features.mapped.take(part[f"row.{name}"].to_numpy()), part["truth"].to_numpy()


def result_rows(judged: Judged) -> Iterator[dict[str, Any]]:
    """Rows of `results.parquet`."""
    for model, of in judged.scores.items():
        for metric, score in of.items():
            bounds = interval(score.draws) if score else None
            selected = judged.selected.get(model)
            yield {
                "task": judged.task,
                "model": model.name,
                "head": model.head,
                "metric": metric,
                "value": score.value if score else None,
                "lower": bounds.lower if bounds else None,
                "upper": bounds.upper if bounds else None,
                "n": judged.sizes[HELD_OUT],
                "reason": None if score else judged.problem.metrics[metric].needs,
                "selected": json.dumps(selected) if selected else None,
            }


def confusion_rows(judged: Judged) -> Iterator[dict[str, Any]]:
    """Rows of `confusion.parquet`; none where the outcome is a number."""
    for model, predicted in judged.predicted.items() if judged.classes else ():
        counts = confusion(judged.truth, predicted)
        for i, name in enumerate(judged.classes):
            for j, called in enumerate(judged.classes):
                yield {
                    "task": judged.task,
                    "model": model.name,
                    "head": model.head,
                    "class": name,
                    "predicted_class": called,
                    "rows": int(counts[i, j]),
                }
