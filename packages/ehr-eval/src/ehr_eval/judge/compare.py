"""Two models on the same patients, and one model over several tasks.

B bootstrap draws.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ehr_eval.judge.bootstrap import interval
from ehr_eval.judge.metrics.ranked import Floats


class Model(NamedTuple):
    """Whose predictions are judged."""

    name: str
    """Of the features or predictions."""
    head: str
    """What was fitted on features; given: predictions made elsewhere; or what needs neither."""


class Score(NamedTuple):
    """A point estimate with its bootstrap."""

    value: float
    draws: Floats
    """[B]; NaN where undefined."""


class Difference(NamedTuple):
    """How far one model is ahead of another, with a 95% interval."""

    difference: float
    lower: float | None
    upper: float | None


class GroupMean(NamedTuple):
    """A mean over tasks."""

    value: float
    half: float | None
    """Half of the 95% interval; None where a task has fewer than two defined draws."""


def difference(ours: Score, theirs: Score) -> Difference:
    """Ours minus theirs; paired: both are judged on the same patients in each draw.

    Examples:
        >>> difference(Score(0.75, np.array([0.5, 1.5])), Score(0.5, np.array([0.5, 0.5])))
        Difference(difference=0.25, lower=0.025, upper=0.975)
    """
    bounds = interval(ours.draws - theirs.draws)
    return Difference(ours.value - theirs.value, bounds.lower, bounds.upper)


def group_mean(scores: Sequence[Score]) -> GroupMean | None:
    """Unweighted mean over tasks and half its 95% interval, 1.96 sqrt(sum of variances) / tasks.

    EHRSHOT's interval for a group of tasks.

    Returns:
        None where there is no task.

    Examples:
        >>> group_mean([Score(0.5, np.zeros(2)), Score(1.0, np.array([0.9, 1.1]))])
        GroupMean(value=0.75, half=0.138...)
    """
    variances = []
    for score in scores:
        defined = score.draws[~np.isnan(score.draws)]
        if len(defined) > 1:
            variances.append(float(np.var(defined, ddof=1)))
    if not scores:
        return None
    value = float(np.mean([score.value for score in scores]))
    if len(variances) < len(scores):
        return GroupMean(value, None)
    return GroupMean(value, 1.96 * float(np.sqrt(np.sum(variances))) / len(scores))
