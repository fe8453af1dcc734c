"""From a comparison's file to its page: check all, show the plan, make what is not there, say what failed."""

import re
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from ehr_tracking.report import text_table
from ehr_tracking.tree import files_below
from ehr_train.config import TrainConfig
from workflow import checks, engine, plan
from workflow.costs import read_costs
from workflow.estimate import Estimate, disk_mb, estimate
from workflow.graph import Graph, build
from workflow.loaded import Loaded
from workflow.nodes import Node
from workflow.raw import fingerprint

_A_SUBJECT = 0.02
"""MB of MEDS data, roughly, of one that is drawn."""


_MOST = 8
"""Cores of one job on a cluster."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where and how."""

    out: Path
    cores: int
    slurm: bool = False
    more: Sequence[str] = ()
    """For Snakemake as they stand."""

    @property
    def store(self) -> Path:
        """Where artifacts lie."""
        return self.out / "store"


class Driver:
    """One comparison at one place."""

    def __init__(self, loaded: Loaded, options: Options) -> None:
        """Check all that can be told before anything runs.

        Raises:
            UserError: In one line.
        """
        self.loaded, self.options, self.store = loaded, options, options.store
        checks.check_models(loaded)
        checks.check_splits(loaded)
        given = {n: one.meds for n, one in loaded.config.data.items() if one.meds is not None}
        self.raw = {name: fingerprint(meds, self.store) for name, meds in given.items()}
        self.megabytes = sum(_size(meds) for meds in given.values())
        self.megabytes += sum(_A_SUBJECT * one.num_patients for one in loaded.synth.values())
        self.graph = build(loaded, self.raw)
        todo = plan.to_make(self.graph, self.store)
        checks.check_tasks(loaded, {n.name for n in todo.values() if n.stage == "labels"})
        disk = sum(disk_mb(n, self.megabytes, self._recipe(n)) for n in todo.values())
        checks.check_disk(options.out, disk)

    def estimates(self, nodes: Graph) -> dict[str, Estimate]:
        """Of each node, by what the store remembers."""
        costs = read_costs(self.store)
        return {
            one: estimate(n, costs, self.megabytes, self._recipe(n)) for one, n in nodes.items()
        }

    def table(self) -> str:
        """The plan: each part, whether it is there, and what it is thought to take."""
        todo = plan.to_make(self.graph, self.store)
        thought = self.estimates(todo)
        rows = []
        for one, node in self.graph.items():
            state = "done" if node.is_done(self.store) else "to do" if one in todo else "not needed"
            e = thought.get(one)
            rows.append(
                {
                    "part": f"{node.stage}/{node.name}",
                    "key": node.key[:12],
                    "state": state,
                    "seconds": "" if e is None else f"{e.seconds:,.0f}",
                    "memory MB": "" if e is None else f"{e.memory_mb:,.0f}",
                    "from": "" if e is None else "an earlier one" if e.measured else "a guess",
                }
            )
        return text_table(rows)

    def make(self) -> bool:
        """Make what is not there; where models fail, go on with the others.

        Returns:
            Whether nothing failed.
        """
        graph, lost, told = self.graph, set[str](), list[str]()
        while todo := plan.to_make(graph, self.store):
            self._run(graph, todo)
            broken = plan.failed(todo, self.store)
            told += [f"{n.stage}/{n.name} failed: {self._why(n)}" for n in broken.values()]
            fallen = {*plan.models_of(broken)} - lost
            if not fallen:
                break
            lost |= fallen
            graph = build(self.loaded, self.raw, without=lost)
        self._link(graph)
        for line in told:
            click.echo(line, err=True)
        return not told

    def _run(self, graph: Graph, todo: Graph) -> None:
        o, thought = self.options, self.estimates(todo)
        path = o.out / "plan.json"
        most = min(o.cores, _MOST) if o.slurm else o.cores
        config = self.loaded.config
        engine.write_plan(path, self.store, graph, todo, config, thought, cores=most)
        line = engine.command(o.out, path, cores=o.cores, slurm=o.slurm, more=o.more)
        engine.run(line, o.out / "engine.log", todo, self.store, _progress(graph, thought, o.cores))

    def _recipe(self, node: Node) -> TrainConfig | None:
        return self.loaded.models[node.name.split("@")[0]] if node.stage == "runs" else None

    def _why(self, node: Node) -> str:
        log = node.beside(self.store, "logs")
        if not log.is_file():
            return f"it was not started; see {self.options.out / 'engine.log'}"
        return f"{why(log.read_text('utf-8', 'replace'))} ({log})"

    def _link(self, graph: Graph) -> None:
        """Names without keys: OUT/<stage>/<name> leads into the store."""
        for node in graph.values():
            if not node.is_done(self.store):
                continue
            link = self.options.out / node.stage / node.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(Path("..") / "store" / node.id)


def why(log: str) -> str:
    r"""What a command said last, without bars of progress.

    Examples:
        >>> why("10%|#  | 1/9\nError: tokens/x: no such directory\n")
        'tokens/x: no such directory'
    """
    lines = [line.strip() for line in re.split(r"[\r\n]+", log) if line.strip()]
    said = [line for line in lines if line.startswith("Error: ")] or lines
    return said[-1].removeprefix("Error: ") if said else "it said nothing"


def _progress(
    graph: Graph, thought: dict[str, Estimate], cores: int
) -> Callable[[Collection[str]], None]:
    left, begun, total = dict(thought), time.monotonic(), len(graph)

    def tell(made: Collection[str]) -> None:
        for one in made:
            left.pop(one)
            seconds = sum(e.seconds for e in left.values()) / max(1, min(cores, len(left)))
            click.echo(
                f"[{total - len(left)}/{total}] {graph[one].stage}/{graph[one].name}  "
                f"({time.monotonic() - begun:,.0f} s so far, about {seconds:,.0f} s left)"
            )

    return tell


def _size(meds: Path) -> float:
    return sum(path.stat().st_size for path in files_below(meds, quiet=True)) / 1e6
