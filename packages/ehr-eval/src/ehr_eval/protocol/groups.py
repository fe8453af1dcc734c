"""Groups of tasks: means with EHRSHOT's intervals, for each model, head and k."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from ehr_eval.judge.compare import GroupMean
from ehr_eval.judge.metrics import METRICS
from ehr_eval.protocol.cell import Setting
from ehr_eval.protocol.config import EhrshotConfig
from ehr_eval.protocol.evaluation import Evaluation, over_tasks
from ehr_eval.protocol.shown import settings_of

ALL, OF_GROUPS = "all tasks", "mean of groups"
"""Of what is told beside the groups."""


def members(groups: Mapping[str, Sequence[str]], tasks: Sequence[str]) -> dict[str, list[str]]:
    """Group -> its tasks, in their order; groups without one are left out.

    Args:
        groups: Group -> patterns of names (`*` and `?`).
        tasks: Names.

    Examples:
        >>> members({"labs": ["lab_*"], "new": ["new_*"]}, ["lab_anemia", "died"])
        {'labs': ['lab_anemia']}
    """
    found = {
        group: [task for task in tasks if any(fnmatchcase(task, p) for p in patterns)]
        for group, patterns in groups.items()
    }
    return {group: inside for group, inside in found.items() if inside}


def group_rows(evaluations: Sequence[Evaluation], config: EhrshotConfig) -> list[dict[str, Any]]:
    """The rows of `groups.parquet`: each group, all tasks, and where there are two or more groups their mean."""
    by_name = {evaluation.task: evaluation for evaluation in evaluations}
    parts = {
        group: [by_name[task] for task in tasks]
        for group, tasks in members(config.groups, list(by_name)).items()
    }
    rows = []
    for setting in settings_of(evaluations):
        for metric in METRICS:
            means = {group: over_tasks(part, setting, metric) for group, part in parts.items()}
            known = {group: mean for group, mean in means.items() if mean is not None}
            for group, mean in known.items():
                n = _tasks(parts[group], setting, metric)
                rows.append(_row(group, setting, metric, mean, n))
            overall = over_tasks(evaluations, setting, metric)
            if overall is not None:
                n = _tasks(evaluations, setting, metric)
                rows.append(_row(ALL, setting, metric, overall, n))
            if len(known) > 1:
                n = sum(_tasks(parts[group], setting, metric) for group in known)
                rows.append(_row(OF_GROUPS, setting, metric, _mean(list(known.values())), n))
    return rows


def _tasks(evaluations: Sequence[Evaluation], setting: Setting, metric: str) -> int:
    return sum(evaluation.mean(setting, metric) is not None for evaluation in evaluations)


def _mean(means: Sequence[GroupMean]) -> GroupMean:
    """Of groups, each as heavy as another; half intervals add up as standard deviations do."""
    halves = [mean.half for mean in means]
    known = [half for half in halves if half is not None]
    half = sum(h**2 for h in known) ** 0.5 / len(means) if len(known) == len(means) else None
    return GroupMean(sum(mean.value for mean in means) / len(means), half)


def _row(group: str, setting: Setting, metric: str, mean: GroupMean, tasks: int) -> dict[str, Any]:
    return {
        "group": group,
        **setting._asdict(),
        "metric": metric,
        "value": mean.value,
        "lower": None if mean.half is None else mean.value - mean.half,
        "upper": None if mean.half is None else mean.value + mean.half,
        "tasks": tasks,
    }
