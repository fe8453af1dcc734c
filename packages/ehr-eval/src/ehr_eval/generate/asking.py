"""Risks of some tasks at some prediction times: who looks on at which futures, and what they say.

P prompts, N futures of each.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from ehr_eval.frames import KEY
from ehr_eval.generate.estimators import ESTIMATORS, Estimator
from ehr_eval.generate.prompts import Part, Prompts, cut_rows
from ehr_eval.generate.run import Setting, open_setting
from ehr_eval.generate.zeroshot_config import ZeroshotConfig
from ehr_eval.tasks.files import TaskFile

SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "task": pl.String,
    "subject_id": pl.Int64,
    "prediction_time": pl.Datetime("us"),
    "risk": pl.Float64,
    "lower": pl.Float64,
    "upper": pl.Float64,
    "tokens": pl.Int64,
    "drawn": pl.Int64,
}
"""Columns of what `ask` gives: `tokens` are those that the task itself needed, `drawn` all that were drawn
of the futures, for every task that looked on, told with the first of these."""


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """Tasks that are asked of the same futures, from some prediction times on."""

    number: int
    tasks: tuple[TaskFile, ...]
    part: Part

    def __str__(self) -> str:
        """For messages."""
        return f"part {self.number}, {' and '.join(t.name for t in self.tasks)}"


def questions(
    asked: Mapping[str, pl.DataFrame],
    tasks: Mapping[str, TaskFile],
    splits: Sequence[str],
    config: ZeroshotConfig,
) -> list[Question]:
    """Cut the work: prediction times at which the same tasks are asked, some at a time.

    Args:
        asked: Task -> subject_id, prediction_time, split, subject_row, and more that does not matter.
        tasks: By the same names.
        splits: In the order in which they come.
        config: The estimator, which says whether tasks share futures; and the size of a part.
    """
    size = config.draw.part
    if not ESTIMATORS[config.estimator].shares:
        cuts = [((name,), rows) for name, rows in asked.items()]
    else:
        when = [
            *KEY,
            "split",
            "subject_row",
        ]  # whatever else is known, as the answer, parts no tasks
        every = pl.concat([rows.select(*when, task=pl.lit(name)) for name, rows in asked.items()])
        joint = every.group_by(when, maintain_order=True).agg(pl.col("task"))
        cuts = [
            (tuple(names), joint.filter(pl.col("task") == list(names)).drop("task"))
            for names in sorted(set(map(tuple, joint["task"].to_list())))
        ]
    parts = [(names, part) for names, rows in cuts for part in cut_rows(rows, splits, size)]
    return [
        Question(number, tuple(tasks[name] for name in names), part)
        for number, (names, part) in enumerate(parts)
    ]


def ask(
    question: Question,
    setting: Setting,
    config: ZeroshotConfig,
    tell: Callable[[int], object] = lambda _: None,
) -> pl.DataFrame:
    """The risks of a question, in the columns of `SCHEMA`: for each task its prediction times, in order.

    Args:
        question: Tasks and prediction times.
        setting: The model, and how futures are drawn; its horizon is that of the longest of all tasks.
        config: Estimator and confidence.
        tell: Called with the number of futures that have just ended.
    """
    opened = open_setting(setting)
    engine, prompts = opened.built.engine, opened.prompts(question.part)
    kind = ESTIMATORS[config.estimator]
    observers = [kind(task, engine.spelling, config.limit) for task in question.tasks]
    futures = engine.run(prompts, observers, whole=False, tell=tell)
    shape = (len(prompts), engine.drawing.samples)
    drawn = futures.tokens.reshape(shape).sum(1)
    none = np.zeros_like(drawn)
    found = [
        _told(observer, prompts, shape, none if n else drawn, config.confidence)
        for n, observer in enumerate(observers)
    ]
    return pl.concat(found)


def _told(
    observer: Estimator,
    prompts: Prompts,
    shape: tuple[int, int],
    drawn: np.typing.NDArray[np.int64],
    confidence: float,
) -> pl.DataFrame:
    value, weight, spent = (
        x.view(shape).cpu().numpy() for x in (observer.value, observer.weight, observer.spent)
    )
    found = observer.estimate(value, weight, confidence)
    return pl.DataFrame(
        {
            "task": [observer.task.name] * len(prompts),
            "subject_id": prompts.subject,
            "prediction_time": pl.Series(prompts.time).cast(pl.Datetime("us")),
            "risk": found.risk,
            "lower": found.lower,
            "upper": found.upper,
            "tokens": spent.sum(1),
            "drawn": drawn,
        },
        SCHEMA,
        nan_to_null=True,
    ).sort("task", *KEY)
