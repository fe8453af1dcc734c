"""The metrics, one file each; a line of `METRICS` is all that adds one to results and report."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt

from ehr_eval.judge.metrics.auprc import auprc
from ehr_eval.judge.metrics.auroc import auroc
from ehr_eval.judge.metrics.brier import brier
from ehr_eval.judge.metrics.calibration import calibration_error
from ehr_eval.judge.metrics.f1 import f1
from ehr_eval.judge.metrics.partial_auroc import partial_auroc
from ehr_eval.judge.metrics.ranked import Floats, Ranked
from ehr_eval.judge.metrics.sensitivity import sensitivity

Need = Literal["positive", "negative", "threshold"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One number that says how good predictions are."""

    name: str
    """In the column `metric` of results."""
    title: str
    """What a person reads."""
    score: Callable[[Ranked], Floats]
    """[B], one a draw; where it is undefined, NaN or infinite without a warning of its own."""
    higher_is_better: bool = True
    needs: tuple[Need, ...] = ("positive", "negative")
    """Without a row of these, or a threshold that was chosen on tuning rows, it is undefined."""


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric("auroc", "AUROC", auroc),
            Metric("auprc", "AUPRC", auprc, needs=("positive",)),
            Metric(
                "calibration_error",
                "Calibration error",
                calibration_error,
                higher_is_better=False,
                needs=(),
            ),
            Metric("brier", "Brier", brier, higher_is_better=False, needs=()),
            Metric("partial_auroc", "AUROC at FPR <= .2", partial_auroc),
            Metric("sensitivity", "Sensitivity at the specificity set", sensitivity),
            Metric("f1", "F1", f1, needs=("positive", "threshold")),
        )
    }
)
"""Every metric by name, in the order of results and report."""


def undefined(label: npt.NDArray[np.bool_], *, decided: bool = True) -> dict[str, str]:
    """Metric -> why it has no value on these rows; empty where all have one.

    Args:
        label: [n].
        decided: Whether a threshold was chosen.

    Examples:
        >>> undefined(np.array([True, True]))["auroc"]
        'no negative in held_out'
        >>> undefined(np.array([True, False]), decided=False)
        {'f1': 'no threshold was chosen on tuning'}
    """
    if not len(label):
        return dict.fromkeys(METRICS, "no row in held_out")
    there = {"positive": bool(label.any()), "negative": not label.all(), "threshold": decided}
    return {
        metric.name: "no threshold was chosen on tuning"
        if missing[0] == "threshold"
        else f"no {missing[0]} in held_out"
        for metric in METRICS.values()
        if (missing := [name for name in metric.needs if not there[name]])
    }
