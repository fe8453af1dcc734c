"""The labelled rows of one task, by split, with where each model's features of them are.

n rows of a split, B bootstrap draws. Written to a file once, and mapped by every worker.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from ehr_eval.features.mapped import map_tensors
from ehr_eval.predictions import Predicted
from ehr_tracking.contracts import HELD_OUT, SPLITS, TRAIN, TUNING

Ints = npt.NDArray[np.int64]


class Draw(NamedTuple):
    """One draw of the shots."""

    k: int
    replicate: int


class Shots(NamedTuple):
    """Rows to fit on and to choose hyperparameters on, as positions in their splits."""

    train: Ints
    tuning: Ints


class Given(NamedTuple):
    """Predictions that were made elsewhere."""

    model: str
    k: int
    replicate: int


@dataclass(frozen=True, slots=True, eq=False)
class SplitRows:
    """The rows in one split, in order of subject and time."""

    subject_id: Ints
    time: Ints
    """Prediction time in microseconds since 1970."""
    label: npt.NDArray[np.bool_]
    row: Mapping[str, Ints]
    """Model -> row of its features."""

    def __len__(self) -> int:
        """Rows."""
        return len(self.label)


@dataclass(frozen=True, slots=True, eq=False)
class TaskRows:
    """A task with the rows of every model."""

    name: str
    splits: Mapping[str, SplitRows]
    weight: npt.NDArray[np.uint16]
    """[n, B] how often each held-out row counts in each draw."""
    given: Mapping[Given, Predicted]
    """Of the held-out rows [n], in their order."""
    drawn: Mapping[Draw, Shots] = field(default_factory=dict)
    """Shots that a file names; where there are any, no others are drawn."""

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the features."""
        return tuple(self.splits[TRAIN].row)

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """Split -> rows, positives."""
        return {name: (len(rows), int(rows.label.sum())) for name, rows in self.splits.items()}

    @property
    def problem(self) -> str | None:
        """Why no head can be fitted, chosen or judged."""
        for split in (TRAIN, TUNING):
            rows, positives = self.sizes[split]
            for name, count in (("positive", positives), ("negative", rows - positives)):
                if not count:
                    return f"no {name} in {split}"
        return None if len(self.splits[HELD_OUT]) else "no row in held_out"


def write_task(path: Path, task: TaskRows) -> None:
    """Write what `map_task` opens."""
    tensors: dict[str, npt.NDArray[Any]] = {"weight": task.weight}
    for split, rows in task.splits.items():
        tensors[f"{split}/subject_id"] = rows.subject_id
        tensors[f"{split}/time"] = rows.time
        tensors[f"{split}/label"] = rows.label
        tensors |= {f"{split}/row/{model}": row for model, row in rows.row.items()}
    for given, predicted in task.given.items():
        name = f"given/{given.model}/{given.k}/{given.replicate}"
        tensors[f"{name}/probability"] = predicted.probability
        if predicted.decided is not None:
            tensors[f"{name}/decided"] = predicted.decided
    for draw, shots in task.drawn.items():
        for split, rows_of in shots._asdict().items():
            tensors[f"drawn/{draw.k}/{draw.replicate}/{split}"] = rows_of
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(x) for name, x in tensors.items()}, path)


def map_task(path: Path) -> TaskRows:
    """Open a task that `write_task` wrote; arrays are memory maps."""
    tensors = map_tensors(path)
    splits, given = {}, {}
    for split in SPLITS:
        prefix = f"{split}/row/"
        splits[split] = SplitRows(
            subject_id=tensors[f"{split}/subject_id"],
            time=tensors[f"{split}/time"],
            label=tensors[f"{split}/label"],
            row={n.removeprefix(prefix): x for n, x in tensors.items() if n.startswith(prefix)},
        )
    for name, tensor in tensors.items():
        if name.startswith("given/") and name.endswith("/probability"):
            _, model, k, replicate, _ = name.split("/")
            decided = tensors.get(name.removesuffix("probability") + "decided")
            given[Given(model, int(k), int(replicate))] = Predicted(tensor, decided)
    drawn = {}
    for name, tensor in tensors.items():
        if name.startswith("drawn/") and name.endswith("/train"):
            _, k, replicate, _ = name.split("/")
            tuning = tensors[name.removesuffix("train") + "tuning"]
            drawn[Draw(int(k), int(replicate))] = Shots(tensor, tuning)
    return TaskRows(path.stem, splits, tensors["weight"], given, drawn)
