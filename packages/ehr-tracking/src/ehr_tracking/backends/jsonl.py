"""Two files in the run directory: what can be reproduced apart from what cannot."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ehr_tracking.runs import RunLog


class Jsonl:
    """`metrics.jsonl` and `timings.jsonl`, a line a step in each."""

    def __init__(self, run: Path) -> None:
        self.metrics = RunLog(run / "metrics.jsonl")
        self.timings = RunLog(run / "timings.jsonl")

    def step(self, metrics: Mapping[str, Any], timings: Mapping[str, Any]) -> None:
        """Append a line to each file; the metrics last, since they tell that a step is done."""
        self.timings.append(timings)
        self.metrics.append(metrics)

    def rewind(self, step: int) -> None:
        """Drop the lines after `step`, and a torn last one."""
        self.timings.rewind(step)
        self.metrics.rewind(step)
