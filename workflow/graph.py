"""From a comparison to the graph of its artifacts; reads no data."""

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from workflow.config import COUNTS, Stage
from workflow.given import Contents, as_given, word_of
from workflow.loaded import Loaded
from workflow.names import called, link
from workflow.nodes import Node, key_of

Graph = dict[str, Node]
"""Id -> node, each behind all that it is made from."""


def build(loaded: Loaded, raw: Mapping[str, str], *, without: Collection[str] = ()) -> Graph:
    """All artifacts of a comparison.

    Args:
        loaded: The comparison.
        raw: Fingerprint of each data set that is not drawn.
        without: Models (`name@seed`, zero-shot names, `counts`) to leave out, with all that is of them alone.
    """
    builder = _Builder(loaded, raw, {*without})
    for data in sorted(loaded.config.data, key=lambda name: loaded.config.data[name].test):
        builder.add_data(data)
    for name in loaded.config.models:
        for seed in loaded.config.models[name].seeds:
            builder.run(name, seed)
    results = {data: builder.add_results(data) for data in loaded.config.data}
    audits = {d: a for d, node in results.items() if node and (a := builder.add_audit(d, node))}
    if any(results.values()):
        judged = {d: r for d, r in results.items() if r}
        builder.add_page(judged, audits)
        builder.add_scaling(judged)
    return builder.graph


class _Builder:
    """Adds nodes to a graph; each method returns the one that it adds, or finds there."""

    def __init__(self, loaded: Loaded, raw: Mapping[str, str], without: set[str]) -> None:
        self.all, self.config = loaded, loaded.config
        self.raw, self.without = raw, without
        self.contents = Contents()
        self.graph: Graph = {}
        self.labels: dict[str, Node] = {}

    def add(
        self,
        stage: Stage,
        name: str,
        config: Any,  # noqa: ANN401 -- the config of any command
        words: str,
        roles: Mapping[str, Node | str],
        *,
        shown: str,
        model: str = "",
        processes: int = 1,
    ) -> Node:
        """Add a node.

        Args:
            stage: What it is.
            name: Of its folder.
            config: Of its command.
            words: The command's first words.
            roles: Option, or `--features NAME=`, -> the node that it names, or the word itself.
            shown: Its path below OUT.
            model: Whose it is alone.
            processes: That its command is told to make.
        """
        nodes = [one for one in roles.values() if isinstance(one, Node)]
        keys = [
            one.key if isinstance(one, Node) else self.contents.word(one) for one in roles.values()
        ]
        given = [word for role, one in roles.items() for word in _option(role, one)]
        own = () if config is None else ("-c", "{config}")
        node = Node(
            stage=stage,
            name=name,
            key=key_of(
                stage,
                {} if config is None else self.contents.config(config),
                keys,
                words,
                *roles,
            ),
            words=(*words.split(), *given, *own, "--out", "{out}"),
            config={} if config is None else as_given(config),
            inputs=tuple(dict.fromkeys(one.id for one in nodes if one.words)),
            model=model,
            processes=processes,
            shown=shown,
        )
        return self.graph.setdefault(node.id, node)

    def add_data(self, data: str) -> None:
        """A data set and its labels."""
        spec = self.config.labels
        roles: dict[str, Node | str] = {"--meds": self.meds(data)}
        roles |= {f"--task-file {i}": file for i, file in enumerate(spec.task_files)}
        self.labels[data] = self.add(
            "labels",
            data,
            self.all.labels,
            "ehr-eval labels",
            roles,
            shown=self.link("labels", data),
        )

    def meds(self, data: str) -> Node:
        """Where a data set lies; one that is given is no node of the graph."""
        spec = self.config.data[data]
        if spec.synth is None:
            assert spec.meds is not None
            return Node(stage="meds", name=str(spec.meds.absolute()), key=self.raw[data])
        words = f"ehr-tokenize synth --workers {{threads}} --world {spec.synth.world}"
        words += " --risks" * spec.synth.risks
        return self.add(
            "meds", data, self.all.synth[data], words, {}, shown=self.link("meds", data)
        )

    def tokens(self, data: str, scheme: str) -> Node:
        """Tokens; of a data set to test on, by the tokenizer of the one trained on."""
        roles = {"--meds": self.meds(data)}
        if self.config.data[data].test:
            roles["--tokenizer"] = self.tokens(self.config.trained_on, scheme)
        return self.add(
            "tokens",
            f"{data}.{scheme}",
            self.all.schemes[scheme],
            "ehr-tokenize --workers {threads}",
            roles,
            shown=self.link("tokens", data, (scheme, self.config.schemes)),
        )

    def run(self, name: str, seed: int) -> Node | None:
        """A trained model; None where it is left out, or what it starts from is."""
        spec = self.config.models[name]
        tag = f"{name}@{seed}"
        if tag in self.without:
            return None
        roles = {"--tokens": self.tokens(self.config.trained_on, spec.scheme)}
        if spec.init is not None:
            seeds = self.config.models[spec.init].seeds
            start = self.run(spec.init, seed if seed in seeds else seeds[0])
            if start is None:
                return None
            roles["--init"] = start
        words = f"ehr-train --resume --nproc {spec.nproc}"
        config = replace(self.all.models[name], seed=seed)
        return self.add(
            "runs",
            tag,
            config,
            words,
            roles,
            shown=f"runs/{called(name, seed, spec.seeds)}",
            model=tag,
            processes=spec.nproc,
        )

    def runs(self) -> dict[str, tuple[str, Node]]:
        """What a model is called -> its scheme and its run, of all that are not left out."""
        found = {}
        for name, spec in self.config.models.items():
            for seed in spec.seeds:
                if (node := self.run(name, seed)) is not None:
                    found[called(name, seed, spec.seeds)] = (spec.scheme, node)
        return found

    def features(self, data: str) -> dict[str, Node]:
        """What a model is called -> its features on a data set, the baseline's last."""
        found = {}
        for name, (scheme, run) in self.runs().items():
            roles = {
                "--checkpoint": run,
                "--tokens": self.tokens(data, scheme),
                "--labels": self.labels[data],
            }
            found[name] = self.add(
                "features",
                f"{data}.{run.name}",
                self.all.features,
                "ehr-eval features --device {device}",
                roles,
                shown=self.link("features", data, (name, ())),
                model=run.model,
            )
        if self.all.counts is not None and COUNTS not in self.without:
            roles = {"--meds": self.meds(data), "--labels": self.labels[data]}
            found[COUNTS] = self.add(
                "counts",
                data,
                self.all.counts,
                "ehr-eval counts",
                roles,
                shown=self.link("features", data, (COUNTS, ())),
                model=COUNTS,
            )
        return found

    def predictions(self, data: str) -> dict[str, Node]:
        """Name -> risks without labels on a data set."""
        found = {}
        for name, spec in self.config.zeroshot.items():
            seed = self.config.models[spec.model].seeds[0]
            run = None if name in self.without else self.run(spec.model, seed)
            if run is None:
                continue
            tokens = self.tokens(data, self.config.models[spec.model].scheme)
            roles: dict[str, Node | str] = {
                "--checkpoint": run,
                "--tokens": tokens,
                "--labels": self.labels[data],
            }
            roles |= {f"--task {i}": task for i, task in enumerate(spec.tasks)}
            found[name] = self.add(
                "predictions",
                f"{data}.{name}",
                self.all.zeroshot[name],
                "ehr-eval zeroshot --workers {threads} --device {device}",
                roles,
                shown=self.link("predictions", data, (name, ())),
                model=name,
            )
        return found

    def add_results(self, data: str) -> Node | None:
        """Every model of a data set judged; None where none is left."""
        features = self.features(data)
        if not features:
            return None
        predictions = self.predictions(data)
        roles: dict[str, Node | str] = {"--labels": self.labels[data]}
        roles |= _named("--features", features) | _named("--predictions", predictions)
        spec = self.config.data[data]
        if spec.synth is not None and spec.synth.risks:
            roles["--risks /risks"] = self.meds(data)
        there = [*features, *predictions]
        for a, b in self.pairs(there):
            roles[f"--compare {json.dumps([a, b])}"] = f"{a} {b}"
        words = "ehr-eval ehrshot --workers {threads} --store {cells}"
        return self.add(
            "results", data, self.all.evaluate, words, roles, shown=self.link("results", data)
        )

    def pairs(self, there: Collection[str]) -> list[tuple[str, str]]:
        """What is compared besides: seed by seed, one that has no seeds with each of the other."""
        parts = [(name, *name.partition("@")[::2]) for name in there]
        return [
            (one, other)
            for a, b in self.config.compare
            for one, of_one, seed in parts
            for other, of_other, another in parts
            if (of_one, of_other) == (a, b) and (seed == another or "" in (seed, another))
        ]

    def add_audit(self, data: str, results: Node) -> Node | None:
        """What makes results of a data set look better than they are."""
        if self.all.audit is None:
            return None
        roles = {"--meds": self.meds(data), "--labels": self.labels[data], "--results": results}
        roles |= _named("--features", self.features(data))
        roles |= _named("--predictions", self.predictions(data))
        return self.add(
            "audit", data, self.all.audit, "ehr-eval audit", roles, shown=self.link("audit", data)
        )

    def add_page(self, results: Mapping[str, Node], audits: Mapping[str, Node]) -> Node:
        """The page and the tables."""
        roles = _named("--results", results) | self.runs_of_models()
        trained_on = self.config.trained_on
        of_models = {n: node for n, node in self.features(trained_on).items() if n != COUNTS}
        roles |= _named("--features", of_models)
        roles |= _named("--predictions", self.predictions(trained_on))
        schemes = sorted({scheme for scheme, _ in self.runs().values()})
        roles |= _named("--tokens", {s: self.tokens(trained_on, s) for s in schemes})
        roles |= {f"--labels ={data}": self.labels[data] for data in results}
        roles |= {f"--audit ={data}": audit for data, audit in audits.items()}
        return self.add(
            "comparison", "comparison", None, "ehr-eval compare", roles, shown="comparison"
        )

    def add_scaling(self, results: Mapping[str, Node]) -> None:
        """The study of scaling, where it is asked for and a model is left."""
        runs = self.runs_of_models()
        if self.all.scaling is not None and runs:
            roles = _named("--results", results) | runs
            words = "ehr-eval scaling"
            self.add("scaling", "scaling", self.all.scaling, words, roles, shown="scaling")

    def runs_of_models(self) -> dict[str, Node]:
        """Every run, as an option."""
        return _named("--run", {name: run for name, (_, run) in self.runs().items()})

    def link(self, folder: str, data: str, *parts: tuple[str, Collection[str]]) -> str:
        """Where an artifact of a data set is found below OUT."""
        return link(folder, (data, self.config.data), *parts)


def _named(option: str, nodes: Mapping[str, Node]) -> dict[str, Node]:
    """The roles of inputs that a command is given as NAME=PATH."""
    return {f"{option} {name}=": node for name, node in nodes.items()}


def _option(role: str, one: Node | str) -> list[str]:
    """The words that name an input.

    Examples:
        >>> run = Node(stage="runs", name="a@0", key="0" * 64, words=("x",))
        >>> _option("--features a=", run)
        ['--features', 'a={runs/a@0-000000000000}']
        >>> _option("--task icu", "icu"), _option('--compare ["a", "b"]', "a b")
        (['--task', 'icu'], ['--compare', 'a', 'b'])
    """
    flag, _, about = role.partition(" ")
    if isinstance(one, str):
        return [flag, *(one.split() if flag == "--compare" else [word_of(one)])]
    path = f"{{{one.id}}}" if one.words else one.name
    before = about if about.endswith("=") else ""
    return [flag, before + path + (about if about.startswith("/") else "")]
