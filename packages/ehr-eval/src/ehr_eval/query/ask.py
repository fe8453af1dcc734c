"""What is asked: sets of codes and horizons, from files and options, as tokens of a vocabulary.

V tokens of the vocabulary, P pairs of a query and a horizon.
"""

from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.dataclasses import dataclass

from ehr_eval.generate.config import Span, microseconds
from ehr_eval.generate.rules import matches
from ehr_eval.generate.spelling import Spelling
from ehr_eval.tasks.files import Slug, read_task_files
from ehr_eval.tasks.patterns import EventPattern
from ehr_models.vocabulary import read_vocabulary
from ehr_tracking.config import STRICT, ConfigError, load_config, validate
from ehr_tracking.files import PathLike
from ehr_tracking.tree import note

DAY_US = 86_400_000_000


def _several(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _some(items: tuple[EventPattern, ...]) -> tuple[EventPattern, ...]:
    if not items:
        raise ValueError("name at least one code")
    return items


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Ask:
    """One query, with any number of horizons."""

    name: Slug
    """Where labels have a task of this name, the query predicts it."""
    doc: str = ""
    """In words."""
    outcome: Annotated[tuple[EventPattern, ...], AfterValidator(_some)]
    """What answers yes: any of these, strictly after the prediction time."""
    horizon: Annotated[tuple[Span, ...], BeforeValidator(_several)] = ()
    """Numbers with m, h, d, w or y; where none is given, those of the option `--horizon`."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AskFile:
    """The queries of a file."""

    queries: Annotated[tuple[Ask, ...], Field(min_length=1)]


@plain_dataclass(frozen=True, slots=True)
class Query:
    """One that is ready to be asked."""

    name: str
    outcome: tuple[EventPattern, ...]
    horizons: tuple[int, ...]
    """Microseconds, ascending."""
    absent: bool = False
    """Whether the answer is yes where none of it comes."""

    @property
    def days(self) -> tuple[float, ...]:
        """The horizons in days."""
        return tuple(h / DAY_US for h in self.horizons)


def from_options(
    name: str,
    codes: Sequence[str],
    horizons: Sequence[str],
    *,
    above: float | None = None,
    below: float | None = None,
) -> Ask:
    """A query given by options.

    Args:
        name: Its name.
        codes: Regular expressions: any code in which one is found.
        horizons: Of it.
        above: Only values strictly above it.
        below: Only values strictly below it.

    Raises:
        ConfigError: If one of these is wrong.
    """
    outcome = [{"code": code, "above": above, "below": below} for code in codes]
    tree = {"name": name, "outcome": outcome, "horizon": list(horizons)}
    return validate(Ask, tree, where="query")


def collect(
    asks: Sequence[Ask],
    files: Sequence[PathLike],
    tasks: Sequence[PathLike],
    horizons: Sequence[str] = (),
) -> list[Query]:
    """All that is asked.

    Args:
        asks: From options.
        files: Of `AskFile`.
        tasks: Of `TaskFile`.
        horizons: Of those that name none.

    Raises:
        ConfigError: If a file is wrong, nothing is asked, a query has no horizon or a name that another
            one has, or a task asks for more than whether something comes within a horizon.
    """
    if horizons:
        validate(Ask, {"name": "x", "outcome": [{"code": "x"}], "horizon": [*horizons]}, where="--horizon")  # fmt: skip
    given = [*asks, *(ask for path in files for ask in load_config(AskFile, path).queries)]
    found = [_ready(ask, horizons) for ask in given] + _of_tasks(tasks)
    names = [query.name for query in found]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two queries are called {name}; name them apart")
    if not found:
        raise ConfigError("nothing is asked: give --ask FILE, --task FILE or --code REGEX")
    return found


def _ready(ask: Ask, horizons: Sequence[str]) -> Query:
    spans = sorted({microseconds(span) for span in ask.horizon or horizons})
    if not spans:
        raise ConfigError(f"query {ask.name} has no horizon: give one, or --horizon 365d")
    return Query(ask.name, ask.outcome, tuple(spans))


def _of_tasks(paths: Sequence[PathLike]) -> list[Query]:
    found = []
    for name, task in read_task_files(paths).items():
        alone = task.for_labels_alone()
        more = {
            str(alone): alone is not None,
            "stop": bool(task.stop),
            "given": bool(task.given),
            "window: next": task.window == "next",
            "no horizon_days": task.horizon_days is None,
        }
        beyond = [what for what, there in more.items() if there]
        if beyond or task.horizon_days is None or task.outcome is None:
            raise ConfigError(
                f"task {name} has {', '.join(beyond)}, but a query is whether something comes within a "
                "horizon; ask ehr-eval zeroshot"
            )
        horizon = round(task.horizon_days * DAY_US)
        found.append(Query(name, task.outcome, (horizon,), task.absent))
    return found


def token_sets(queries: Sequence[Query], checkpoint: Path) -> list[list[int]]:
    """The tokens by which each query is told, in order of their ids; says which patterns find none.

    Args:
        queries: What is asked.
        checkpoint: With its vocabulary.

    Raises:
        ConfigError: If no token of the vocabulary tells one of them by itself.
        ContractError: If the vocabulary cannot be read.
    """
    spelling = Spelling(
        read_vocabulary(checkpoint), {}
    )  # events of one token: no bins behind codes
    told = [spelling.begins(token) for token in range(len(spelling.words))]
    found = []
    for query in queries:
        each = [matches([pattern], told) for pattern in query.outcome]
        none = " or ".join(
            p.said() for p, found_by in zip(query.outcome, each, strict=True) if not found_by.any()
        )
        what = (
            f"query {query.name}: no token of the vocabulary of {checkpoint} tells {none} by itself"
        )
        tokens = np.flatnonzero(np.any(each, axis=0)).tolist()
        if not tokens:
            raise ConfigError(what)
        if none:
            note(f"{what}; asked without it")
        found.append(tokens)
    return found
