"""What the outcome of a cell depends on, as a name: runs that share models, tasks and heads share outcomes."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ehr_eval.frames import PRODUCER
from ehr_eval.protocol.config import EhrshotConfig
from ehr_eval.protocol.taskrows import TaskRows
from ehr_tracking.config import to_dict
from ehr_tracking.manifest import Source

_OF_A_CELL = ("max_k", "specificity", "compat")
"""Settings of a run that each of its outcomes depends on, beside its head; draws lie with the task."""


def names_of(
    tasks: Sequence[TaskRows], sources: Mapping[str, Source], config: EhrshotConfig
) -> dict[str, str]:
    """What a model's outcomes on a task depend on, as SHA-256: its rows, draws and values, and the protocol.

    Args:
        tasks: Of a run.
        sources: Inputs of the run: `features.<model>` each, where the model has features.
        config: Of the run.

    Returns:
        `<task>/<model>` -> digest. Other models and other tasks of the run are no part of it.
    """
    settings = {name: to_dict(config)[name] for name in _OF_A_CELL}
    found = {}
    for task in tasks:
        given = {each.model for each in task.given}
        common = _digest(task, None)
        for model in (*task.models, *sorted(given)):
            values = sources.get(f"features.{model}")
            about = {
                "producer": PRODUCER,
                "settings": settings,
                "task": common,
                "rows": _digest(task, model),
                "features": None if values is None else values.fingerprint,
            }
            found[f"{task.name}/{model}"] = hashlib.sha256(json.dumps(about).encode()).hexdigest()
    return found


def _digest(task: TaskRows, model: str | None) -> str:
    """Of what all models share, or of what is one's own."""
    whole = hashlib.sha256()
    for name, array in _own(task, model) if model else _shared(task):
        whole.update(f"{name} {array.dtype.str} {array.shape};".encode())
        whole.update(np.ascontiguousarray(array).data)
    return whole.hexdigest()


def _shared(task: TaskRows) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    yield "weight", task.weight
    for split, rows in sorted(task.splits.items()):
        yield f"{split}/subject_id", rows.subject_id
        yield f"{split}/time", rows.time
        yield f"{split}/label", rows.label
    for draw, shots in sorted(task.drawn.items()):
        for split, drawn in shots._asdict().items():
            yield f"{draw}/{split}", drawn


def _own(task: TaskRows, model: str) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    for split, rows in sorted(task.splits.items()):
        if model in rows.row:
            yield f"row/{split}", rows.row[model]
    for given, predicted in sorted(task.given.items(), key=lambda each: each[0]):
        if given.model == model:
            yield f"{given[1:]}/probability", predicted.probability
            if predicted.decided is not None:
                yield f"{given[1:]}/decided", predicted.decided
