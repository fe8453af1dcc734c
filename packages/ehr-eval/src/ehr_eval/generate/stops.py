"""Why futures end.

R rows, S states of the spelling.
"""

import re

import torch
from torch import Tensor

from ehr_eval.generate.observers import Rows
from ehr_eval.generate.spelling import NOTHING, Spelling
from ehr_tracking.contracts import EOS_ID

REASONS = ("running", "horizon", "death", "end", "stop", "budget", "enough", "suppressed")
"""By number. `enough`: all who look on have seen what they need; `suppressed`: they allow no token."""
RUNNING, HORIZON, DEATH, END, STOP, BUDGET, ENOUGH, SUPPRESSED = range(len(REASONS))


class Stops:
    """Tells for a token just drawn whether its future ends with it, and why."""

    def __init__(
        self, spelling: Spelling, *, death: str, stop: tuple[str, ...], budget: int
    ) -> None:
        """Get ready.

        Args:
            spelling: Whose states are asked.
            death: Pattern of codes that are a death.
            stop: Patterns of further codes that end a future.
            budget: Most tokens of one.
        """
        self._spelling, self._budget = spelling, budget
        self._death = re.compile(death)
        self._stop = re.compile("|".join(f"(?:{s})" for s in stop)) if stop else None
        self._reasons = torch.zeros(0, dtype=torch.int64, device=spelling.device)

    def reasons(self, rows: Rows, token: Tensor, time: Tensor, spelled: Tensor) -> Tensor:
        """[R] int64 numbers of `REASONS`: the first that holds, in their order.

        Args:
            rows: As they were before the token.
            token: [R]
            time: [R] when it happens.
            spelled: [R] state with it.
        """
        found = self._of_states()[spelled]
        found = torch.where(token == EOS_ID, END, found)
        found = torch.where(time > rows.end, HORIZON, found)
        spent = (found == RUNNING) & (rows.drawn + 1 >= self._budget)
        return torch.where(spent, BUDGET, found)

    def _of_states(self) -> Tensor:
        """[S] what the code told so far says."""
        known = len(self._reasons)
        if known < len(self._spelling):
            new = [self._of_state(s) for s in range(known, len(self._spelling))]
            more = torch.tensor(new, dtype=torch.int64, device=self._reasons.device)
            self._reasons = torch.cat([self._reasons, more])
        return self._reasons

    def _of_state(self, state: int) -> int:
        told = self._spelling.told(state) if state != NOTHING else None
        if told is None:
            return RUNNING
        if self._death.search(told.code):
            return DEATH
        return STOP if self._stop is not None and self._stop.search(told.code) else RUNNING
