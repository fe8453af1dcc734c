"""How likely the courses of conditions are, given frailty and one another.

Shapes: `P` chains, `C` conditions, `m` candidates.
"""

from dataclasses import dataclass

import numpy as np

from ehr_tokenize.synthetic.conditions import CONDITIONS
from ehr_tokenize.synthetic.config import SynthConfig
from ehr_tokenize.synthetic.disease import NAMES, RATE_SD, Floats, cumulative_hazard
from ehr_tokenize.synthetic.views import Pool

CAUSES_OF = [np.array([NAMES.index(x) for x in c.causes], int) for c in CONDITIONS]
RATIOS_OF = [np.array([*c.causes.values()], float) for c in CONDITIONS]
CHILDREN = [[d for d in range(len(NAMES)) if c in CAUSES_OF[d]] for c in range(len(NAMES))]


@dataclass(frozen=True, slots=True)
class Courses:
    """The courses that the chains hold at a prediction time."""

    onset: Floats
    """[P, C], infinite where it has not come."""
    log_rate: Floats
    """[P, C]."""
    frailty: Floats
    """[P]."""
    hazard: Floats
    """[C], cumulative hazard at 60 for the subject's sex."""
    age: float
    """At the prediction time."""
    config: SynthConfig

    def log_prior(self, c: int, pool: Pool) -> Floats:
        """[m, P], log density of each candidate course of condition `c`, up to a constant.

        That of its onset and progression given its causes (without what the pool has already), and
        of the courses of what it causes itself.
        """
        effect = self.config.frailty_onset
        onset, begun = pool.onset[:, None], pool.begun[:, None]
        causes = self.onset[None, :, CAUSES_OF[c]]
        before = causes < onset[..., None]
        total = cumulative_hazard(pool.until[:, None], causes, RATIOS_OF[c], CONDITIONS[c].shape)
        log_p: Floats = -self.hazard[c] * np.exp(effect * self.frailty) * total
        log_p += begun * (effect * self.frailty + before @ RATIOS_OF[c])
        log_p -= begun * self._pace(c, pool.log_rate[:, None], before.sum(axis=2))
        for d in CHILDREN[c]:
            log_p += self._child(c, d, onset)
        return log_p

    def _pace(self, c: int, log_rate: Floats, before: Floats) -> Floats:
        """Minus the log density of a progression after so many causes."""
        mean = np.log(CONDITIONS[c].rate) + self.config.frailty_events * self.frailty
        error = log_rate - mean - self.config.order_effect * before
        loss: Floats = 0.5 * (error / RATE_SD) ** 2
        return loss

    def _child(self, c: int, d: int, onset: Floats) -> Floats:
        """[m, P], log density of what comes of condition `d` given the onset of its cause `c`."""
        own = self.onset[:, d]
        now = np.minimum(own, self.age)
        other = CAUSES_OF[d] != c
        rest, ratios = self.onset[:, CAUSES_OF[d][other]], RATIOS_OF[d][other]
        gamma = float(RATIOS_OF[d][~other][0])
        shape = CONDITIONS[d].shape
        full = cumulative_hazard(now, rest, ratios, shape)
        part = cumulative_hazard(np.minimum(onset, now), rest[None], ratios, shape)
        base = self.hazard[d] * np.exp(self.config.frailty_onset * self.frailty)
        earlier = onset < own
        count = (rest < own[:, None]).sum(axis=1) + earlier
        gain = np.isfinite(own) * (gamma * earlier - self._pace(d, self.log_rate[:, d], count))
        result: Floats = gain - base * np.expm1(gamma) * (full - part)
        return result

    def of_frailty(self, z: Floats) -> Floats:
        """[Q, P], log density of all courses at frailties z, [Q, P], up to a constant."""
        c = self.config
        log_p = np.zeros_like(z)
        for j, condition in enumerate(CONDITIONS):
            own, causes = self.onset[:, j], self.onset[:, CAUSES_OF[j]]
            begun = np.isfinite(own)
            now = np.minimum(own, self.age)
            total = cumulative_hazard(now, causes, RATIOS_OF[j], condition.shape)
            log_p += begun * c.frailty_onset * z
            log_p -= self.hazard[j] * total * np.exp(c.frailty_onset * z)
            before = (causes < own[:, None]).sum(axis=1)
            error = self.log_rate[:, j] - np.log(condition.rate) - c.order_effect * before
            log_p -= begun * 0.5 * ((error - c.frailty_events * z) / RATE_SD) ** 2
        return log_p
