"""What happens to each subject in continuous time: visits, stays and death.

Three competing events have the rates (a year, at age `a` with burden `S` and frailty `z`)

    outpatient  outpatient_rate * v * exp(burden_outpatient * S)
    admission   admission_rate * exp(burden_admission * S + frailty_events * z + readmission * R)
    death       death_rate * exp(0.05 * (a - 60) + burden_death * S + readmission / 2 * R)

where `v` is a subject's own propensity (log-normal) and `R = u * exp(-days since discharge /
readmission_days)` is what the last stay left behind; its instability `u` in (0, 1) rises with that
stay's acute severity. They are sampled exactly by thinning (Ogata 1981): `S` only rises and `R`
only falls between events, so that both bound the rates over a short horizon.
"""

from dataclasses import dataclass

import numpy as np

from ehr_tokenize.synthetic.config import SynthConfig
from ehr_tokenize.synthetic.disease import Bools, Floats, Ints, Latent

DAYS = 365.25
HORIZON = 0.25
"""Years for which one bound of the rates is used."""
CLINIC_HOURS = 1.0
"""Length of an outpatient visit."""
PAUSE = 2 / (24 * 60)
"""Days after an encounter in which nothing begins, so that no two of them share a minute."""
LENGTH_LOG, LENGTH_ACUTE, LENGTH_SD = np.log(3.0), 0.45, 0.45
"""The logarithm of a stay's days is normal: mean with acute severity 0, its slope, deviation."""


@dataclass(frozen=True, slots=True)
class Encounters:
    """One row per visit or stay, by subject and time."""

    subject: Ints
    age: Floats
    """Years, at the start."""
    days: Floats
    """Length."""
    stay: Bools
    acute: Floats
    """Acute severity of a stay; 0 for an outpatient visit."""
    died: Bools
    """Death at the end of a stay."""


@dataclass(frozen=True, slots=True)
class Course:
    """The encounters of a block of subjects, and who died when."""

    encounters: Encounters
    death: Floats
    """[N], age at death; NaN where it was not seen."""


@dataclass(frozen=True, slots=True)
class Aftermath:
    """What the last stay of each of N subjects left behind."""

    discharge: Floats
    """[N], age at its end; -inf where there was none."""
    unstable: Floats
    """[N], in (0, 1); 0 where there was none."""


def fatality(acute: Floats) -> Floats:
    """Probability that a stay ends in death."""
    chance: Floats = 1 / (1 + np.exp(4.6 - 1.3 * acute))
    return chance


def instability(acute: Floats) -> Floats:
    """What a stay of some acute severity leaves behind."""
    left: Floats = 1 / (1 + np.exp(-1.5 * (acute - 0.5)))
    return left


class _State:
    """The clock of each subject and what its last stay left behind."""

    def __init__(self, entry: Floats, before: Aftermath | None) -> None:
        n = len(entry)
        self.age = entry.copy()
        self.discharge = before.discharge.copy() if before else np.full(n, -np.inf)
        self.unstable = before.unstable.copy() if before else np.zeros(n)
        self.death = np.full(n, np.nan)
        self.seen = np.full(n, -np.inf)  # age at the end of the last encounter


def simulate(
    rng: np.random.Generator,
    latent: Latent,
    entry: Floats,
    end: Floats,
    config: SynthConfig,
    *,
    before: Aftermath | None = None,
    until: Floats | None = None,
) -> Course:
    """Run every subject from the age at `entry` to death or to the age at `end`.

    Args:
        rng: Source of all randomness.
        latent: Of the same subjects.
        entry: [N] ages in years.
        end: [N] ages in years; a stay that has begun is finished.
        config: Rates and effects.
        before: The last stay before `entry`; None: there was none.
        until: [N] ages; a subject that was seen at or after it is run no further.
    """
    enough = np.full(len(entry), np.inf) if until is None else until
    state = _State(entry, before)
    parts: list[Encounters] = []
    while True:
        i = np.flatnonzero((state.age < end) & np.isnan(state.death) & (state.seen < enough))
        if not len(i):
            break
        start = state.age[i]
        bound = _rates(latent, state, config, i, start, ahead=HORIZON).sum(axis=0)
        wait = rng.exponential(size=len(i)) / bound
        state.age[i] = start + np.minimum(wait, HORIZON)
        mark = rng.random(len(i)) * bound
        kept = (wait < HORIZON) & (state.age[i] < end[i])
        i, mark = i[kept], mark[kept]
        edges = np.cumsum(_rates(latent, state, config, i, state.age[i]), axis=0)
        kind = (mark >= edges).sum(axis=0)  # 0 outpatient, 1 admission, 2 death, 3 nothing
        state.death[i[kind == 2]] = state.age[i[kind == 2]]
        parts += [
            _outpatient(state, i[kind == 0]),
            _admission(rng, latent, state, i[kind == 1], config),
        ]
    return Course(_ordered(parts or [_nothing()]), state.death)


def _rates(
    latent: Latent,
    state: _State,
    config: SynthConfig,
    i: Ints,
    age: Floats,
    ahead: float = 0.0,
) -> Floats:
    """[3, K] rates at `age`, or with `ahead` a bound of them until `age + ahead`."""
    later = age + ahead
    burden = latent.burden(i, later)
    days = (age - state.discharge[i]) * DAYS
    after = state.unstable[i] * np.exp(-days / config.readmission_days)
    outpatient = (
        config.outpatient_rate * latent.propensity[i] * np.exp(config.burden_outpatient * burden)
    )
    admission = config.admission_rate * np.exp(
        config.burden_admission * burden
        + config.frailty_events * latent.frailty[i]
        + config.readmission * after
    )
    death = config.death_rate * np.exp(
        0.05 * (later - 60) + config.burden_death * burden + config.readmission / 2 * after
    )
    return np.stack([outpatient, admission, death])


def _outpatient(state: _State, i: Ints) -> Encounters:
    begun = state.age[i].copy()
    days = np.full(len(i), CLINIC_HOURS / 24)
    state.seen[i] = state.age[i] + days / DAYS
    state.age[i] += (days + PAUSE) / DAYS
    none = np.zeros(len(i), bool)
    return Encounters(i, begun, days, none, np.zeros(len(i)), none)


def _admission(
    rng: np.random.Generator, latent: Latent, state: _State, i: Ints, config: SynthConfig
) -> Encounters:
    """Acute severity q ~ N(burden_acute * S, 1); it prolongs the stay and may end in death."""
    begun = state.age[i].copy()
    burden = latent.burden(i, begun)
    acute = config.burden_acute * burden + rng.standard_normal(len(i))
    days = np.exp(LENGTH_LOG + LENGTH_ACUTE * acute + LENGTH_SD * rng.standard_normal(len(i)))
    days = np.clip(days, 0.5, 90)
    died = rng.random(len(i)) < fatality(acute)
    state.seen[i] = state.age[i] + days / DAYS
    state.age[i] += (days + PAUSE) / DAYS
    state.discharge[i] = state.age[i]
    state.unstable[i] = instability(acute)
    state.death[i[died]] = state.age[i[died]]
    return Encounters(i, begun, days, np.ones(len(i), bool), acute, died)


def _nothing() -> Encounters:
    none = np.zeros(0)
    return Encounters(none.astype(int), none, none, none.astype(bool), none, none.astype(bool))


def _ordered(parts: list[Encounters]) -> Encounters:
    subject = np.concatenate([p.subject for p in parts])
    age = np.concatenate([p.age for p in parts])
    order = np.lexsort((age, subject))
    return Encounters(
        subject[order],
        age[order],
        np.concatenate([p.days for p in parts])[order],
        np.concatenate([p.stay for p in parts])[order],
        np.concatenate([p.acute for p in parts])[order],
        np.concatenate([p.died for p in parts])[order],
    )
