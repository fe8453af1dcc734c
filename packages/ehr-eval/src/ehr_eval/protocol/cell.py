"""The unit of work: one head of one model on one draw of the shots of one task, fitted and judged.

n held-out rows, B bootstrap draws.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ehr_eval.features.mapped import MappedMatrix, map_matrix
from ehr_eval.heads import HEADS
from ehr_eval.heads.select import Fitted, fit_predict
from ehr_eval.judge.bootstrap import scores
from ehr_eval.judge.metrics.ranked import Floats
from ehr_eval.parts import read_part, write_part
from ehr_eval.predictions import Predicted
from ehr_eval.protocol.config import GIVEN, EhrshotConfig
from ehr_eval.protocol.shots import draws_of, shots_of
from ehr_eval.protocol.taskrows import Draw, Given, TaskRows, map_task
from ehr_tracking.config import to_dict
from ehr_tracking.contracts import HELD_OUT, TRAIN, TUNING


class Setting(NamedTuple):
    """What is averaged over replicates."""

    model: str
    head: str
    k: int


class Cell(NamedTuple):
    """What is fitted and judged at once."""

    task: str
    model: str
    head: str
    k: int
    replicate: int

    @property
    def setting(self) -> Setting:
        """All but task and replicate."""
        return Setting(self.model, self.head, self.k)

    def __str__(self) -> str:
        """For messages."""
        return ", ".join(f"{name} {value}" for name, value in self._asdict().items())


class Outcome(NamedTuple):
    """What came out of a cell."""

    point: dict[str, float]
    """Metric -> value on the held-out split."""
    draws: dict[str, Floats]
    """Metric -> [B]."""
    probability: Floats | None
    """[n] of all held-out rows; kept of the first cell that is fitted on all training rows."""
    decided: npt.NDArray[np.bool_] | None
    """[n] what they are called, with the probability and where a threshold was chosen."""
    selected: str | None
    """The grid's point that was kept, as JSON; None where nothing was fitted."""
    seconds: float
    """Wall time of fitting and predicting."""
    is_decided: bool = True
    """Whether a threshold was chosen."""
    unconverged: tuple[str, ...] = ()
    """Points of the grid, as JSON, whose fits were ended by a limit of steps."""
    tuning: Floats | None = None
    """[m] of all tuning rows, with the probability of what was fitted here."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a worker needs to know of a run; a few kilobytes."""

    directory: Path
    """Of tasks and outcomes."""
    features: Mapping[str, Path]
    """Model -> its `features.safetensors`."""
    config: EhrshotConfig
    alike: bool = True
    """Whether all draws of all rows have the same rows."""
    store: Path | None = None
    """Where outcomes outlive the run, for others that share them."""
    names: Mapping[str, str] = field(default_factory=dict)
    """`<task>/<model>` -> what outcomes depend on beside head, k and replicate; needed by a store."""

    def task(self, name: str) -> Path:
        """Where the rows of a task are."""
        return self.directory / "tasks" / f"{name}.safetensors"

    def fitted(self, cell: Cell) -> Cell:
        """The cell that is fitted for it: all rows in another order are the same rows to most heads."""
        head = self.config.heads.get(cell.head)
        same = self.alike and cell.k == -1 and head is not None and not HEADS[head.kind].draws
        return cell._replace(replicate=0) if same else cell

    def outcome(self, cell: Cell) -> Path:
        """Where the outcome of a cell is, once it is done."""
        cell = self.fitted(cell)
        if self.store is not None:
            return self.store / self._name(cell)
        name = f"k={cell.k},replicate={cell.replicate}.safetensors"
        return self.directory / "cells" / cell.task / cell.model / cell.head / name

    def _name(self, cell: Cell) -> str:
        """Of a file in the store: two levels, since there may be tens of thousands."""
        head = self.config.heads.get(cell.head)
        about = [self.names[f"{cell.task}/{cell.model}"], cell.k, cell.replicate]
        text = json.dumps([*about, None if head is None else to_dict(head)])
        digest = hashlib.sha256(text.encode()).hexdigest()
        return f"{digest[:2]}/{digest[2:]}.safetensors"


def cells_of(task: TaskRows, config: EhrshotConfig) -> list[Cell]:
    """The cells of a task, in the order of results; none where it cannot be evaluated."""
    if task.problem:
        return []
    fitted = [
        Cell(task.name, model, head, k, replicate)
        for model in task.models
        for head in config.heads
        for k, replicate in draws_of(task, config)
    ]
    return fitted + [Cell(task.name, g.model, GIVEN, g.k, g.replicate) for g in task.given]


def evaluate_cell(cell: Cell, plan: Plan) -> None:
    """Fit and judge one cell, and write its outcome.

    A pure function of the cell and of the plan's files, the outcome's `seconds` apart, where linear
    algebra has one thread: so neither the number of workers nor other cells move a bit.
    """
    task = _task(plan.task(cell.task))
    label = task.splits[HELD_OUT].label
    began = perf_counter()
    selected: str | None = None
    unconverged: tuple[str, ...] = ()
    tuning: Floats | None = None
    if cell.head == GIVEN:
        predicted = task.given[Given(cell.model, cell.k, cell.replicate)]
    else:
        fitted = _fit(cell, task, plan)
        predicted = Predicted(fitted.probability, fitted.probability >= fitted.threshold)
        selected, tuning = json.dumps(fitted.selected), fitted.tuning
        unconverged = tuple(json.dumps(point) for point in fitted.unconverged)
    seconds = perf_counter() - began
    judge = partial(
        scores,
        label,
        predicted.probability,
        decided=predicted.decided,
        specificity=plan.config.specificity,
    )
    kept = predicted if cell.k == -1 and cell.replicate == 0 else None
    outcome = Outcome(
        point={m: float(v[0]) for m, v in judge().items()},
        draws=judge(task.weight),
        probability=kept and kept.probability,
        decided=kept and kept.decided,
        selected=selected,
        seconds=seconds,
        is_decided=predicted.decided is not None,
        unconverged=unconverged,
        tuning=kept and tuning,  # with k = -1 every tuning row is a shot, in order
    )
    write_outcome(plan.outcome(cell), outcome)


def _fit(cell: Cell, task: TaskRows, plan: Plan) -> Fitted:
    train, tuning, held_out = (task.splits[s] for s in (TRAIN, TUNING, HELD_OUT))
    drawn = shots_of(task, Draw(cell.k, cell.replicate), plan.config)
    matrix, model = _matrix(plan.features[cell.model]), cell.model
    return fit_predict(
        plan.config.heads[cell.head],
        (matrix.take(train.row[model][drawn.train]), train.label[drawn.train]),
        (matrix.take(tuning.row[model][drawn.tuning]), tuning.label[drawn.tuning]),
        matrix.take(held_out.row[model]),
        original=None if plan.config.compat is None else cell.replicate,
    )


@lru_cache(maxsize=1)
def _task(path: Path) -> TaskRows:
    return map_task(path)


@lru_cache(maxsize=16)
def _matrix(path: Path) -> MappedMatrix:
    return map_matrix(path)


def write_outcome(path: Path, outcome: Outcome) -> None:
    """Write what `read_outcome` reads."""
    tensors: dict[str, npt.NDArray[Any]] = {
        f"draws/{metric}": draws for metric, draws in outcome.draws.items()
    }
    tensors["point"] = np.array(list(outcome.point.values()))
    if outcome.probability is not None:
        tensors["probability"] = np.asarray(outcome.probability, np.float64)
    if outcome.decided is not None:
        tensors["decided"] = outcome.decided
    if outcome.tuning is not None:
        tensors["tuning"] = np.asarray(outcome.tuning, np.float64)
    about = {
        "metrics": list(outcome.point),
        "selected": outcome.selected,
        "seconds": outcome.seconds,
        "is_decided": outcome.is_decided,
        "unconverged": outcome.unconverged,
    }
    write_part(path, tensors, about)


def read_outcome(path: Path) -> Outcome | None:
    """What `evaluate_cell` wrote; None where there is no whole file."""
    part = read_part(path)
    if part is None:
        return None
    tensors, about = part
    return Outcome(
        point=dict(zip(about["metrics"], tensors["point"].tolist(), strict=True)),
        draws={metric: tensors[f"draws/{metric}"] for metric in about["metrics"]},
        probability=tensors.get("probability"),
        decided=tensors.get("decided"),
        selected=about["selected"],
        seconds=about["seconds"],
        is_decided=about["is_decided"],
        unconverged=tuple(about["unconverged"]),
        tuning=tensors.get("tuning"),
    )
