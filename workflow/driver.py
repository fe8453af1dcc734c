"""From a comparison's file to its page: check all, show the plan, make what is not there, say what failed."""

from collections.abc import Sequence
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
from workflow.links import check_links, make_links
from workflow.loaded import Loaded
from workflow.nodes import Node
from workflow.planned import ask, keep, kept
from workflow.progress import Progress
from workflow.raw import fingerprint

_A_SUBJECT = 0.002
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
        check_links(self.graph, options.out)
        todo = plan.to_make(self.graph, self.store)
        unlabelled = {n.name for n in todo.values() if n.stage == "labels"}
        checks.check_tasks(loaded, unlabelled)
        disk = sum(disk_mb(n, self.megabytes, self._recipe(n)) for n in todo.values())
        checks.check_disk(options.out, disk)
        for name in sorted(unlabelled & {*given}):
            click.echo(f"$ ehr-tokenize check {given[name]}")
            click.echo("\n".join(checks.check_data(name, given[name])))

    def plan_runs(self) -> None:
        """Ask the trainer what each run will take that has its tokens, once for the seeds of a model.

        Raises:
            UserError: Where it would refuse one.
        """
        todo, told = plan.to_make(self.graph, self.store), dict[str, Estimate]()
        for node in todo.values():
            ready = node.stage == "runs" and todo.keys().isdisjoint(node.inputs)
            if ready and kept(node, self.store) is None:
                model = node.name.partition("@")[0]
                told[model] = told.get(model) or ask(node, self.store)
                keep(node, self.store, told[model])

    def estimates(self, nodes: Graph) -> dict[str, Estimate]:
        """Of each node, by what the store remembers."""
        costs = read_costs(self.store)
        return {
            one: kept(n, self.store) or estimate(n, costs, self.megabytes, self._recipe(n))
            for one, n in nodes.items()
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
                    "part": node.shown,
                    "key": node.key[:12],
                    "state": state,
                    "seconds": "" if e is None else f"{e.seconds:,.0f}",
                    "memory MB": "" if e is None else f"{e.memory_mb:,.0f}",
                    "from": "" if e is None else e.source,
                }
            )
        return text_table(rows)

    def make(self) -> bool:
        """Make what is not there; where models fail, go on with the others.

        Returns:
            Whether nothing failed.
        """
        graph, lost, failures = self.graph, set[str](), list[str]()
        while todo := plan.to_make(graph, self.store):
            progress = self._run(graph, todo)
            broken = plan.failed(todo, self.store)
            for one in broken:
                progress.failed(one)
            failures += progress.failures.values()
            fallen = {*plan.models_of(broken)} - lost
            if not fallen:
                break
            lost |= fallen
            graph = build(self.loaded, self.raw, without=lost)
        make_links(graph, self.options.out, self.store)
        if failures:
            click.echo("\n".join(["not all was made:", *failures]), err=True)
        return not failures

    def pages(self) -> list[Path]:
        """What there is to read."""
        names = {"comparison": "page.html", "scaling": "page.html", "results": "report.html"}
        found = [
            self.options.out / node.shown / names[node.stage]
            for node in self.graph.values()
            if node.stage in names
        ]
        return [path for path in found if path.is_file()]

    def _run(self, graph: Graph, todo: Graph) -> Progress:
        o, thought = self.options, self.estimates(todo)
        path = o.out / "plan.json"
        most = min(o.cores, _MOST) if o.slurm else o.cores
        config = self.loaded.config
        commands = engine.write_plan(path, self.store, graph, todo, config, thought, cores=most)
        line = engine.command(o.out, path, cores=o.cores, slurm=o.slurm, more=o.more)
        progress = Progress(graph, thought, commands, self.store, o.cores)
        engine.run(line, o.out / "engine.log", todo, self.store, progress)
        return progress

    def _recipe(self, node: Node) -> TrainConfig | None:
        return self.loaded.models[node.name.split("@")[0]] if node.stage == "runs" else None


def _size(meds: Path) -> float:
    return sum(path.stat().st_size for path in files_below(meds, quiet=True)) / 1e6
