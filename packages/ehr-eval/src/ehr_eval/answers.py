"""From the outputs of a head to a table of predictions, by what the outputs mean.

n rows, C outputs, K intervals of a survival head.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.special import expit, softmax

from ehr_eval.frames import KEY
from ehr_eval.judge.metrics.f1 import best_threshold
from ehr_eval.judge.metrics.ranked import Floats
from ehr_models.heads.config import Problem
from ehr_tracking.arrow import labels as label_reader
from ehr_tracking.contracts import (
    CLASSES,
    HELD_OUT,
    NUMBERS,
    PREDICTIONS,
    RISKS,
    TUNING,
    Contract,
    ContractError,
)


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """What a head gives for the rows of a task."""

    task: str
    labels: pa.Table
    """Of the task, as `labels.read_labels` has them."""
    rows: pl.DataFrame
    """[n] subject_id, prediction_time, split."""
    values: Floats
    """[n, C]"""
    config: Any
    """Of the model."""

    def of(self, split: str) -> npt.NDArray[np.bool_]:
        """[n] which rows are in a split."""
        return (self.rows["split"] == split).to_numpy()


class Answer(NamedTuple):
    """What is said of the held-out rows of a task."""

    table: pa.Table
    threshold: float | None = None
    """Of yes or no: what is called positive is at least as probable."""
    tuning: pa.Table | None = None
    """The same of the tuning rows, to recalibrate by; of yes or no."""


class Answers(NamedTuple):
    """How a problem is answered."""

    contract: Contract
    answer: Callable[[Outputs], Answer]


def write_parts(directory: Path, task: str, answer: Answer) -> dict[str, int]:
    """Write `{task}/held_out.parquet` and, where there are such rows, `tuning/{task}/tuning.parquet`.

    Returns:
        Path -> rows, for the manifest.
    """
    rows: dict[str, int] = {}
    for folder, split, table in (
        (directory, HELD_OUT, answer.table),
        (directory / TUNING, TUNING, answer.tuning),
    ):
        if table is not None and (split == HELD_OUT or len(table)):
            path = folder / task / f"{split}.parquet"
            path.parent.mkdir(parents=True)
            pq.write_table(table, path)
            rows[path.relative_to(directory).as_posix()] = len(table)
    return rows


def yes_or_no(outputs: Outputs) -> Answer:
    """Probabilities in the columns of meds-evaluation, called at the threshold of highest F1 in tuning."""
    told = pl.DataFrame(pl.from_arrow(label_reader.binary(outputs.labels, task=outputs.task)))
    rows = outputs.rows.join(told, on=KEY, how="left", maintain_order="left")
    probability = expit(outputs.values[:, 0])
    label = rows["boolean_value"].to_numpy().astype(bool)
    tuning, held_out = outputs.of(TUNING), outputs.of(HELD_OUT)
    threshold = None
    if label[tuning].any():
        threshold = best_threshold(label[tuning], probability[tuning])
    told = rows.select(
        *KEY,
        "boolean_value",
        pl.lit(
            None if threshold is None else pl.Series(probability >= threshold), pl.Boolean
        ).alias("predicted_boolean_value"),
        pl.Series("predicted_boolean_probability", probability.astype(np.float32)),
    )
    ours, beside = (told.filter(pl.Series(mask)).to_arrow() for mask in (held_out, tuning))
    return Answer(ours, threshold, beside)


def risks(outputs: Outputs) -> Answer:
    """The risk by the end of each interval."""
    label_reader.binary(outputs.labels, task=outputs.task)
    days = np.asarray(outputs.config.survival_edges[1:], np.float64)
    risk = risk_of_hazards(outputs.values[outputs.of(HELD_OUT)])
    return Answer(_long(outputs, "horizon_days", days, "predicted_risk", risk))


def class_probabilities(outputs: Outputs) -> Answer:
    """The probability of each class that the head was trained on.

    Raises:
        ContractError: If a label is of another class.
    """
    names = list(outputs.config.id2label.values())
    coded = label_reader.classes(outputs.labels, task=outputs.task)["categorical_value"]
    other = sorted(set(coded.combine_chunks().dictionary.to_pylist()) - set(names))
    if other:
        raise ContractError(
            f"task {outputs.task} has class {other[0]}, but the head tells apart {', '.join(names)}"
        )
    probability = softmax(outputs.values[outputs.of(HELD_OUT)], axis=1)
    return Answer(_long(outputs, "class", names, "predicted_probability", probability))


def numbers(outputs: Outputs) -> Answer:
    """Numbers in the unit of the labels: the head's times their deviation, and their mean."""
    label_reader.numbers(outputs.labels, task=outputs.task)
    mean, std = (getattr(outputs.config, f"regression_{name}", None) for name in ("mean", "std"))
    told = outputs.values[:, 0] * (1.0 if std is None else std) + (mean or 0.0)
    held_out = outputs.of(HELD_OUT)
    table = outputs.rows.filter(pl.Series(held_out)).select(KEY).to_arrow()
    return Answer(table.append_column("predicted_value", pa.array(told[held_out])))


ANSWERS: Mapping[Problem, Answers] = MappingProxyType(
    {
        "binary": Answers(PREDICTIONS, yes_or_no),
        "multilabel": Answers(PREDICTIONS, yes_or_no),
        "multiclass": Answers(CLASSES, class_probabilities),
        "regression": Answers(NUMBERS, numbers),
        "survival": Answers(RISKS, risks),
    }
)
"""Every problem of a pooled head; of `multilabel` each output is a task of its own."""


def _long(outputs: Outputs, name: str, of: Any, value: str, found: Floats) -> pa.Table:  # noqa: ANN401 -- any column
    """One row a held-out row and output."""
    at = outputs.rows.filter(pl.Series(outputs.of(HELD_OUT)))
    n, width = found.shape
    return pa.table(
        {
            "subject_id": np.repeat(at["subject_id"].to_numpy(), width),
            "prediction_time": pa.array(
                np.repeat(at["prediction_time"].dt.epoch("us").to_numpy(), width),
                pa.timestamp("us"),
            ),
            name: pa.array(list(of) * n),
            value: found.reshape(-1),
        }
    )


def risk_of_hazards(logits: Floats) -> Floats:
    """[n, K] 1 - S at the end of each interval, S the product of 1 - hazard over all until then.

    Over all intervals up to a day that is the same for everyone, never over those that a subject was
    followed for: sums over unequal lengths call those who live longest the most endangered.

    Args:
        logits: [n, K] of the hazards.

    Examples:
        >>> risk_of_hazards(np.array([[0.0, 0.0]])).tolist()
        [[0.5, 0.75]]
    """
    return np.asarray(-np.expm1(-np.cumsum(np.logaddexp(0, logits), axis=1)))
