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

NAMES = [c.name for c in CONDITIONS]
BURDEN = np.array([c.burden for c in CONDITIONS])
RATE_SD = 0.4
"""Of the logarithm of a condition's progression, beside frailty and order."""
PROPENSITY_SD = 0.5
"""Of the logarithm of the propensity."""


@dataclass(frozen=True, slots=True)
class Latent:
    """What no record shows."""

    frailty: Floats
    """[N], standard normal."""
    onset: Floats
    """[N, C], age at onset; infinite where it never comes."""
    rate: Floats
    """[N, C], progression a year."""
    propensity: Floats
    """[N], a subject's own factor on the rate of outpatient visits."""

    def take(self, subject: Ints) -> "Latent":
        """The state of some subjects, in that order; one may come several times."""
        return Latent(
            self.frailty[subject],
            self.onset[subject],
            self.rate[subject],
            self.propensity[subject],
        )

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
    """Draw frailty, onsets, progression and propensity of each subject.

    Args:
        rng: Source of all randomness.
        male: [N].
        config: Effects.
    """
    n = len(male)
    frailty = rng.standard_normal(n)
    nothing = np.full((n, len(CONDITIONS)), np.inf)
    unborn = Latent(frailty, nothing, np.ones_like(nothing), np.ones(n))
    latent = draw_onsets(rng, unborn, male, np.zeros(n), config)
    propensity = np.exp(PROPENSITY_SD * rng.standard_normal(n))
    return Latent(frailty, latent.onset, latent.rate, propensity)


def draw_onsets(
    rng: np.random.Generator, latent: Latent, male: Bools, age: Floats, config: SynthConfig
) -> Latent:
    """Draw what comes after an age: onset and progression of the conditions not yet present.

    The onset of condition c has the hazard
    `hazard_c * d/da (a/60)**shape_c * exp(frailty_onset * z + male_c + sum of causes present)`.
    The causes change it by steps, so the age at onset is found exactly by inverting the piecewise
    cumulative hazard at a standard exponential.

    Args:
        rng: Source of all randomness.
        latent: Conditions with an onset up to `age` stay as they are.
        male: [N].
        age: [N], in years.
        config: Effects.
    """
    n = len(male)
    onset, rate = latent.onset.copy(), latent.rate.copy()
    for j, condition in enumerate(CONDITIONS):
        causes = [NAMES.index(x) for x in condition.causes]
        ratios = np.array(list(condition.causes.values()))
        baseline = np.exp(config.frailty_onset * latent.frailty + condition.male * male)
        target = rng.exponential(size=n) / (condition.hazard * baseline)
        target += cumulative_hazard(age, onset[:, causes], ratios, condition.shape)
        begun = onset[:, j] <= age
        drawn = _invert(target, onset[:, causes], ratios, condition.shape)
        onset[:, j] = np.where(begun, onset[:, j], drawn)
        before = (onset[:, causes] < onset[:, j : j + 1]).sum(axis=1)
        pace = condition.rate * np.exp(
            config.frailty_events * latent.frailty
            + config.order_effect * before
            + RATE_SD * rng.standard_normal(n)
        )
        rate[:, j] = np.where(begun, rate[:, j], pace)
    return Latent(latent.frailty, onset, rate, latent.propensity)


def cumulative_hazard(age: Floats, causes: Floats, log_ratios: Floats, shape: float) -> Floats:
    """The integral up to `age` of a Weibull hazard that steps up at each cause's onset.

    Args:
        age: [...], in years.
        causes: [..., K] ages at onset; its leading dimensions and those of `age` broadcast.
        log_ratios: [K].
        shape: Of the Weibull baseline.

    Returns:
        [...], in units of the baseline's cumulative hazard at 60.

    Examples:
        >>> twice = np.log([2.0])  # with shape 1: rate 1/60 a year, 2/60 from the age of 30 on
        >>> cumulative_hazard(np.array([15.0, 60.0]), np.array([30.0]), twice, 1.0).tolist()
        [0.25, 1.5]
    """
    now = (age / 60) ** shape
    order = np.argsort(causes, axis=-1)
    starts = (np.minimum(np.sort(causes, axis=-1), 1e6) / 60) ** shape
    total: Floats = now
    step = np.ones(causes.shape[:-1])  # hazard ratio before the k-th cause
    for k in range(causes.shape[-1]):
        rise = step * np.expm1(log_ratios[order[..., k]])
        total = total + rise * np.maximum(now - starts[..., k], 0.0)
        step = step + rise
    return total


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
