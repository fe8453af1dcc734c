"""What a user may set about risks from simulated futures."""

from dataclasses import replace
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from ehr_eval.generate.config import GenerateConfig, microseconds
from ehr_eval.generate.names import EstimatorName
from ehr_eval.tasks.files import TaskFile
from ehr_tracking.config import STRICT

_DAY = 86_400_000_000


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ZeroshotConfig:
    """How risks are estimated."""

    estimator: EstimatorName = "scope"
    """mc counts futures; scope sums, reach multiplies the chances of the next token; direct looks at the
    next token alone."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Of the interval of each risk."""
    tuning: bool = False
    """Ask for the tuning rows as well, by which `ehr-eval judge` recalibrates; a row costs what a held-out one does."""
    draw: GenerateConfig = Field(default_factory=lambda: GenerateConfig(horizon="730d"))
    """How futures are drawn; its horizon is that of tasks that have none."""

    @property
    def limit(self) -> int:
        """Microseconds until which tasks without a horizon wait."""
        return microseconds(self.draw.horizon)

    def drawing(self, tasks: list[TaskFile], *, samples: int | None = None) -> GenerateConfig:
        """How futures are drawn that are long enough for some tasks.

        Args:
            tasks: Who look on.
            samples: In place of those that are set.
        """
        own = [t.horizon_days for t in tasks]
        limit = self.limit / _DAY
        longest = max(limit if days is None else days for days in own)
        return replace(self.draw, horizon=f"{longest:.9f}d", samples=samples or self.draw.samples)
