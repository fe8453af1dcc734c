"""Every model of a task, judged on its held-out rows.

n held-out rows, H horizons, B bootstrap draws.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ehr_eval.features.read import FeatureSet
from ehr_eval.judge.bootstrap import interval, rows_and_draws
from ehr_eval.judge.compare import Model, Score
from ehr_eval.judge.metrics.ranked import Floats
from ehr_eval.survival.config import SurvivalConfig
from ehr_eval.survival.cox import Course, cox
from ehr_eval.survival.inputs import Rows, TimedTask
from ehr_eval.survival.kaplan_meier import StepCurve
from ehr_eval.survival.metrics import Followed, auc, brier, harrell, integrated, uno
from ehr_eval.survival.risks import read_risks
from ehr_tracking.contracts import HELD_OUT, TRAIN, TUNING

OVERALL = {
    "harrell_c": "Harrell's C",
    "uno_c": "Uno's C",
    "integrated_brier": "Integrated Brier (lower is better)",
}
"""Metrics of all horizons together -> what a person reads."""
AT_HORIZON = {"auc": "AUROC(t)", "brier": "Brier(t) (lower is better)"}
"""Metrics of one horizon."""
EVERYONE = Model("train", "kaplan-meier")
"""Model and head that give everyone the same risk: that of the training rows."""


class Measure(NamedTuple):
    """What is measured, and of which horizon."""

    metric: str
    horizon: float | None


@dataclass(slots=True, eq=False)
class Judged:
    """What came out of one task."""

    task: str
    sizes: dict[str, tuple[int, int]]
    """Split -> rows, events."""
    problem: str | None
    horizons: Floats = field(default_factory=lambda: np.zeros(0))
    """[H] days."""
    followed: Followed | None = None
    risk: dict[Model, Floats] = field(default_factory=dict)
    """[n, H]"""
    selected: dict[Model, str] = field(default_factory=dict)
    scores: dict[Model, dict[Measure, Score]] = field(default_factory=dict)
    """Those that are defined."""
    reasons: dict[Measure, str] = field(default_factory=dict)
    """Why others are not."""


def judge(
    task: TimedTask,
    sets: Mapping[str, FeatureSet],
    predictions: Mapping[str, Path],
    config: SurvivalConfig,
) -> Judged:
    """Fit Cox regressions, read predictions, and score all of them.

    Args:
        task: Its rows.
        sets: Name -> features.
        predictions: Name -> `risks/1`.
        config: Horizons, bootstraps, penalties.

    Raises:
        UserError: If predictions lack a row or end before a horizon, or no regression converges.
    """
    sizes = {s: (len(rows.days), int(rows.event.sum())) for s, rows in task.splits.items()}
    judged = Judged(task.name, sizes, task.problem)
    if task.problem:
        return judged
    train, held_out = task.splits[TRAIN], task.splits[HELD_OUT]
    judged.horizons = _horizons(train, config)
    judged.followed = Followed(
        days=held_out.days,
        event=held_out.event,
        censoring=StepCurve.censoring(train.days, train.event),
        weight=rows_and_draws(held_out.key["subject_id"].to_numpy(), config.bootstraps),
    )
    judged.reasons = dict(_reasons(judged.followed, judged.horizons))
    for name, path in predictions.items():
        risks = read_risks(path, task.name, held_out.key)
        judged.risk[Model(name, "given")] = risks.at(judged.horizons, where=str(path))
    for name, features in sets.items():
        parts = {s: _course(rows, features, name) for s, rows in task.splits.items()}
        fit = cox(parts[TRAIN], parts[TUNING], parts[HELD_OUT].x, judged.horizons, config)
        judged.risk[Model(name, "cox")] = fit.risk
        judged.selected[Model(name, "cox")] = f'{{"penalty": {fit.penalty:g}}}'
    flat = 1 - StepCurve.survival(train.days, train.event).at(judged.horizons)
    judged.risk[EVERYONE] = np.tile(flat, (len(held_out.days), 1))
    for model, risk in judged.risk.items():
        judged.scores[model] = dict(_scores(judged, risk))
    return judged


def rows_of(judged: Judged) -> Iterator[dict[str, Any]]:
    """Rows of `results.parquet`."""
    n, events = judged.sizes[HELD_OUT]
    for model, scores in judged.scores.items():
        for measure in (*scores, *judged.reasons):
            score = scores.get(measure)
            bounds = interval(score.draws) if score else None
            yield {
                "task": judged.task,
                "model": model.name,
                "head": model.head,
                "metric": measure.metric,
                "horizon_days": measure.horizon,
                "value": score.value if score else None,
                "lower": bounds.lower if bounds else None,
                "upper": bounds.upper if bounds else None,
                "n": n,
                "events": events,
                "reason": judged.reasons.get(measure),
                "selected": judged.selected.get(model),
            }


def _horizons(train: Rows, config: SurvivalConfig) -> Floats:
    if config.horizons_days is not None:
        return np.asarray(config.horizons_days, np.float64)
    quartiles = np.quantile(train.days[train.event], [0.25, 0.5, 0.75])
    return np.unique(np.where(quartiles >= 1, np.floor(quartiles), quartiles))


def _course(rows: Rows, features: FeatureSet, name: str) -> Course:
    return Course(features.mapped.take(rows.row[name]), rows.days, rows.event)


def _reasons(followed: Followed, horizons: Floats) -> Iterator[tuple[Measure, str]]:
    why = {float(h): followed.known_until(float(h)) for h in horizons}
    for horizon, reason in why.items():
        if reason:
            yield from ((Measure(metric, horizon), reason) for metric in AT_HORIZON)
    unknown = [reason for reason in why.values() if reason]
    if unknown:
        yield Measure("integrated_brier", None), unknown[0]
    elif len(horizons) < 2:
        yield Measure("integrated_brier", None), "one horizon alone"


def _scores(judged: Judged, risk: Floats) -> Iterator[tuple[Measure, Score]]:
    rows, horizons = judged.followed, judged.horizons
    assert rows is not None
    last = float(horizons[-1])
    found = {
        Measure("harrell_c", None): harrell(rows, risk[:, -1]),
        Measure("uno_c", None): uno(rows, risk[:, -1], until=last),
    }
    for i, horizon in enumerate(horizons.tolist()):
        found[Measure("auc", horizon)] = auc(rows, risk[:, i], horizon=horizon)
        found[Measure("brier", horizon)] = brier(rows, risk[:, i], horizon=horizon)
    if len(horizons) > 1:
        briers = np.stack([found[Measure("brier", h)] for h in horizons.tolist()])
        found[Measure("integrated_brier", None)] = integrated(briers, horizons)
    for measure, values in found.items():
        if measure in judged.reasons:
            continue
        if np.isnan(values[0]):
            judged.reasons[measure] = "no pair of held-out rows can be compared"
            continue
        yield measure, Score(float(values[0]), values[1:])
