"""Plots of a comparison: scores against shots, with what needs no label, and the best possible, as level lines."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ehr_eval.compare.opened import Artifact, evaluated
from ehr_eval.compare.seeds import GROUP, TASK, model_of
from ehr_eval.compare.shares import SHARE, best
from ehr_eval.compare.shown import SHARE_HEADING
from ehr_eval.compare.tables import Tables, rows
from ehr_eval.compare.zeroshot import pairs
from ehr_eval.protocol.config import GIVEN
from ehr_eval.protocol.evaluation import AUROC
from ehr_eval.protocol.groups import ALL
from ehr_eval.protocol.shown import BEST
from ehr_tracking.report import figure, line_plot

_X = "shots of each class (the last point, at twice the most: all rows)"
_LINES = ("-", "--", ":", "-.")
"""A head each; the colour tells the model."""
_LEVEL, _IDEAL = "-.", ":"
_SHADES = "shades are 95% intervals over patients"
_SAME = "{} is what the checkpoint of {} says without a label"


def shot_curves(directory: Path, tables: Tables, name: str, item: Artifact) -> Iterator[str]:
    """Figures of AUROC against shots: the mean over tasks, then each task.

    Args:
        directory: Of the plots.
        tables: Over seeds.
        name: Of the results.
        item: They themselves.
    """
    known = best(item)
    scores = rows(tables.scores, results=name, level=TASK, metric=AUROC)
    tasks = list(dict.fromkeys(row["task"] for row in scores if row["value"] is not None))
    overall = rows(tables.scores, results=name, level=GROUP, task=ALL, metric=AUROC)
    if overall:
        whole, told = _of_all_tasks(overall)
        ideal = sum(known.values()) / len(known) if known.keys() == set(tasks) else None
        path = directory / name / "overview.png"
        _draw(path, whole, item, "mean over tasks", ideal=ideal)
        yield figure(path, f"Mean over tasks; {_SHADES}{told}{_levels(whole, item)}")
    yield "<details><summary>Task by task</summary>"
    for task in tasks:
        found = [row for row in scores if row["task"] == task and row["value"] is not None]
        path = directory / name / "tasks" / f"{task}.png"
        _draw(path, found, item, task, ideal=known.get(task))
        yield figure(path, f"{task}; {_SHADES}{_levels(found, item)}")
    yield "</details>"


def share_curve(directory: Path, tables: Tables, name: str, item: Artifact) -> Iterator[str]:
    """A figure of the mean share of the way to the best possible, against shots.

    Args:
        directory: Of the plots.
        tables: Over seeds.
        name: Of the results.
        item: They themselves.
    """
    whole, told = _of_all_tasks(
        rows(tables.scores, results=name, level=GROUP, task=ALL, metric=SHARE)
    )
    path = directory / name / "share.png"
    _draw(path, whole, item, "mean over tasks", y=SHARE_HEADING.lower(), ideal=1.0)
    yield figure(path, f"{SHARE_HEADING}, mean over tasks; {_SHADES}{told}{_levels(whole, item)}")


def styles_of(settings: Iterable[str], item: Artifact) -> dict[str, tuple[int, str]]:
    """The colour tells the model, the line its head.

    Args:
        settings: Model and head, as `gpt2 lr`.
        item: The results that they are of.
    """
    heads = [*item.manifest.config["heads"], GIVEN]
    drawn = set(settings)
    return {
        f"{model} {head}": (number, _LINES[j % len(_LINES)])
        for model, number in _numbers(item).items()
        for j, head in enumerate(heads)
        if f"{model} {head}" in drawn
    }


def _numbers(item: Artifact) -> dict[str, int]:
    """Model -> number of its colour."""
    return {model: i for i, model in enumerate(dict.fromkeys(map(model_of, evaluated(item))))}


def _of_all_tasks(scores: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """Means that may be compared, and what is said of others: those over fewer tasks are of other tasks."""
    most = max(row["n"] for row in scores)
    others = dict.fromkeys(f"{row['model']} {row['head']}" for row in scores if row["n"] < most)
    told = f"; not drawn, as they are of fewer tasks: {', '.join(others)}" if others else ""
    return [row for row in scores if row["n"] == most], told


def _draw(
    path: Path,
    scores: Sequence[dict[str, Any]],
    item: Artifact,
    title: str,
    *,
    y: str = AUROC.upper(),
    ideal: float | None = None,
) -> None:
    """Draw a line a model and head; one that needs no label, and the best possible, as a level."""
    last = 2 * max([k for k in item.manifest.config["ks"] if k != -1], default=1)
    zero = pairs(item)
    series: dict[str, list[tuple[float, float]]] = {}
    bands: dict[str, list[tuple[float, float]]] = {}
    levels = [row for row in scores if _is_level(row, zero)]
    curves = [row for row in scores if not _is_level(row, zero)]
    for row in sorted(curves, key=lambda row: last if row["k"] == -1 else row["k"]):
        setting = f"{row['model']} {row['head']}"
        series.setdefault(setting, []).append((last if row["k"] == -1 else row["k"], row["value"]))
        bands.setdefault(setting, []).append(_band(row))
    styles = styles_of(series, item)
    ends = _ends(series, last)
    for row in levels:
        name = f"{row['model']}, no label"
        series[name], bands[name] = [(x, row["value"]) for x in ends], [_band(row)] * 2
        styles[name] = _numbers(item)[zero[row["model"]][0]], _LEVEL
    if ideal is not None:
        series[BEST] = [(x, ideal) for x in ends]
        styles[BEST] = len(_numbers(item)), _IDEAL
    line_plot(path, series, title=title, x=_X, y=y, log_x=True, bands=bands, styles=styles)


def _is_level(row: Mapping[str, Any], zero: Mapping[str, object]) -> bool:
    """Whether it is of what a checkpoint says without a label, whose heads are there."""
    return row["head"] == GIVEN and row["model"] in zero


def _levels(scores: Sequence[Mapping[str, Any]], item: Artifact) -> str:
    """The level lines, for a caption."""
    zero = pairs(item)
    named = dict.fromkeys(row["model"] for row in scores if _is_level(row, zero))
    return "".join(f"; {_SAME.format(model, ' and '.join(zero[model]))}" for model in named)


def _ends(series: Mapping[str, Sequence[tuple[float, float]]], last: int) -> tuple[float, float]:
    """From the fewest shots to all rows."""
    return min([x for points in series.values() for x, _ in points], default=1.0), float(last)


def _band(row: Mapping[str, Any]) -> tuple[float, float]:
    """The interval of a score, or none of any width."""
    low, high = (row["value"] if row[end] is None else row[end] for end in ("lower", "upper"))
    return low, high
