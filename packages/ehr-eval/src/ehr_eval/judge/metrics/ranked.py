"""Held-out rows in falling order of probability under many bootstrap weights, sorted once.

N rows, B draws, G distinct probabilities. What several metrics need is computed once, when the first
of them asks for it.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
SPECIFICITY = 0.95
"""At which sensitivity is asked for, where nothing else is said."""
AT_RISK = 0.1
"""At which net benefit is asked for, where nothing else is said."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Ranked:
    """What a metric is computed from; every `_B` is one number a draw."""

    label_N: npt.NDArray[np.bool_]
    probability_N: Floats
    """Falling."""
    first_G: npt.NDArray[np.int64]
    """Where each group of equal probabilities begins: they stand and fall together."""
    weight_NB: Floats
    """How often each row counts in each draw."""
    specificity: float = SPECIFICITY
    """At which sensitivity is asked for."""
    at_risk: float = AT_RISK
    """At which net benefit is asked for."""
    decided_N: npt.NDArray[np.bool_] | None = None
    """What each row is called by a threshold that was chosen on other rows; None where there is none."""

    @cached_property
    def total_B(self) -> Floats:
        """Rows, by weight."""
        return np.asarray(self.weight_NB.sum(axis=0))

    @cached_property
    def positives_B(self) -> Floats:
        """Positive rows, by weight."""
        return np.asarray(self.weight_NB[self.label_N].sum(axis=0))

    @cached_property
    def probability_G(self) -> Floats:
        """Distinct probabilities, falling."""
        return self.probability_N[self.first_G]

    @cached_property
    def true_GB(self) -> Floats:
        """Positive rows of each group, by weight."""
        return self._grouped(self.weight_NB * self.label_N[:, None])

    @cached_property
    def all_GB(self) -> Floats:
        """Rows of each group, by weight."""
        return self._grouped(self.weight_NB)

    def _grouped(self, value_NB: Floats) -> Floats:
        """[G, B] sums over the rows of each group."""
        if len(self.first_G) == len(value_NB):
            return value_NB  # nothing is tied
        return np.add.reduceat(value_NB, self.first_G, axis=0)

    @cached_property
    def above_GB(self) -> Floats:
        """Positive rows of this group and of those with a higher probability, by weight."""
        return np.cumsum(self.true_GB, axis=0)
