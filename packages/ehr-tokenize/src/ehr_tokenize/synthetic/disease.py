"""Latent chronic disease: who gets which condition when, and how severe it is at any age.

Shapes: `N` subjects, `C` conditions. Ages in years.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ehr_tokenize.synthetic.conditions import CONDITIONS
from ehr_tokenize.synthetic.config import SynthConfig

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

BURDEN = np.array([c.burden for c in CONDITIONS])


@dataclass(frozen=True, slots=True)
class Latent:
    """What no record shows."""

    frailty: Floats
    """[N], standard normal."""
    onset: Floats
    """[N, C], age at onset; infinite where it never comes."""
    rate: Floats
    """[N, C], progression a year."""

    def severity(self, subject: Ints, age: Floats) -> Floats:
        """[K, C]: 0 before onset, then 1 - exp(-rate * years since onset).

        Args:
            subject: [K], rows of this cohort.
            age: [K], in years.
        """
        years = np.maximum(age[:, None] - self.onset[subject], 0.0)
        return -np.expm1(-self.rate[subject] * years)

    def burden(self, subject: Ints, age: Floats) -> Floats:
        """[K]: the weighted sum of severities. It never falls with age."""
        total: Floats = self.severity(subject, age) @ BURDEN
        return total


def sample_latent(rng: np.random.Generator, male: Bools, config: SynthConfig) -> Latent:
    """Draw frailty, onsets and progression of each subject.

    The onset of condition c has the hazard
    `hazard_c * d/da (a/60)**shape_c * exp(frailty_onset * z + male_c + sum of causes present)`.
    The causes change it by steps, so the age at onset is found exactly by inverting the piecewise
    cumulative hazard at a standard exponential.

    Args:
        rng: Source of all randomness.
        male: [N].
        config: Effects.
    """
    n = len(male)
    names = [c.name for c in CONDITIONS]
    frailty = rng.standard_normal(n)
    onset = np.full((n, len(names)), np.inf)
    rate = np.empty((n, len(names)))
    for j, condition in enumerate(CONDITIONS):
        causes = [names.index(x) for x in condition.causes]
        ratios = np.array(list(condition.causes.values()))
        baseline = np.exp(config.frailty_onset * frailty + condition.male * male)
        target = rng.exponential(size=n) / (condition.hazard * baseline)
        onset[:, j] = _invert(target, onset[:, causes], ratios, condition.shape)
        before = (onset[:, causes] < onset[:, j : j + 1]).sum(axis=1)
        rate[:, j] = condition.rate * np.exp(
            config.frailty_events * frailty
            + config.order_effect * before
            + 0.4 * rng.standard_normal(n)
        )
    return Latent(frailty, onset, rate)


def _invert(target: Floats, causes: Floats, log_ratios: Floats, shape: float) -> Floats:
    """Age at which a hazard that steps up at each cause's onset has accumulated to `target`.

    Args:
        target: [N], in units of the baseline's cumulative hazard at 60.
        causes: [N, K] ages at onset.
        log_ratios: [K].
        shape: Of the Weibull baseline.

    Examples:
        >>> twice = np.log([2.0])  # with shape 1: rate 1/60 a year, 2/60 from the age of 30 on
        >>> _invert(np.array([0.25, 1.5]), np.array([[30.0], [30.0]]), twice, 1.0).round(6).tolist()
        [15.0, 60.0]
    """
    order = np.argsort(causes, axis=1)
    starts = np.take_along_axis(causes, order, axis=1)
    factor = np.ones(len(target))
    spent = np.zeros(len(target))
    clock = np.zeros(len(target))  # baseline cumulative hazard, (age / 60) ** shape
    result = np.full(len(target), np.inf)
    for k in range(starts.shape[1] + 1):
        last = k == starts.shape[1]
        end = np.full(len(target), np.inf) if last else (starts[:, k] / 60) ** shape
        reached = clock + (target - spent) / factor
        here = np.isinf(result) & (reached <= end)
        result[here] = 60 * reached[here] ** (1 / shape)
        if not last:
            finite = np.isfinite(end)
            spent[finite] += (factor * (end - clock))[finite]
            clock[finite] = end[finite]
            factor *= np.exp(log_ratios[order[:, k]])
    return result
