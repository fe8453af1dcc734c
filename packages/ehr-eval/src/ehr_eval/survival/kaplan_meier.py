"""Kaplan and Meier's estimate, of survival and of the time until nobody looks any more.

n rows, m distinct times.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from ehr_eval.judge.metrics.ranked import Floats


@dataclass(frozen=True, slots=True, eq=False)
class StepCurve:
    """A step function of time that is 1 until its first step."""

    days: Floats
    """[m] ascending."""
    value: Floats
    """[m] from that day on."""

    @classmethod
    def survival(cls, days: Floats, event: npt.NDArray[np.bool_]) -> Self:
        """Share without the event (Kaplan and Meier, 1958).

        Args:
            days: [n] to the event or to where nothing is known any more.
            event: [n] which of the two.

        Examples:
            >>> curve = StepCurve.survival(np.array([1.0, 2, 2, 3]), np.array([1, 1, 0, 0], bool))
            >>> curve.at(np.array([0.5, 1, 2, 9])).tolist()
            [1.0, 0.75, 0.5, 0.5]
        """
        return cls._of(days, event, tied_first=np.zeros(len(days), bool))

    @classmethod
    def censoring(cls, days: Floats, event: npt.NDArray[np.bool_]) -> Self:
        """Share that is still looked at, had nobody the event; at one day events come first."""
        return cls._of(days, ~event, tied_first=event)

    @classmethod
    def _of(
        cls, days: Floats, ends: npt.NDArray[np.bool_], *, tied_first: npt.NDArray[np.bool_]
    ) -> Self:
        times = np.unique(days)
        at_risk = len(days) - np.searchsorted(np.sort(days), times, side="left")
        left, gone = (
            np.bincount(np.searchsorted(times, days[which]), minlength=len(times))
            for which in (ends, tied_first)
        )
        alive = np.maximum(at_risk - gone, 1)  # no one ends where no one is left
        return cls(times, np.cumprod(1 - left / alive))

    def at(self, days: Floats) -> Floats:
        """The value at each of some days."""
        step = np.searchsorted(self.days, days, side="right")
        return np.concatenate([[1.0], self.value])[step]
