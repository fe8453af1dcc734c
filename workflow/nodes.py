"""One artifact of a comparison: what makes it, from what, and where it lies."""

import hashlib
import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from workflow.config import Stage

PACKAGE: Mapping[Stage, str] = {
    "meds": "ehr-tokenize",
    "tokens": "ehr-tokenize",
    "labels": "ehr-eval",
    "runs": "ehr-train",
    "features": "ehr-eval",
    "counts": "ehr-eval",
    "predictions": "ehr-eval",
    "results": "ehr-eval",
    "audit": "ehr-eval",
    "comparison": "ehr-eval",
    "scaling": "ehr-eval",
}
"""Stages, in their order, and who makes what they are."""
_PLACE = re.compile(r"\{([^{}]+)\}")
_DIGITS = 12
"""Of a key in the name of a folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One artifact."""

    stage: Stage
    name: str
    key: str
    """SHA-256 of all that it depends on."""
    words: tuple[str, ...] = ()
    """The command; `{out}` and `{config}` stand for its own paths, `{threads}` and `{device}` for what it may
    take, `{<id>}` for the path of another node."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Resolved, for the command's `-c`."""
    inputs: tuple[str, ...] = ()
    """Ids of the nodes that it is made from."""
    model: str = ""
    """Whose it is alone: what is left out where it fails."""
    processes: int = 1
    """Of its command, where it is told how many."""
    shown: str = ""
    """Its path below OUT, which leads into the store."""

    @property
    def id(self) -> str:
        """Its folder below the store."""
        return f"{self.stage}/{self.name}-{self.key[:_DIGITS]}"

    def path(self, store: Path) -> Path:
        """Where it lies."""
        return store / self.id

    def proof(self, store: Path) -> Path:
        """What is there once it is whole; commands move or seal it there last."""
        of_meds = ("metadata", "dataset.json")
        return self.path(store).joinpath(*(of_meds if self.stage == "meds" else ("manifest.json",)))

    def output(self, store: Path) -> Path:
        """What the engine waits for.

        Of a data set its folder, else the manifest alone: the engine deletes what a killed job left of its
        output, and our commands go on from that.
        """
        return self.path(store) if self.stage == "meds" else self.proof(store)

    def is_done(self, store: Path) -> bool:
        """Whether it is there, whatever the times of its files."""
        return self.proof(store).is_file()

    def beside(self, store: Path, kind: str) -> Path:
        """Its file of `configs`, `logs`, `costs` or `planned`."""
        ending = {"configs": "yaml", "logs": "log", "costs": "tsv", "planned": "json"}[kind]
        return store / kind / f"{self.id}.{ending}"

    def command(self, store: Path, *, threads: int = 1, gpus: int = 0) -> str:
        """The command as one would type it.

        Args:
            store: Where artifacts lie.
            threads: That it may take.
            gpus: Likewise.
        """
        places = {
            "out": str(self.path(store)),
            "config": str(self.beside(store, "configs")),
            "threads": str(threads),
            "device": "cuda" if gpus else "cpu",
        }
        return shlex.join(_filled(word, places, store) for word in self.words)

    def shell(self, store: Path, plan: Path, command: str) -> str:
        """A command as the engine runs it, its output kept in a log.

        Args:
            store: Where artifacts lie.
            plan: Names all parts, for the costs that the page shows.
            command: From `command`.
        """
        line = command
        if self.stage == "comparison":
            costs = str(self.path(store).with_name(f"{self.path(store).name}.costs.csv"))
            told = [sys.executable, "-m", "workflow.costs", str(plan), costs]
            line = f"{shlex.join(told)} && {line} --costs {shlex.quote(costs)}"
        line += f" > {shlex.quote(str(self.beside(store, 'logs')))} 2>&1"
        if (
            self.stage == "audit"
        ):  # what it finds is no failure: exit code 1 with the artifact there
            line += f" || test -f {shlex.quote(str(self.proof(store)))}"
        return line


def _filled(word: str, places: Mapping[str, str], store: Path) -> str:
    return _PLACE.sub(lambda found: places.get(found[1], str(store / found[1])), word)


def key_of(stage: Stage, config: Mapping[str, Any], parents: Sequence[str], *more: str) -> str:
    """What an artifact depends on, as one number.

    Args:
        stage: Says which package makes it, whose version counts.
        config: Resolved, plain JSON values.
        parents: Keys of what it is made from, in the order of their roles.
        more: Whatever else its command is told.

    Examples:
        >>> a = key_of("runs", {"seed": 0}, ["ab"])
        >>> a == key_of("runs", {"seed": 0}, ["ab"]), a == key_of("runs", {"seed": 1}, ["ab"])
        (True, False)
    """
    package = PACKAGE[stage]
    about = [stage, package, _version(package), config, list(parents), list(more)]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


@cache
def _version(package: str) -> str:
    return version(package)
