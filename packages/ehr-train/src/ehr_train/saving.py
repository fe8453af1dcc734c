"""Which steps of a run are saved besides the best and the last: by steps, tokens, epochs and minutes."""

import time
from typing import TYPE_CHECKING

from ehr_train.config import CheckpointConfig
from ehr_train.data.sampler import Sampler

if TYPE_CHECKING:
    from ehr_train.state import Progress

SAVES = "saves.jsonl"
"""Of a run: step, seconds and reasons of each checkpoint."""


class Saving:
    """Says of each step why it is saved; all but the minutes is a function of config and position."""

    def __init__(self, config: CheckpointConfig, order: Sampler) -> None:
        """Start the clock.

        Args:
            config: Any number of triggers.
            order: Of the run's steps.
        """
        self.config = config
        self.order = order
        self.saved()

    def due(self, before: "Progress", now: "Progress") -> list[str]:
        """Why a step is saved; every process says the same.

        Args:
            before: Where the run was ahead of it.
            now: Behind it.
        """
        config = self.config
        steps = [n for n in (config.every, config.keep_every) if n]
        found = {
            "steps": any(now.step % n == 0 for n in steps),
            "tokens": config.tokens
            and now.tokens // config.tokens > before.tokens // config.tokens,
            "epochs": config.epochs and now.step % (config.epochs * self.order.steps_an_epoch) == 0,
        }
        return [name for name, is_due in found.items() if is_due]

    def overdue(self) -> bool:
        """Whether the last checkpoint is too many minutes ago, by the clock of this process."""
        minutes = self.config.minutes
        return minutes is not None and time.monotonic() - self._saved >= minutes * 60

    def saved(self) -> None:
        """Start the clock anew."""
        self._saved = time.monotonic()
