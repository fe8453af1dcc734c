"""Curves of predictions under many draws of the patients: calibration, ROC, PR, decision.

n rows, B draws, P points of a curve, G distinct probabilities.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression

from ehr_eval.judge.bootstrap import ranked_blocks
from ehr_eval.judge.metrics.bins import BINS
from ehr_eval.judge.metrics.ranked import Floats, Ranked

RATES = np.linspace(0, 1, 101)
"""False positive rates and recalls at which ROC and PR are told."""
RISKS = np.linspace(0.01, 0.99, 99)
"""Thresholds of decision curves."""
_BANDS = 200
"""Most draws that isotonic regression is fitted in; a percentile of more costs a fit each."""


class Curve(NamedTuple):
    """Points with 95% intervals over patients; NaN where undefined."""

    x: Floats
    y: Floats
    lower: Floats
    upper: Floats


Points = tuple[Floats, Floats]
"""x [P], and y [P, B] of a block of draws."""


@dataclass(frozen=True, slots=True)
class CurveKind:
    """A curve by name."""

    name: str
    title: str
    x: str
    y: str
    points: Callable[[Ranked], Points]
    """Of a block of draws; x is the same in all."""
    needs_both: bool = True
    """Whether it takes rows of both classes."""
    draws: int | None = None
    """Most bootstrap draws that its band is of; None: all there are."""


def roc(rows: Ranked) -> Points:
    """True positive rate at each false positive rate, by straight lines between thresholds."""
    negatives_B = rows.total_B - rows.positives_B
    wrong_GB = np.cumsum(rows.all_GB - rows.true_GB, axis=0) / negatives_B
    right_GB = rows.above_GB / rows.positives_B
    y_PB = np.full((len(RATES), len(negatives_B)), np.nan)
    for b in np.flatnonzero((negatives_B > 0) & (rows.positives_B > 0)):
        y_PB[:, b] = np.interp(RATES, np.r_[0, wrong_GB[:, b]], np.r_[0, right_GB[:, b]])
    return RATES, y_PB


def precision_recall(rows: Ranked) -> Points:
    """Precision at the highest threshold that finds at least a share of the positives."""
    called_GB = np.cumsum(rows.all_GB, axis=0)
    recall_GB = rows.above_GB / rows.positives_B
    precision_GB = rows.above_GB / called_GB
    recalls = RATES[1:]
    y_PB = np.full((len(recalls), len(rows.total_B)), np.nan)
    for b in np.flatnonzero(rows.positives_B > 0):
        y_PB[:, b] = precision_GB[np.searchsorted(recall_GB[:, b], recalls - 1e-12), b]
    return recalls, y_PB


def decision(rows: Ranked) -> Points:
    """Net benefit of treating whoever is at a risk of at least a threshold (Vickers and Elkin 2006)."""
    treated_P = np.searchsorted(-rows.probability_G, -RISKS, side="right")
    right_PB, all_PB = (
        np.pad(x_GB, ((1, 0), (0, 0)))[treated_P]
        for x_GB in (rows.above_GB, np.cumsum(rows.all_GB, axis=0))
    )
    return RISKS, _benefit(right_PB, all_PB - right_PB) / rows.total_B


def treat_all(rows: Ranked) -> Points:
    """Net benefit of treating everybody; of treating nobody it is 0."""
    right_PB = np.broadcast_to(rows.positives_B, (len(RISKS), len(rows.total_B)))
    return RISKS, _benefit(right_PB, rows.total_B - right_PB) / rows.total_B


def _benefit(right_PB: Floats, wrong_PB: Floats) -> Floats:
    return np.asarray(right_PB - wrong_PB * (RISKS / (1 - RISKS))[:, None])


def calibration_binned(rows: Ranked) -> Points:
    """Frequency of the outcome in bins of about equally many rows, at their mean probability.

    The bins are those of the rows themselves in every draw; equal probabilities stay together.
    """
    n = len(rows.label_N)
    size_G = np.diff(np.append(rows.first_G, n))
    bin_G = ((rows.first_G + size_G / 2) * BINS / n).astype(np.int64)
    begin_K = rows.first_G[np.flatnonzero(np.diff(bin_G, prepend=-1))]
    size_K = np.diff(np.append(begin_K, n))
    x_K = np.add.reduceat(rows.probability_N, begin_K) / size_K
    weighed_KB = np.add.reduceat(rows.weight_NB, begin_K, axis=0)
    positive_KB = np.add.reduceat(rows.weight_NB * rows.label_N[:, None], begin_K, axis=0)
    return x_K[::-1], (positive_KB / weighed_KB)[::-1]


def calibration_isotonic(rows: Ranked) -> Points:
    """Frequency of the outcome as a function of the probability that never falls, without bins.

    Isotonic regression, straight between distinct probabilities (Dimitriadis, Gneiting and Jordan 2021).
    """
    p_G = rows.probability_G[::-1]
    x_P = np.linspace(p_G[0], p_G[-1], 101)
    y_PB = np.full((len(x_P), len(rows.total_B)), np.nan)
    for b in np.flatnonzero(rows.total_B > 0):
        weight_G, true_G = rows.all_GB[::-1, b], rows.true_GB[::-1, b]
        there = weight_G > 0
        came = isotonic_regression(true_G[there] / weight_G[there], weights=weight_G[there])
        y_PB[:, b] = np.interp(x_P, p_G[there], came.x)
    return x_P, y_PB


CURVES: Mapping[str, CurveKind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            CurveKind("roc", "ROC", "false positive rate", "true positive rate", roc),
            CurveKind("precision_recall", "Precision and recall", "recall", "precision", precision_recall),
            CurveKind("calibration_binned", "Calibration", "predicted probability", "frequency of the outcome", calibration_binned, needs_both=False),
            CurveKind("calibration_isotonic", "Calibration, isotonic", "predicted probability", "frequency of the outcome", calibration_isotonic, needs_both=False, draws=_BANDS),
            CurveKind("decision", "Decision curve", "risk from which one treats", "net benefit", decision, needs_both=False),
            CurveKind("treat_all", "Treat all", "risk from which one treats", "net benefit", treat_all, needs_both=False),
        )
    }
)  # fmt: skip
"""Every curve by name."""


def curves(
    label: npt.NDArray[np.bool_],
    probability: Floats,
    weight: npt.NDArray[np.uint16] | Floats,
    names: Iterable[str] | None = None,
) -> dict[str, Curve]:
    """Each curve that these rows have.

    Args:
        label: [n], n > 0.
        probability: [n] in [0, 1].
        weight: [n, 1 + B], the rows themselves and draws, from `rows_and_draws`.
        names: Of `CURVES`; None: all.

    Examples:
        >>> found = curves(np.array([0, 1], bool), np.array([.2, .8]), np.ones((2, 1), np.uint16))
        >>> sorted(found)[:3], found["decision"].y[[0, 98]].round(3).tolist()
        (['calibration_binned', 'calibration_isotonic', 'decision'], [0.495, 0.0])
    """
    both = bool(label.any()) and not label.all()
    chosen = CURVES if names is None else names
    found = [CURVES[name] for name in chosen if both or not CURVES[name].needs_both]
    xs: dict[str, Floats] = {}
    ys: dict[str, list[Floats]] = {kind.name: [] for kind in found}
    for most in {kind.draws: None for kind in found}:
        few = weight if most is None else weight[:, : 1 + most]
        for block in ranked_blocks(label, probability, few):
            for kind in found:
                if kind.draws == most:
                    with np.errstate(invalid="ignore", divide="ignore"):
                        xs[kind.name], y = kind.points(block)
                    ys[kind.name].append(y)
    return {name: _with_band(xs[name], np.concatenate(parts, axis=1)) for name, parts in ys.items()}


def _with_band(x: Floats, y_PB: Floats) -> Curve:
    draws, bounds = y_PB[:, 1:], np.full((2, len(x)), np.nan)
    known = ~np.isnan(draws).all(axis=1)
    if known.any():
        bounds[:, known] = np.nanpercentile(draws[known], [2.5, 97.5], axis=1)
    return Curve(x, y_PB[:, 0], *bounds)
