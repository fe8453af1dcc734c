"""What was judged as rows of `judgement/1`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ehr_eval.judge.bootstrap import interval
from ehr_eval.judge.compare import GroupMean, Score, group_mean
from ehr_eval.judge.metrics import ALL_METRICS
from ehr_eval.judge.multiple import holm
from ehr_eval.judge.recalibrate import NONE
from ehr_eval.judgement.config import JudgeConfig
from ehr_eval.judgement.judge import Compared, Judged, Scored, TaskJudged, differences
from ehr_eval.protocol.tables import write_rows
from ehr_tracking.contracts import JUDGEMENT

Row = dict[str, Any]
_NOBODY = {"n": None, "patients": None, "positives": None}


def write_tables(
    directory: Path, tasks: Sequence[TaskJudged], config: JudgeConfig, moved: Sequence[Row]
) -> dict[str, int]:
    """Write every table of the contract as Parquet and as CSV.

    Args:
        directory: Of the artifact.
        tasks: What came out of each.
        config: As it was run.
        moved: From `difference_rows`.

    Returns:
        Path of a Parquet file -> its rows, for the manifest.
    """
    rows: dict[str, Iterable[Row]] = {
        "results.parquet": results(tasks, config),
        "means.parquet": mean_rows(tasks),
        "differences.parquet": moved,
        "curves.parquet": _curves(tasks),
        "conformal.parquet": _conformal(tasks),
    }
    columns = {"results.parquet": JUDGEMENT.columns, **JUDGEMENT.beside}
    written = {}
    for name, found in rows.items():
        written[name] = write_rows(directory / name, list(found), columns[name])
        table = pl.read_parquet(directory / name)
        table.write_csv(directory / f"{name.removesuffix('.parquet')}.csv")
    return written


def results(tasks: Sequence[TaskJudged], config: JudgeConfig) -> Iterator[Row]:
    """Every metric of all rows, recalibrated and not, and of each group."""
    small = f"fewer than {config.groups.least} patients, or they could be told from the others"
    for task in tasks:
        for model, problem in task.problems.items():
            at = {"task": task.name, "model": model, "recalibration": NONE}
            for metric in ALL_METRICS:
                yield at | _result(metric, None, problem) | _NOBODY
        for model, judged in task.models.items():
            at = {"task": task.name, "model": model}
            for way, scored in judged.ways.items():
                yield from (at | {"recalibration": way} | row for row in _of(scored))
            for group in judged.groups:
                here = at | {"recalibration": NONE}
                named = {"group": group.group, "level": group.level}
                yield from (here | row | named for row in _of(group.scored, small))


def _of(scored: Scored | None, small: str = "") -> Iterator[Row]:
    """A row a metric; of a group that is too small, why it has no value."""
    if scored is None:
        yield from (_result(metric, None, small) | _NOBODY for metric in ALL_METRICS)
        return
    sizes = {"n": scored.n, "patients": scored.patients, "positives": scored.positives}
    for metric in ALL_METRICS:
        yield _result(metric, scored.scores.get(metric), scored.reasons.get(metric)) | sizes


def _result(metric: str, score: Score | None, reason: str | None) -> Row:
    return {"group": None, "level": None, "metric": metric} | _bounded(score) | {"reason": reason}


def _bounded(score: Score | None) -> Row:
    if score is None:
        return {"value": None, "lower": None, "upper": None}
    return {"value": score.value, **interval(score.draws)._asdict()}


def means(tasks: Sequence[TaskJudged]) -> dict[tuple[str, str], dict[str, tuple[GroupMean, int]]]:
    """(model, recalibration) -> metric -> its unweighted mean over tasks that have it, and how many do."""
    scores: dict[tuple[str, str], dict[str, list[Score]]] = {}
    for task in tasks:
        for model, judged in task.models.items():
            for way, scored in judged.ways.items():
                of_metric = scores.setdefault((model, way), {})
                for metric, value in scored.scores.items():
                    of_metric.setdefault(metric, []).append(value)
    return {
        key: {
            metric: (mean, len(found))
            for metric, found in of_metric.items()
            if (mean := group_mean(found)) is not None
        }
        for key, of_metric in scores.items()
    }


def mean_rows(tasks: Sequence[TaskJudged]) -> Iterator[Row]:
    """`means` as rows, those of no task with 0."""
    for (model, way), of_metric in means(tasks).items():
        for metric in ALL_METRICS:
            mean, count = of_metric.get(metric, (None, 0))
            half = mean.half if mean else None
            yield {
                "model": model,
                "recalibration": way,
                "metric": metric,
                "tasks": count,
                "value": mean.value if mean else None,
                "lower": mean.value - half if mean and half is not None else None,
                "upper": mean.value + half if mean and half is not None else None,
            }


def baseline_of(tasks: Sequence[TaskJudged], config: JudgeConfig) -> str | None:
    """The model that others are compared with: as the config says, else the first."""
    names = (model for task in tasks for model in task.models)
    return config.baseline or next(names, None)


def compared(
    tasks: Sequence[TaskJudged], config: JudgeConfig
) -> Iterator[tuple[TaskJudged, str, str, Mapping[str, Compared]]]:
    """Task, model, baseline and metric -> difference; of every model beside the baseline."""
    baseline = baseline_of(tasks, config)
    for task in tasks:
        theirs = task.models.get(baseline or "")
        for model, judged in task.models.items():
            if theirs is not None and baseline is not None and model != baseline:
                found = differences(judged.ways[NONE], theirs.ways[NONE])
                yield task, model, baseline, found


def difference_rows(tasks: Sequence[TaskJudged], config: JudgeConfig) -> list[Row]:
    """To another model, to the probabilities as they were, to all other rows.

    `p_holm` is corrected for all differences of one kind and metric, over tasks, models and groups.
    """
    rows = list(_all_differences(tasks, config))
    families: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["p"] is not None:
            families.setdefault((row["kind"], row["metric"]), []).append(row)
    for family in families.values():
        for row, corrected in zip(family, holm([row["p"] for row in family]), strict=True):
            row["p_holm"] = corrected
    return rows


def _all_differences(tasks: Sequence[TaskJudged], config: JudgeConfig) -> Iterator[Row]:
    everyone = {"group": None, "level": None}
    for task, model, baseline, found in compared(tasks, config):
        at = {"task": task.name, "kind": "model", "model": model, "recalibration": NONE}
        yield from _differences(at | everyone | {"baseline": baseline}, found)
    for task in tasks:
        for model, judged in task.models.items():
            at = {"task": task.name, "model": model}
            yield from _moved(at | everyone, judged)
            for group in judged.groups:
                if group.scored is not None:
                    here = at | {"kind": "group", "recalibration": NONE, "baseline": "rest"}
                    named = {"group": group.group, "level": group.level}
                    yield from _differences(here | named, group.against)


def _moved(at: Row, judged: Judged) -> Iterator[Row]:
    for way in judged.ways:
        if way != NONE:
            here = at | {"kind": "recalibration", "recalibration": way, "baseline": NONE}
            yield from _differences(here, judged.against(way))


def _differences(at: Row, found: Mapping[str, Compared]) -> Iterator[Row]:
    for metric in ALL_METRICS:
        known = found.get(metric)
        yield {
            **at,
            "metric": metric,
            **(known._asdict() if known else dict.fromkeys(Compared._fields)),
            "p_holm": None,
            "reason": None if known else "undefined on one of the two sides",
        }


def _curves(tasks: Sequence[TaskJudged]) -> Iterator[Row]:
    for task in tasks:
        for model, judged in task.models.items():
            for way, of_way in judged.curves.items():
                for name, curve in of_way.items():
                    at = {"task": task.name, "model": model, "recalibration": way, "curve": name}
                    for point in zip(*(part.tolist() for part in curve), strict=True):
                        values = (None if np.isnan(v) else v for v in point)
                        yield at | dict(zip(curve._fields, values, strict=True))


def _conformal(tasks: Sequence[TaskJudged]) -> Iterator[Row]:
    for task in tasks:
        for model, judged in task.models.items():
            for (method, miss), of_measure in judged.sets.items():
                for measure, score in of_measure.items():
                    known = None if np.isnan(score.value) else score
                    yield {
                        "task": task.name,
                        "model": model,
                        "method": method,
                        "miss": miss,
                        "measure": measure,
                        **_bounded(known),
                        "reason": None if known else "no such row or set in held_out",
                    }
