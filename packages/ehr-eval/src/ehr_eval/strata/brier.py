"""Brier scores of quartiles, of each task and their mean, with bootstraps over patients.

n rows of a task, B draws.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from ehr_eval.judge.bootstrap import patient_draws
from ehr_eval.judge.compare import Score
from ehr_eval.judge.metrics.ranked import Floats
from ehr_eval.strata.inputs import Told, measures_of
from ehr_eval.strata.measures import quartiles

QUARTILES = (1, 2, 3, 4)
_ROWS = 4096
"""Of weights that are handled at once."""


class Stratum(NamedTuple):
    """A quartile of a task's rows as a model predicts them; task None is the mean over tasks."""

    measure: str
    task: str | None
    model: str
    quartile: int
    score: Score
    rows: int
    low: float | None
    """Lowest value of the measure, over the task's rows of the quartile."""
    high: float | None


def strata(tasks: Mapping[str, Told], bootstraps: int) -> list[Stratum]:
    """Every measure's quartiles, for each task and model, then their unweighted means over tasks.

    A draw resamples the patients of all tasks at once, so that one who is in several is in a draw of all
    or of none.

    Args:
        tasks: Their rows and predictions.
        bootstraps: B.
    """
    patients = np.unique(np.concatenate([t.rows["subject_id"].to_numpy() for t in tasks.values()]))
    drawn = patient_draws(patients, bootstraps)
    found: list[Stratum] = []
    for task, told in tasks.items():
        place = np.searchsorted(patients, told.rows["subject_id"].to_numpy())
        for measure in measures_of(told):
            found += _of_task(task, told, measure, drawn, place)
    return found + _means(found)


def _of_task(
    task: str,
    told: Told,
    measure: str,
    drawn: npt.NDArray[np.uint16],
    place: npt.NDArray[np.int64],
) -> list[Stratum]:
    value = told.rows[measure].to_numpy()
    known = np.flatnonzero(~np.isnan(value))
    if len(known) < len(QUARTILES):
        return []
    of = quartiles(value[known])
    label = told.rows["boolean_value"].to_numpy().astype(np.float64)
    found = []
    for quartile in QUARTILES:
        rows = known[of == quartile]
        errors = {m: np.square(p[rows] - label[rows]) for m, p in told.probability.items()}
        draws = _weighted(np.stack(list(errors.values())), drawn, place[rows])
        for (model, error), of_model in zip(errors.items(), draws, strict=True):
            score = Score(float(error.mean()), of_model)
            low, high = float(value[rows].min()), float(value[rows].max())
            found.append(Stratum(measure, task, model, quartile, score, len(rows), low, high))
    return found


def _weighted(
    errors: Floats, drawn: npt.NDArray[np.uint16], place: npt.NDArray[np.int64]
) -> Floats:
    """[M, B] the mean of [M, n] errors in each draw; NaN in one without any of the rows."""
    total = np.zeros((len(errors), drawn.shape[1]))
    weight = np.zeros(drawn.shape[1])
    for start in range(0, len(place), _ROWS):
        part = slice(start, start + _ROWS)
        w = drawn[place[part]].astype(np.float64)
        total += errors[:, part] @ w
        weight += w.sum(0)
    with np.errstate(invalid="ignore"):
        return np.asarray(total / weight)


def _means(found: list[Stratum]) -> list[Stratum]:
    """Over the tasks of each measure, model and quartile."""
    groups: dict[tuple[str, str, int], list[Stratum]] = {}
    for stratum in found:
        key = (stratum.measure, stratum.model, stratum.quartile)
        groups.setdefault(key, []).append(stratum)
    return [
        Stratum(
            measure,
            None,
            model,
            quartile,
            Score(
                float(np.mean([s.score.value for s in mine])),
                np.mean([s.score.draws for s in mine], axis=0),
            ),
            sum(s.rows for s in mine),
            None,
            None,
        )
        for (measure, model, quartile), mine in groups.items()
    ]


def measured_rows(tasks: Mapping[str, Told]) -> pl.DataFrame:
    """subject_id, prediction_time, measure, value: each row once, whatever tasks it is of."""
    names = ["subject_id", "prediction_time"]
    tables = [
        told.rows.select(*names, *measures_of(told)).unpivot(index=names, variable_name="measure")
        for told in tasks.values()
    ]
    rows = pl.concat(tables).unique().sort("measure", *names)
    return rows.with_columns(pl.col("value").fill_nan(None))
