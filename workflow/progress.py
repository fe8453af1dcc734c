"""What is told of a graph while it is made: commands as they begin, what is made, what failed and why."""

import re
import time
from collections.abc import Mapping
from pathlib import Path

import click

from workflow.config import Stage
from workflow.estimate import Estimate
from workflow.graph import Graph


class Progress:
    """Of one run of the engine, over the whole graph."""

    def __init__(
        self,
        graph: Graph,
        thought: Mapping[str, Estimate],
        commands: Mapping[str, str],
        store: Path,
        cores: int,
    ) -> None:
        """Begin.

        Args:
            graph: All parts.
            thought: Estimates of those that are to be made.
            commands: Of each of these.
            store: Where they lie.
            cores: That work on them.
        """
        self.graph, self.commands, self.store, self.cores = graph, commands, store, cores
        self.left = dict(thought)
        self.start = time.monotonic()
        self.since: dict[str, float] = {}
        self.seen: dict[Stage, list[float]] = {}
        """Of a stage's parts that were made: seconds taken and thought, in sum."""
        self.failures: dict[str, str] = {}

    def begun(self, one: str) -> None:
        """Show the command of a part."""
        self.since[one] = time.monotonic()
        click.echo(f"$ {self.commands[one].replace(f'{Path.cwd()}/', '')}")

    def made(self, one: str) -> None:
        """Say that a part is there, and what is left."""
        now, thought = time.monotonic(), self.left.pop(one)
        if one in self.since:
            seen = self.seen.setdefault(self.graph[one].stage, [0.0, 0.0])
            seen[0] += now - self.since[one]
            seen[1] += thought.seconds
        click.echo(
            f"[{len(self.graph) - len(self.left)}/{len(self.graph)}] {self.graph[one].shown}  "
            f"({now - self.start:,.0f} s so far, about {self.seconds_left(now):,.0f} s left)"
        )

    def failed(self, one: str) -> None:
        """Say that a part failed, and why; once."""
        if one not in self.failures:
            log = self.graph[one].beside(self.store, "logs")
            said = why(log.read_text("utf-8", "replace")) if log.is_file() else "it was not started"
            self.failures[one] = f"{self.graph[one].shown} failed: {said} ({log})"
            click.echo(self.failures[one], err=True)

    def seconds_left(self, now: float) -> float:
        """Of what is neither made nor lost, roughly: work over cores, less what is done of it.

        What was thought of a stage is scaled by what its parts have taken so far.

        Args:
            now: Seconds of the clock that does not go back.
        """
        lost = set(self.failures)
        for one, node in self.graph.items():
            if not lost.isdisjoint(node.inputs):
                lost.add(one)
        left = [
            max(0.0, e.seconds * self._pace(one) - (now - self.since.get(one, now)))
            for one, e in self.left.items()
            if one not in lost
        ]
        return sum(left) / max(1, min(self.cores, len(left)))

    def _pace(self, one: str) -> float:
        taken, thought = self.seen.get(self.graph[one].stage, (1.0, 1.0))
        return taken / thought


def why(log: str) -> str:
    r"""What a command said last, without bars of progress.

    Examples:
        >>> why("10%|#  | 1/9\nError: tokens/x: no such directory\n")
        'tokens/x: no such directory'
    """
    lines = [line.strip() for line in re.split(r"[\r\n]+", log) if line.strip()]
    said = [line for line in lines if line.startswith("Error: ")] or lines
    return said[-1].removeprefix("Error: ") if said else "it said nothing"
