"""One task judged: every metric of every model, recalibrated and not, by group, and conformal sets.

n held-out rows, B bootstrap draws.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ehr_eval.judge.bootstrap import rows_and_draws, scores
from ehr_eval.judge.compare import Score, difference
from ehr_eval.judge.conformal import METHODS, measures
from ehr_eval.judge.curves import Curve, curves
from ehr_eval.judge.groups import levels
from ehr_eval.judge.metrics import ALL_METRICS, undefined
from ehr_eval.judge.metrics.f1 import best_threshold
from ehr_eval.judge.metrics.ranked import Floats
from ehr_eval.judge.multiple import bootstrap_p
from ehr_eval.judge.recalibrate import NONE, RECALIBRATIONS
from ehr_eval.judgement.config import JudgeConfig
from ehr_eval.judgement.inputs import TaskInput, Told

Weights = npt.NDArray[np.uint16]
RECALIBRATED_CURVES = ("calibration_binned", "calibration_isotonic", "decision")
"""What recalibration moves; it keeps the order of rows, but for ties."""


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """Some held-out rows, judged."""

    n: int
    patients: int
    positives: int
    scores: Mapping[str, Score]
    """Metric -> value and bootstrap, where it is defined."""
    reasons: Mapping[str, str]
    """Metric -> why it is not."""


class Compared(NamedTuple):
    """One value minus another, both of the same draws."""

    difference: float
    lower: float | None
    upper: float | None
    p: float | None
    """Of no difference, by the draws; None where there is none."""


class Group(NamedTuple):
    """One group of rows beside all others."""

    group: str
    level: str
    scored: Scored | None
    """None where too few patients are in it."""
    against: Mapping[str, Compared]
    """Metric -> its value minus that of all other rows, where both are defined."""


@dataclass(slots=True, eq=False)
class Judged:
    """One model on one task."""

    ways: dict[str, Scored] = field(default_factory=dict)
    """Recalibration -> all held-out rows."""
    curves: dict[str, dict[str, Curve]] = field(default_factory=dict)
    """Recalibration -> curve by name."""
    groups: list[Group] = field(default_factory=list)
    sets: dict[tuple[str, float], dict[str, Score]] = field(default_factory=dict)
    """(method, miss) -> measure of conformal sets."""
    untuned: str | None = None
    """Why nothing could be fitted on tuning rows."""

    def against(self, way: str) -> dict[str, Compared]:
        """Metric -> how a recalibration moved it."""
        return differences(self.ways[way], self.ways[NONE])


@dataclass(frozen=True, slots=True, eq=False)
class TaskJudged:
    """One task."""

    name: str
    n: int
    patients: int
    positives: int
    models: Mapping[str, Judged]
    problems: Mapping[str, str]
    """Model -> why it could not be judged."""


def judge(task: TaskInput, config: JudgeConfig) -> TaskJudged:
    """Judge what every model says of one task, all on the same draws of its patients."""
    label, subject = task.label, task.subject_id
    problems = dict(task.problems)
    models: dict[str, Judged] = {}
    if len(label):
        weight = rows_and_draws(subject, config.bootstraps)
        models = {name: _model(task, told, weight, config) for name, told in task.told.items()}
    else:
        problems |= dict.fromkeys(task.told, "no label is of a held-out subject")
    return TaskJudged(
        task.name, len(label), len(np.unique(subject)), int(label.sum()), models, problems
    )


def differences(ours: Scored, theirs: Scored) -> dict[str, Compared]:
    """Metric -> ours minus theirs in the same draws, where both are defined."""
    return {
        metric: Compared(*difference(one, other), bootstrap_p(one.draws - other.draws))
        for metric, one in ours.scores.items()
        if (other := theirs.scores.get(metric)) is not None
    }


def _model(task: TaskInput, told: Told, weight: Weights, config: JudgeConfig) -> Judged:
    label, given = task.label, told.held_out
    probability, decided = given.probability, given.decided
    judged = Judged(untuned=_untuned(task, told))
    if decided is None and told.tuning is not None and task.tuning_label.any():
        decided = probability >= best_threshold(task.tuning_label, told.tuning)
    for way, p in _ways(task, told, judged, config):
        judged.ways[way] = score(label, p, weight, task.subject_id, decided, config)
        names = None if way == NONE else RECALIBRATED_CURVES
        judged.curves[way] = curves(label, p, weight, names)
    judged.groups = list(_groups(task, probability, weight, decided, config))
    if judged.untuned is None and told.tuning is not None:
        for miss in config.misses:
            for name, method in METHODS.items():
                sets = method(task.tuning_label, told.tuning, probability, miss)
                found = measures(label, sets, weight)
                judged.sets[name, miss] = {m: Score(float(v[0]), v[1:]) for m, v in found.items()}
    return judged


def _untuned(task: TaskInput, told: Told) -> str | None:
    if told.tuning is None:
        return "its predictions have no tuning part (`zeroshot` writes one with -s tuning=true)"
    label = task.tuning_label
    if label.all() or not label.any():
        return f"no {'negative' if len(label) and label.all() else 'positive'} in tuning"
    return None


def _ways(
    task: TaskInput, told: Told, judged: Judged, config: JudgeConfig
) -> Iterator[tuple[str, Floats]]:
    """Recalibration and the probabilities it gives."""
    probability = told.held_out.probability
    yield NONE, probability
    if judged.untuned is None and told.tuning is not None:
        for way in config.recalibrate:
            yield way, RECALIBRATIONS[way](task.tuning_label, told.tuning)(probability)


def score(
    label: npt.NDArray[np.bool_],
    probability: Floats,
    weight: Weights,
    subject_id: npt.NDArray[np.int64],
    decided: npt.NDArray[np.bool_] | None,
    config: JudgeConfig,
    where: str = "held_out",
) -> Scored:
    """Every metric of some rows.

    Args:
        label: [n].
        probability: [n].
        weight: [n, 1 + B] the rows themselves, and draws.
        subject_id: [n].
        decided: [n] what rows are called, where a threshold was chosen.
        config: Specificity and risk that are asked for.
        where: What the rows are, for reasons.
    """
    found = scores(
        label,
        probability,
        weight,
        decided=decided,
        specificity=config.specificity,
        at_risk=config.at_risk,
        metrics=ALL_METRICS,
    )
    reasons = undefined(label, decided=decided is not None, metrics=ALL_METRICS, where=where)
    for name, value in found.items():
        if name not in reasons and not np.isfinite(value[0]):
            reasons[name] = ALL_METRICS[name].otherwise or f"undefined in {where}"
    return Scored(
        len(label),
        len(np.unique(subject_id)),
        int(label.sum()),
        {m: Score(float(v[0]), v[1:]) for m, v in found.items() if m not in reasons},
        reasons,
    )


def _groups(
    task: TaskInput,
    probability: Floats,
    weight: Weights,
    decided: npt.NDArray[np.bool_] | None,
    config: JudgeConfig,
) -> Iterator[Group]:
    label = task.label
    known: dict[bytes, Scored] = {}  # of two groups, each is all other rows of the other

    def of(rows: npt.NDArray[np.bool_]) -> Scored:
        key = rows.tobytes()
        if key not in known:
            called = None if decided is None else decided[rows]
            subject = task.subject_id[rows]
            part = label[rows], probability[rows], weight[rows], subject, called
            known[key] = score(*part, config, "the group")
        return known[key]

    for group, level, inside, told in levels(task.groups, task.subject_id, config.groups.least):
        ours = of(inside) if told else None
        # both sides are of one draw of all patients: right where one patient is on both sides as well
        rest = of(~inside) if ours and not inside.all() else None
        yield Group(group, level, ours, differences(ours, rest) if ours and rest else {})
