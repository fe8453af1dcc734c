"""What there is to know of a kind of outcome: how it is read, predicted without a model, fitted and scored.

n rows, B draws, C classes (1 where the outcome is a number).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt
import polars as pl
import pyarrow as pa

from ehr_eval.features.mapped import Matrix
from ehr_eval.judge.metrics.ranked import Floats
from ehr_eval.outcomes.config import OutcomesConfig

Truth = npt.NDArray[Any]
"""[n] places of classes (int64), or numbers (float64)."""
Rows = tuple[Matrix, Truth]
"""Features and outcomes of the rows of a split."""


class Metric(NamedTuple):
    """One number that says how good predictions are."""

    title: str
    """What a person reads."""
    score: Callable[[Truth, Floats, Floats], Floats]
    """(truth [n], predictions [n, C], weight [n, B]) -> [B]; NaN where undefined."""
    needs: str
    """Why it is undefined where it is."""


class Fit(NamedTuple):
    """A model on features."""

    predicted: Floats
    """[n, C] of new rows."""
    selected: dict[str, object]
    """The point of the grid that was kept."""


@dataclass(frozen=True, slots=True)
class OutcomeProblem:
    """One kind of outcome."""

    name: str
    """As `objective.kind` of training has it."""
    truth: Callable[[pa.Table, str], tuple[Truth, tuple[str, ...]]]
    """(labels, task) -> outcomes and names of classes."""
    given: Callable[
        [Mapping[str, Path], str, pl.DataFrame, tuple[str, ...]],
        tuple[dict[str, Floats], tuple[str, ...]],
    ]
    """(model -> predictions, task, held-out keys, names of classes) -> model -> [n, C], and the names."""
    floor: Callable[[Truth, int, int], Floats]
    """(train outcomes, rows, C) -> [n, C] what is said of everybody."""
    floor_head: str
    """What that is called."""
    fit: Callable[[Rows, Rows, Matrix, int, OutcomesConfig], Fit]
    """(train, tuning, new features, C, config) -> an ordinary model."""
    head: str
    """What that is called."""
    metrics: Mapping[str, Metric]
    compared: str
    """Metric of the comparison with the baseline."""
