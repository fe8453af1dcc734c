"""Metrics under many bootstrap draws of the patients at once, and the intervals of these draws.

n rows, B draws. A draw is a weight for each row (how often its patient was drawn), so that all B
draws share one sort. Equal to scikit-learn's functions with `sample_weight` in each draw.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ehr_eval.judge.metrics import ALL_METRICS, METRICS
from ehr_eval.judge.metrics.ranked import AT_RISK, SPECIFICITY, Floats, Ranked

_WEIGHTS = 125_000
"""Weights handled at once: 1 MB, which stays in a core's cache (2-3 times faster than 16 MB)."""


class Interval(NamedTuple):
    """A 95% interval; None where no draw was defined."""

    lower: float | None
    upper: float | None


def patient_draws(subject_id: npt.NDArray[np.int64], draws: int) -> npt.NDArray[np.uint16]:
    """How often each row counts in each bootstrap draw of patients.

    EHRSHOT's draws: the sorted patient ids are resampled with replacement by NumPy's legacy
    generator, seeded with the number of the draw (`sklearn.utils.resample(..., random_state=i)`).

    Args:
        subject_id: [n] patient of each row.
        draws: B.

    Returns:
        [n, B].

    Examples:
        >>> patient_draws(np.array([5, 9, 9]), draws=3)
        array([[1, 0, 1],
               [1, 2, 1],
               [1, 2, 1]], dtype=uint16)
    """
    patients, row_patient = np.unique(subject_id, return_inverse=True)
    n = len(patients)
    counts = np.empty((n, draws), np.uint16)
    legacy = np.random.RandomState()
    for draw in range(draws):
        legacy.seed(draw)  # the very state of a new one, which would take four times as long
        counts[:, draw] = np.bincount(legacy.randint(0, n, size=n), minlength=n)
    weights: npt.NDArray[np.uint16] = counts[row_patient]
    return weights


def rows_and_draws(subject_id: npt.NDArray[np.int64], draws: int) -> npt.NDArray[np.uint16]:
    """[n, 1 + B] the rows themselves, then `patient_draws`: point estimate and bootstrap at once.

    Args:
        subject_id: [n] patient of each row.
        draws: B.
    """
    drawn = patient_draws(subject_id, draws)
    return np.concatenate([np.ones((len(drawn), 1), np.uint16), drawn], axis=1)


def scores(
    label: npt.NDArray[np.bool_],
    probability: Floats,
    weight: npt.NDArray[np.uint16] | Floats | None = None,
    *,
    decided: npt.NDArray[np.bool_] | None = None,
    specificity: float = SPECIFICITY,
    at_risk: float = AT_RISK,
    metrics: Iterable[str] = tuple(METRICS),
) -> dict[str, Floats]:
    """Each metric under each column of weights.

    Args:
        label: [n].
        probability: [n] in [0, 1].
        weight: [n, B]; None: one column of ones, the point estimate.
        decided: [n] what each row is called by a threshold that was chosen on other rows.
        specificity: At which `sensitivity` is asked for.
        at_risk: At which `net_benefit` is asked for.
        metrics: Names in `ALL_METRICS`.

    Returns:
        Metric -> [B]; NaN where undefined (AUROC without both classes, AUPRC without positives, F1
        without `decided`, any without rows).

    Examples:
        >>> found = scores(np.array([0, 1, 1], bool), np.array([.5, .5, 1.]), metrics=("auroc", "brier"))
        >>> {metric: round(float(value[0]), 3) for metric, value in found.items()}
        {'auroc': 0.75, 'brier': 0.167}
    """
    found: dict[str, list[Floats]] = {name: [np.zeros(0)] for name in metrics}
    blocks = ranked_blocks(
        label, probability, weight, decided=decided, specificity=specificity, at_risk=at_risk
    )
    for block in blocks:
        with np.errstate(invalid="ignore", divide="ignore"):
            for name, parts in found.items():
                parts.append(ALL_METRICS[name].score(block))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def ranked_blocks(
    label: npt.NDArray[np.bool_],
    probability: Floats,
    weight: npt.NDArray[np.uint16] | Floats | None = None,
    *,
    decided: npt.NDArray[np.bool_] | None = None,
    specificity: float = SPECIFICITY,
    at_risk: float = AT_RISK,
) -> Iterator[Ranked]:
    """The rows sorted once, with as many draws at a time as stay in a core's cache.

    Args:
        label: [n].
        probability: [n] in [0, 1].
        weight: [n, B]; None: one column of ones.
        decided: As of `scores`.
        specificity: As of `scores`.
        at_risk: As of `scores`.
    """
    if weight is None:
        weight = np.ones((len(label), 1), np.uint16)
    width = max(1, _WEIGHTS // max(1, len(label)))
    order = np.argsort(-probability, kind="stable")
    label, probability = label[order], probability[order]
    decided = None if decided is None else decided[order]
    first = np.flatnonzero(np.r_[True, np.diff(probability) != 0]) if len(label) else order
    for begin in range(0, weight.shape[1], width):
        yield Ranked(
            label_N=label,
            probability_N=probability,
            first_G=first,
            weight_NB=weight[order, begin : begin + width].astype(np.float64),
            decided_N=decided,
            specificity=specificity,
            at_risk=at_risk,
        )


def interval(draws: Floats) -> Interval:
    """The 2.5th and 97.5th percentile; draws in which the metric is undefined are left out.

    Examples:
        >>> interval(np.array([0.0, np.nan, 1.0]))
        Interval(lower=0.025, upper=0.975)
        >>> interval(np.array([np.nan]))
        Interval(lower=None, upper=None)
    """
    defined = draws[~np.isnan(draws)]
    if not len(defined):
        return Interval(None, None)
    lower, upper = np.percentile(defined, [2.5, 97.5])
    return Interval(float(lower), float(upper))
