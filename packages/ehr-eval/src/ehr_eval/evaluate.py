"""One task under the few-shot protocol: every model, head, k and replicate on the same rows.

n held-out rows, B bootstrap draws.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from ehr_eval.config import EhrshotConfig
from ehr_eval.features.read import Matrix
from ehr_eval.fewshot import shots
from ehr_eval.heads import fit_predict
from ehr_eval.metrics import METRICS, Floats, evaluate, interval, patient_draws, undefined

SPLITS = ("train", "tuning", "held_out")


class Cell(NamedTuple):
    """What is averaged over replicates."""

    model: str
    head: str
    k: int


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """The rows of a task in one split, in order of subject and time."""

    labels: pl.DataFrame
    """subject_id, prediction_time, boolean_value."""
    features: Mapping[str, Matrix]
    """Model -> [rows, d]."""

    @property
    def label(self) -> npt.NDArray[np.bool_]:
        """The outcome [rows]."""
        value: npt.NDArray[np.bool_] = self.labels["boolean_value"].to_numpy().astype(bool)
        return value


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """A task with the features of every model."""

    name: str
    splits: Mapping[str, Split]

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the features."""
        return tuple(self.splits["train"].features)


@dataclass(slots=True, eq=False)
class Evaluation:
    """What came out of one task."""

    task: str
    sizes: dict[str, tuple[int, int]]
    """Split -> rows, positives."""
    problem: str | None
    """Why nothing could be fitted, or None."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Of `results.parquet`."""
    draws: dict[Cell, dict[str, Floats]] = field(default_factory=dict)
    """Metric -> [B] bootstrap values, each the mean over replicates."""
    predictions: dict[tuple[str, str], pl.DataFrame] = field(default_factory=dict)
    """(model, head) -> held-out predictions of the heads fitted on all rows."""
    seconds: dict[Cell, float] = field(default_factory=dict)
    """Wall time of fitting and predicting, over all replicates."""


def evaluate_task(task: Task, config: EhrshotConfig) -> Evaluation:
    """Fit every head on every draw of shots and judge it on the whole held-out split.

    A pure function of its arguments, `seconds` apart: threads are held at one, so that neither
    their number nor other tasks move a bit.

    Args:
        task: Labels and features.
        config: The protocol.
    """
    held_out = task.splits["held_out"]
    result = Evaluation(task.name, _sizes(task), _problem(task))
    cells = [Cell(m, h, k) for m in task.models for h in config.heads for k in config.ks]
    if result.problem:
        result.rows += [
            _undefined(task, cell, m, result.problem) for cell in cells for m in METRICS
        ]
        return result
    weight = patient_draws(held_out.labels["subject_id"].to_numpy(), config.bootstraps)
    with threadpool_limits(1):
        for cell in cells:
            replicates = list(_replicates(task, cell, config, weight, result))
            result.rows += [row for replicate in replicates for row in replicate.rows]
            mean = _mean(task, cell, replicates)
            result.rows += mean.rows
            result.draws[cell] = mean.draws
    return result


class _Judged(NamedTuple):
    rows: list[dict[str, Any]]
    draws: dict[str, Floats]


def _replicates(
    task: Task,
    cell: Cell,
    config: EhrshotConfig,
    weight: npt.NDArray[np.uint16],
    result: Evaluation,
) -> Iterator[_Judged]:
    train, tuning, held_out = (task.splits[s] for s in SPLITS)
    for replicate in range(config.draws(cell.k)):
        began = perf_counter()
        drawn = shots(train.label, tuning.label, cell.k, replicate=replicate, max_k=config.max_k)
        fitted = fit_predict(
            config.heads[cell.head],
            (train.features[cell.model][drawn.train], train.label[drawn.train]),
            (tuning.features[cell.model][drawn.tuning], tuning.label[drawn.tuning]),
            held_out.features[cell.model],
        )
        seconds = perf_counter() - began
        result.seconds[cell] = result.seconds.get(cell, 0.0) + seconds
        if cell.k == -1 and replicate == 0:
            result.predictions[cell.model, cell.head] = _predictions(held_out, fitted.probability)
        point = evaluate(held_out.label, fitted.probability)
        draws = evaluate(held_out.label, fitted.probability, weight)
        selected = {"selected": json.dumps(fitted.selected)}
        yield _Judged(
            [
                _row(task, cell, replicate, m, float(point[m][0]), draws[m]) | selected
                for m in METRICS
            ],
            draws,
        )


def _mean(task: Task, cell: Cell, replicates: list[_Judged]) -> _Judged:
    """The mean over replicates; its bootstrap is their mean in each draw of patients."""
    draws = {m: np.mean([r.draws[m] for r in replicates], axis=0) for m in METRICS}
    rows = []
    for m in METRICS:
        values = [row["value"] for r in replicates for row in r.rows if row["metric"] == m]
        value = float("nan") if None in values else float(np.mean(values))
        rows.append(_row(task, cell, -1, m, value, draws[m]))
    return _Judged(rows, draws)


def _row(
    task: Task, cell: Cell, replicate: int, metric: str, value: float, draws: Floats
) -> dict[str, Any]:
    label = task.splits["held_out"].label
    reason = undefined(label).get(metric)
    bounds = interval(draws)
    return {
        "task": task.name,
        **cell._asdict(),
        "replicate": replicate,
        "metric": metric,
        "value": None if reason else value,
        "lower": None if reason else bounds.lower,
        "upper": None if reason else bounds.upper,
        "n": len(label),
        "positives": int(label.sum()),
        "reason": reason,
        "selected": None,
    }


def _undefined(task: Task, cell: Cell, metric: str, reason: str) -> dict[str, Any]:
    row = _row(task, cell, -1, metric, float("nan"), np.zeros(0))
    return row | {"value": None, "lower": None, "upper": None, "reason": reason}


def _sizes(task: Task) -> dict[str, tuple[int, int]]:
    return {s: (len(task.splits[s].label), int(task.splits[s].label.sum())) for s in SPLITS}


def _problem(task: Task) -> str | None:
    """Why no head can be fitted, chosen or judged."""
    for split in ("train", "tuning"):
        label = task.splits[split].label
        for name, count in (("positive", label.sum()), ("negative", (~label).sum())):
            if not count:
                return f"no {name} in {split}"
    return None if len(task.splits["held_out"].label) else "no row in held_out"


def _predictions(held_out: Split, probability: Floats) -> pl.DataFrame:
    """In the columns of meds-evaluation."""
    return held_out.labels.select(
        "subject_id",
        "prediction_time",
        "boolean_value",
        pl.lit(None, pl.Boolean).alias("predicted_boolean_value"),
        pl.Series("predicted_boolean_probability", probability, pl.Float64).cast(pl.Float32),
    )
