"""What came out of one task: the outcomes of its cells, averaged over replicates.

n held-out rows, B bootstrap draws.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ehr_eval.judge.bootstrap import interval, scores
from ehr_eval.judge.compare import GroupMean, Score, group_mean
from ehr_eval.judge.metrics import METRICS, undefined
from ehr_eval.judge.metrics.ranked import Floats
from ehr_eval.protocol.best import mean_share
from ehr_eval.protocol.cell import Cell, Outcome, Plan, Setting, cells_of, read_outcome
from ehr_eval.protocol.config import GIVEN, EhrshotConfig
from ehr_eval.protocol.taskrows import SplitRows, TaskRows
from ehr_tracking.contracts import HELD_OUT, SPLITS, TUNING

AUROC = "auroc"
"""What models are compared by."""


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
    means: dict[Setting, dict[str, Score | None]] = field(default_factory=dict)
    """Metric -> the mean over replicates and its bootstrap; None where it is undefined."""
    predictions: dict[tuple[str, str], pa.Table] = field(default_factory=dict)
    """(model, head) -> held-out predictions of what was fitted on all rows."""
    tuning: dict[tuple[str, str], pa.Table] = field(default_factory=dict)
    """(model, head) -> what the same says of the tuning rows; of what was fitted here."""
    seconds: dict[Setting, float] = field(default_factory=dict)
    """Wall time of fitting and predicting, over all replicates."""
    best: Score | None = None
    """AUROC of the best possible risk, where it is known and defined."""
    unconverged: list[tuple[Cell, str]] = field(default_factory=list)
    """Fits that a limit of steps ended, each with its point of the grid."""

    def mean(self, setting: Setting, metric: str) -> Score | None:
        """The mean over replicates, where there is one."""
        return self.means.get(setting, {}).get(metric)


def gather(task: TaskRows, plan: Plan, best: Floats | None = None) -> Evaluation:
    """Average what the cells of a task gave.

    Args:
        task: Its rows.
        plan: Of a run in which every cell of the task is done.
        best: [n] the best possible risk of each held-out row, where it is known.
    """
    result = Evaluation(task.name, task.sizes, task.problem)
    label = task.splits[HELD_OUT].label
    if task.problem:
        result.rows = [
            _row(task.name, setting, -1, metric, None, label, task.problem)
            for setting in settings_of_task(task, plan.config)
            for metric in METRICS
        ]
        return result
    if best is not None and AUROC not in undefined(label):
        value, draws = (
            scores(label, best, w, metrics=(AUROC,))[AUROC] for w in (None, task.weight)
        )
        result.best = Score(float(value[0]), draws)
    for setting, cells in groupby(cells_of(task, plan.config), lambda cell: cell.setting):
        done = [(cell, _outcome(cell, plan)) for cell in cells]
        for cell, outcome in done:
            result.rows += _replicate(cell, outcome, label)
            result.unconverged += [(cell, point) for point in outcome.unconverged]
            if outcome.probability is not None:
                key = (setting.model, setting.head)
                held_out, tuning = task.splits[HELD_OUT], task.splits[TUNING]
                told = outcome.probability, outcome.decided
                result.predictions[key] = _predictions(held_out, *told)
                if outcome.tuning is not None:
                    result.tuning[key] = _predictions(tuning, outcome.tuning, None)
        reasons = undefined(label, decided=all(outcome.is_decided for _, outcome in done))
        means = {m: _mean([o for _, o in done], m) for m in METRICS}
        result.rows += [
            _row(task.name, setting, -1, metric, mean, label, reasons.get(metric))
            for metric, mean in means.items()
        ]
        result.means[setting] = {m: None if m in reasons else mean for m, mean in means.items()}
        once = {plan.fitted(cell): outcome.seconds for cell, outcome in done}
        result.seconds[setting] = sum(once.values())
    return result


def over_tasks(
    evaluations: Sequence[Evaluation], setting: Setting, metric: str
) -> GroupMean | None:
    """Unweighted mean over the tasks that have a value."""
    found = (evaluation.mean(setting, metric) for evaluation in evaluations)
    return group_mean([score for score in found if score is not None])


def over_tasks_share(evaluations: Sequence[Evaluation], setting: Setting) -> float | None:
    """Mean over tasks of how far from chance to the best possible a model's AUROC is."""
    found = ((e.mean(setting, AUROC), e.best) for e in evaluations)
    return mean_share((ours.value, best.value) for ours, best in found if ours and best)


def shares(
    evaluations: Sequence[Evaluation], settings: Sequence[Setting]
) -> Iterator[dict[str, object]]:
    """The same of each task: a row a task whose best possible is known, a column a model and head."""
    for evaluation in evaluations:
        if evaluation.best is not None:
            found = {f"{s.model} {s.head}": over_tasks_share([evaluation], s) for s in settings}
            shown = {name: None if v is None else f"{v:.2f}" for name, v in found.items()}
            yield {"task": evaluation.task, **shown}


def no_rows() -> dict[str, tuple[int, int]]:
    """The sizes of a task of which nothing could be read."""
    return dict.fromkeys(SPLITS, (0, 0))


def settings_of_task(task: TaskRows, config: EhrshotConfig) -> list[Setting]:
    """Those that a task without a problem has."""
    fitted = [Setting(m, h, k) for m in task.models for h in config.heads for k in config.ks]
    return fitted + list(dict.fromkeys(Setting(g.model, GIVEN, g.k) for g in task.given))


def _outcome(cell: Cell, plan: Plan) -> Outcome:
    outcome = read_outcome(plan.outcome(cell))
    assert outcome is not None, f"{cell} is not done"
    return outcome


def _replicate(
    cell: Cell, outcome: Outcome, label: npt.NDArray[np.bool_]
) -> Iterator[dict[str, Any]]:
    reasons = undefined(label, decided=outcome.is_decided)
    for metric in METRICS:
        score = Score(outcome.point[metric], outcome.draws[metric])
        reason = reasons.get(metric)
        row = _row(cell.task, cell.setting, cell.replicate, metric, score, label, reason)
        yield row | {"selected": outcome.selected}


def _mean(outcomes: Sequence[Outcome], metric: str) -> Score:
    """The mean over replicates; its bootstrap is their mean in each draw of patients."""
    value = float(np.mean([outcome.point[metric] for outcome in outcomes]))
    return Score(value, np.mean([outcome.draws[metric] for outcome in outcomes], axis=0))


def _row(
    task: str,
    setting: Setting,
    replicate: int,
    metric: str,
    score: Score | None,
    label: npt.NDArray[np.bool_],
    reason: str | None,
) -> dict[str, Any]:
    """A row of results; where there is a reason it has no value."""
    known = score if reason is None else None
    bounds = interval(known.draws) if known else None
    return {
        "task": task,
        **setting._asdict(),
        "replicate": replicate,
        "metric": metric,
        "value": known.value if known else None,
        "lower": bounds.lower if bounds else None,
        "upper": bounds.upper if bounds else None,
        "n": len(label),
        "positives": int(label.sum()),
        "reason": reason,
        "selected": None,
    }


def _predictions(
    rows: SplitRows, probability: Floats, decided: npt.NDArray[np.bool_] | None
) -> pa.Table:
    """In the columns of meds-evaluation."""
    return pa.table(
        {
            "subject_id": rows.subject_id,
            "prediction_time": pa.array(rows.time, pa.timestamp("us")),
            "boolean_value": rows.label,
            "predicted_boolean_value": pa.array(
                [None] * len(rows) if decided is None else decided, pa.bool_()
            ),
            "predicted_boolean_probability": np.asarray(probability, np.float32),
        }
    )
