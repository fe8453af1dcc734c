"""The metrics, one file each; a line of `ALL_METRICS` is all that adds one to results and report."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt

from ehr_eval.judge.metrics.auprc import auprc
from ehr_eval.judge.metrics.auroc import auroc
from ehr_eval.judge.metrics.brier import brier, reliability, resolution, uncertainty
from ehr_eval.judge.metrics.calibration import (
    calibration_error,
    expected_error,
    expected_error_of_mass,
)
from ehr_eval.judge.metrics.cox import intercept, slope
from ehr_eval.judge.metrics.decided import found, npv, ppv, spared
from ehr_eval.judge.metrics.f1 import f1
from ehr_eval.judge.metrics.log_loss import log_loss
from ehr_eval.judge.metrics.net_benefit import net_benefit
from ehr_eval.judge.metrics.partial_auroc import partial_auroc
from ehr_eval.judge.metrics.ranked import Floats, Ranked
from ehr_eval.judge.metrics.sensitivity import sensitivity
from ehr_tracking.contracts import HELD_OUT

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
    at_every_cell: bool = True
    """Whether the few-shot protocol computes it for every head and draw of the shots, or `judge` alone."""
    ideal: float | None = None
    """What is best, where neither more nor less is."""
    otherwise: str = ""
    """Why it is undefined where all that it needs is there."""

    @property
    def heading(self) -> str:
        """The title, with what is better."""
        if self.ideal is not None:
            return f"{self.title} ({self.ideal:g} is best)"
        return self.title if self.higher_is_better else f"{self.title} (lower is better)"


_late = partial(Metric, at_every_cell=False)
ALL_METRICS: Mapping[str, Metric] = MappingProxyType(
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
            _late("log_loss", "Log loss", log_loss, higher_is_better=False, needs=()),
            _late(
                "brier_reliability",
                "Brier: reliability",
                reliability,
                higher_is_better=False,
                needs=(),
            ),
            _late("brier_resolution", "Brier: resolution", resolution, needs=()),
            _late(
                "brier_uncertainty",
                "Brier: uncertainty, of the outcome and no model",
                uncertainty,
                needs=(),
            ),
            _late(
                "ece", "ECE, bins of equal width", expected_error, higher_is_better=False, needs=()
            ),
            _late(
                "ece_mass",
                "ECE, bins of equally many rows",
                expected_error_of_mass,
                higher_is_better=False,
                needs=(),
            ),
            _late(
                "calibration_slope",
                "Calibration slope",
                slope,
                ideal=1,
                otherwise="a threshold parts the classes, or all probabilities are equal: no slope is the likeliest",
            ),
            _late("calibration_intercept", "Calibration intercept", intercept, ideal=0),
            _late("net_benefit", "Net benefit at the risk set", net_benefit, needs=()),
            _late(
                "threshold_sensitivity",
                "Sensitivity at the threshold of tuning",
                found,
                needs=("positive", "threshold"),
            ),
            _late(
                "threshold_specificity",
                "Specificity at the threshold of tuning",
                spared,
                needs=("negative", "threshold"),
            ),
            _late(
                "ppv",
                "PPV at the threshold of tuning",
                ppv,
                needs=("threshold",),
                otherwise="no row is called positive",
            ),
            _late(
                "npv",
                "NPV at the threshold of tuning",
                npv,
                needs=("threshold",),
                otherwise="no row is called negative",
            ),
        )
    }
)
"""Every metric by name, in the order of results and report."""
METRICS: Mapping[str, Metric] = MappingProxyType(
    {name: metric for name, metric in ALL_METRICS.items() if metric.at_every_cell}
)
"""Those that the few-shot protocol computes: cheap, and what papers tell at every k."""


def undefined(
    label: npt.NDArray[np.bool_],
    *,
    decided: bool = True,
    metrics: Iterable[str] = tuple(METRICS),
    where: str = HELD_OUT,
) -> dict[str, str]:
    """Metric -> why it has no value on these rows; empty where all have one.

    Args:
        label: [n].
        decided: Whether a threshold was chosen.
        metrics: Names in `ALL_METRICS`.
        where: What the rows are.

    Examples:
        >>> undefined(np.array([True, True]))["auroc"]
        'no negative in held_out'
        >>> undefined(np.array([True, False]), decided=False)
        {'f1': 'no threshold was chosen on tuning'}
    """
    if not len(label):
        return dict.fromkeys(metrics, f"no row in {where}")
    there = {"positive": bool(label.any()), "negative": not label.all(), "threshold": decided}
    return {
        metric.name: "no threshold was chosen on tuning"
        if missing[0] == "threshold"
        else f"no {missing[0]} in {where}"
        for metric in map(ALL_METRICS.__getitem__, metrics)
        if (missing := [name for name in metric.needs if not there[name]])
    }
