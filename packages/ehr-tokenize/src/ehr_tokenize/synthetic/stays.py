"""What a stay says of its acute severity and of the conditions behind it.

Shapes: `P` chains, `C` conditions, `M` candidates, `E` encounters, `Q` values of acute severity.
"""

from dataclasses import dataclass

import numpy as np

from ehr_tokenize.synthetic.conditions import CAUSES
from ehr_tokenize.synthetic.course import DAYS, LENGTH_ACUTE, LENGTH_LOG, LENGTH_SD, fatality
from ehr_tokenize.synthetic.disease import NAMES, Floats, Ints
from ehr_tokenize.synthetic.evidence import Evidence
from ehr_tokenize.synthetic.future import still_there
from ehr_tokenize.synthetic.records import (
    CAUSE_SLOPE,
    INTUBATED,
    INTUBATION_FROM,
    NURSING_ACUTE,
    NURSING_AT,
    elective_chance,
)
from ehr_tokenize.synthetic.tasks import WARD_DAYS

WEIGHT = np.array([x.weight for x in CAUSES])
SLOPE = np.array([x.slope for x in CAUSES])
BEHIND = np.array([[x.condition == name for x in CAUSES] for name in NAMES], float)
"""[C, causes]: 1 where a condition is behind a cause."""
FLUSH = 12
"""Stays whose factors are multiplied before a logarithm is taken: few enough not to overflow."""


@dataclass(frozen=True, slots=True)
class StayTerms:
    """The stays of one subject that can be seen."""

    evidence: Evidence
    stays: Ints
    """Encounters."""
    running: int
    """The encounter that still runs; -1: none does."""

    def of_condition(self, c: int, candidates: Floats, severity: Floats, q: Floats) -> Floats:
        """[M, P], log likelihood of discharges and causes of stays, up to a constant a column.

        Args:
            c: The condition.
            candidates: [M, E], severities to be tried.
            severity: [P, C, E], of the chains.
            q: [P, E].
        """
        linear = np.zeros(len(candidates))
        log_p = np.zeros((len(candidates), len(q)))
        divisor = np.ones_like(log_p)
        causal = bool(BEHIND[c].any())
        for n, j in enumerate(self.stays.tolist()):
            own = candidates[:, j]
            if j != self.running and not self.evidence.died[j]:
                rest = severity[:, :, j].sum(axis=1) - severity[:, c, j]
                linear += own * self.evidence.nursing[j]
                divisor *= 1 + np.outer(
                    np.exp(own), np.exp(rest + NURSING_ACUTE * q[:, j] - NURSING_AT)
                )
            if causal and self.evidence.cause[j] >= 0:
                mine = BEHIND[c] > 0
                weight = np.exp(WEIGHT + SLOPE * q[:, j, None])
                others = weight * np.exp(CAUSE_SLOPE * severity[:, :, j] @ BEHIND)
                linear += CAUSE_SLOPE * own * mine[self.evidence.cause[j]]
                divisor *= others[:, ~mine].sum(axis=1) + np.outer(
                    np.exp(CAUSE_SLOPE * own), weight[:, mine].sum(axis=1)
                )
            if n % FLUSH == FLUSH - 1:
                log_p -= np.log(divisor)
                divisor[:] = 1
        return linear[:, None] + log_p - np.log(divisor)


def stay_terms(evidence: Evidence, encounters: int, running: bool) -> StayTerms:
    """The stays among the first encounters.

    Args:
        evidence: Of one subject.
        encounters: How many can be seen.
        running: Whether the last one still runs.
    """
    stays = np.flatnonzero(evidence.stay[:encounters])
    return StayTerms(evidence, stays, encounters - 1 if running else -1)


def acute_log_density(terms: StayTerms, j: int, q: Floats, severity: Floats) -> Floats:
    """[P, Q], log likelihood of a stay's codes, length and end.

    Args:
        terms: Stays.
        j: Which.
        q: [P, Q], acute severities.
        severity: [P, C], of the chains.
    """
    e = terms.evidence
    elective = elective_chance(q)
    log_p = np.log(elective) if e.elective[j] else np.log1p(-elective)
    if e.cause[j] >= 0:
        exponent = WEIGHT + SLOPE * q[..., None] + (CAUSE_SLOPE * severity @ BEHIND)[:, None]
        top = exponent.max(axis=-1)
        total = top + np.log(np.exp(exponent - top[..., None]).sum(axis=-1))
        log_p += exponent[..., e.cause[j]] - total
    tube = np.where(q > INTUBATION_FROM, INTUBATED, 1e-6)
    log_p += np.log(tube) if e.intubated[j] else np.log1p(-tube)
    if j == terms.running:
        return log_p + np.log(np.maximum(still_there(q, WARD_DAYS), 1e-300))
    days = (e.end[j] - e.start[j]) * DAYS
    log_p -= 0.5 * ((np.log(days) - LENGTH_LOG - LENGTH_ACUTE * q) / LENGTH_SD) ** 2
    if e.died[j]:
        return log_p + np.log(fatality(q))
    odds = severity.sum(axis=1)[:, None] + NURSING_ACUTE * q - NURSING_AT
    log_p -= np.logaddexp(0.0, -odds if e.nursing[j] else odds)
    return log_p + np.log1p(-fatality(q))
