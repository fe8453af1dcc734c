"""What a latent state makes likely: outcomes of the tasks, by drawing futures from the model.

A risk is that of the *label*: the probability of a positive row given that the row is one, since a
negative row counts only where follow-up was long enough. It is the ratio of two means over futures,
of the outcome and of the row's being labelled; where a future's events leave an outcome to chance
(coding, a measured value) its probability stands in for a draw.
"""

import math
from dataclasses import dataclass

import numpy as np

from ehr_tokenize.synthetic.conditions import KNOWN_BONUS, LABS
from ehr_tokenize.synthetic.config import SynthConfig
from ehr_tokenize.synthetic.course import (
    DAYS,
    LENGTH_ACUTE,
    LENGTH_LOG,
    LENGTH_SD,
    PAUSE,
    Aftermath,
    Course,
    Encounters,
    fatality,
    simulate,
)
from ehr_tokenize.synthetic.disease import NAMES, Bools, Floats, Ints, Latent, draw_onsets
from ehr_tokenize.synthetic.records import MAX_PANELS, coding_chance, trend
from ehr_tokenize.synthetic.rows import DAY, HOUR
from ehr_tokenize.synthetic.tasks import (
    CONDITION,
    HORIZON_DAYS,
    LAB,
    LAB_ABOVE,
    LONG_DAYS,
    READMISSION_DAYS,
    WARD_DAYS,
)

_ERF = np.vectorize(math.erf, otypes=[float])


@dataclass(frozen=True, slots=True)
class State:
    """K latent states at prediction times, outside any stay."""

    latent: Latent
    """Onsets up to `age`; later ones are drawn anew."""
    male: Bools
    """[K]."""
    age: Floats
    """[K], years at the prediction time."""
    closing: Floats
    """[K], age on the last day of the cohort."""
    before: Aftermath
    """What the last stay left behind."""
    usual: Floats
    """[K], deviation of the subject's own level of the measurement."""
    known: Bools
    """[K], whether a condition for which the measurement is ordered has been coded."""

    def take(self, which: Ints) -> "State":
        """Some states, in that order."""
        return State(
            self.latent.take(which),
            self.male[which],
            self.age[which],
            self.closing[which],
            Aftermath(self.before.discharge[which], self.before.unstable[which]),
            self.usual[which],
            self.known[which],
        )


Share = tuple[Floats, Floats]
"""[K] probabilities of a positive row and of any row."""


def normal_cdf(x: Floats) -> Floats:
    """The standard normal distribution function."""
    p: Floats = 0.5 * (1 + _ERF(x / math.sqrt(2)))
    return p


def death_in_stay(acute: Floats) -> Floats:
    """Risk of in_hospital_mortality: the end of a stay depends on its acute severity only."""
    return fatality(acute)


def still_there(acute: Floats, days: float) -> Floats:
    """Probability that a stay of some acute severity is longer than some days."""
    mean = LENGTH_LOG + LENGTH_ACUTE * acute
    return normal_cdf((mean - math.log(days)) / LENGTH_SD)


def stays_long(acute: Floats) -> Floats:
    """Risk of long_stay, given that the stay still runs when it is predicted."""
    return still_there(acute, LONG_DAYS) / still_there(acute, WARD_DAYS)


def after_discharge(
    rng: np.random.Generator, state: State, config: SynthConfig
) -> dict[str, Share]:
    """One future of each state at a discharge, for the three tasks predicted there."""
    until = state.age + HORIZON_DAYS / DAYS
    latent, course = _run(rng, state, config, until)
    e, n = course.encounters, len(state.age)
    death = np.where(np.isnan(course.death), np.inf, course.death)
    seen = np.full(n, -np.inf)
    np.maximum.at(seen, e.subject, e.age + e.days / DAYS)

    def share(positive: Floats, days: float) -> Share:
        counts = (seen >= state.age + days / DAYS) | np.isfinite(death)
        return positive, positive + (1 - positive) * counts

    again = np.zeros(n)
    again[e.subject[e.stay & (e.age <= state.age[e.subject] + READMISSION_DAYS / DAYS)]] = 1
    return {
        "readmission_30d": share(again, READMISSION_DAYS),
        "mortality_1y": share((death <= until).astype(float), HORIZON_DAYS),
        "new_diagnosis_1y": share(_coded(latent, e, until), HORIZON_DAYS),
    }


def next_measurement(rng: np.random.Generator, state: State, config: SynthConfig) -> Share:
    """One future of each state at the end of a visit, up to the next one."""
    latent, course = _run(rng, state, config, state.age)
    e = course.encounters
    lab = LABS[LAB]
    severity = latent.severity(e.subject, e.age)
    length = np.floor(e.days * DAY)
    panels = np.minimum(1 + (length - 3 * HOUR) // DAY, MAX_PANELS)
    on_ward = 1 - (1 - lab.ward) ** panels
    day = np.floor(np.log1p(-rng.random(len(length)) * on_ward) / math.log1p(-lab.ward))
    progress = (2 * HOUR + DAY * day) / length
    level = (
        lab.mean
        + lab.between * state.usual[e.subject]
        + severity[:, [NAMES.index(x) for x in lab.loads]] @ np.array([*lab.loads.values()])
        + lab.acute * e.acute * trend(progress, e.died)
    )
    above = level - (LAB_ABOVE + 0.5 * 10.0**-lab.decimals)  # what is rounded to more than that
    spread = max(lab.within * config.noise, 1e-9)
    relevant = state.known[e.subject] | np.zeros(len(length), bool)
    newly = np.zeros(len(length))
    for name in lab.loads:
        s = severity[:, NAMES.index(name)]
        newly = 1 - (1 - newly) * (1 - np.where(s > 0, coding_chance(s, e.stay), 0.0))
    at_clinic = lab.clinic + KNOWN_BONUS * np.where(relevant, 1.0, newly)
    counts, positive = np.zeros(len(state.age)), np.zeros(len(state.age))
    counts[e.subject] = np.where(e.stay, on_ward, at_clinic)
    positive[e.subject] = counts[e.subject] * normal_cdf(above / spread)
    return positive, counts


def _run(
    rng: np.random.Generator, state: State, config: SynthConfig, until: Floats
) -> tuple[Latent, Course]:
    """Draw what is still open of the latent state, and events until one is at or after `until`."""
    latent = draw_onsets(rng, state.latent, state.male, state.age, config)
    end = state.closing
    if config.dropout_rate > 0:
        lost = rng.exponential(1 / config.dropout_rate, size=len(end))
        end = np.minimum(end, state.age + lost)
    begin = state.age + PAUSE / DAYS
    return latent, simulate(rng, latent, begin, end, config, before=state.before, until=until)


def _coded(latent: Latent, e: Encounters, until: Floats) -> Floats:
    """[K], probability that the condition is coded in one of these encounters, by `until`."""
    severity = latent.severity(e.subject, e.age)[:, CONDITION]
    when = np.where(e.stay, e.age + e.days / DAYS, e.age)  # a stay codes when it ends
    chance = np.where(severity > 0, coding_chance(severity, e.stay), 0.0)
    chance[when > until[e.subject]] = 0
    missed = np.zeros(len(until))
    np.add.at(missed, e.subject, np.log1p(-chance))
    p: Floats = -np.expm1(missed)
    return p
