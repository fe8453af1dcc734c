"""Plots of a comparison: AUROC against shots, and calibration."""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import polars as pl

from ehr_eval.compare.opened import Artifact, evaluated
from ehr_eval.compare.seeds import model_of
from ehr_eval.compare.tables import GROUP, TASK, Tables, rows
from ehr_eval.judge.curves import CURVES, curves
from ehr_eval.protocol.config import GIVEN
from ehr_eval.protocol.evaluation import AUROC
from ehr_eval.protocol.groups import ALL
from ehr_eval.protocol.results import PREDICTED
from ehr_tracking.report import figure, line_plot

_X = "shots of each class (the last point, at twice the most: all rows)"
_LINES = ("-", "--", ":", "-.")
"""A head each; the colour tells the model."""
_KIND = CURVES["calibration_binned"]
_PERFECT = "perfect"


def shot_curves(directory: Path, tables: Tables, name: str, item: Artifact) -> Iterator[str]:
    """Figures of AUROC against shots: the mean over tasks, then each task.

    Args:
        directory: Of the plots.
        tables: Over seeds.
        name: Of the results.
        item: They themselves.
    """
    overall = rows(tables.scores, results=name, level=GROUP, task=ALL, metric=AUROC)
    shades = "shades are 95% intervals over patients, of several seeds the mean of their bounds"
    if overall:
        path = directory / name / "overview.png"
        _draw_shots(path, overall, item, "mean over tasks")
        yield figure(path, f"Mean over tasks; {shades}")
    scores = rows(tables.scores, results=name, level=TASK, metric=AUROC)
    yield "<details><summary>Task by task</summary>"
    for task in dict.fromkeys(row["task"] for row in scores):
        found = [row for row in scores if row["task"] == task and row["value"] is not None]
        if found:
            path = directory / name / "tasks" / f"{task}.png"
            _draw_shots(path, found, item, task)
            yield figure(path, f"{task}; {shades}")
    yield "</details>"


def calibration(directory: Path, name: str, item: Artifact) -> Iterator[str]:
    """A figure a task: how often the outcome came among rows of about the same probability.

    Args:
        directory: Of the plots.
        name: Of the results.
        item: They themselves, with held-out predictions.
    """
    for task in _tasks(item):
        lines = _calibrated(item, task)
        if lines:
            path = directory / name / "calibration" / f"{task}.png"
            most = max(x for points in lines.values() for x, _ in points)
            styles = _styles(lines, item) | {_PERFECT: (7, ":")}
            drawn = {**lines, _PERFECT: [(0.0, 0.0), (most, most)]}
            line_plot(path, drawn, title=task, x=_KIND.x, y=_KIND.y, styles=styles)
            yield figure(path, f"Calibration, {task}")


def _calibrated(item: Artifact, task: str) -> dict[str, list[tuple[float, float]]]:
    """Model and head -> points; rows of all its seeds together."""
    parts: dict[str, list[pl.DataFrame]] = {}
    for model in evaluated(item):
        for head in (*item.manifest.config["heads"], GIVEN):
            path = f"{PREDICTED}/{task}/{model}/{head}.parquet"
            if path in item.manifest.files:
                parts.setdefault(f"{model_of(model)} {head}", []).append(item.table(path))
    found = {}
    for setting, tables in parts.items():
        whole = pl.concat(tables)
        label = whole["boolean_value"].to_numpy().astype(bool)
        p = whole["predicted_boolean_probability"].to_numpy().astype(np.float64)
        curve = curves(label, p, np.ones((len(p), 1), np.uint16), [_KIND.name])[_KIND.name]
        found[setting] = list(zip(curve.x.tolist(), curve.y.tolist(), strict=True))
    return found


def _tasks(item: Artifact) -> list[str]:
    """Those with predictions; a task may be called by a path of several parts."""
    held = (PurePosixPath(path) for path in item.manifest.files)
    return sorted(
        {
            path.relative_to(PREDICTED).parents[1].as_posix()
            for path in held
            if path.is_relative_to(PREDICTED)
        }
    )


def _draw_shots(path: Path, scores: list[dict[str, Any]], item: Artifact, title: str) -> None:
    last = 2 * max([k for k in item.manifest.config["ks"] if k != -1], default=1)
    series: dict[str, list[tuple[float, float]]] = {}
    bands: dict[str, list[tuple[float, float]]] = {}
    for row in sorted(scores, key=lambda row: last if row["k"] == -1 else row["k"]):
        value, setting = row["value"], f"{row['model']} {row['head']}"
        series.setdefault(setting, []).append((last if row["k"] == -1 else row["k"], value))
        low, high = (value if row[end] is None else row[end] for end in ("lower", "upper"))
        bands.setdefault(setting, []).append((low, high))
    styles = _styles(series, item)
    line_plot(path, series, title=title, x=_X, y="AUROC", log_x=True, bands=bands, styles=styles)


def _styles(series: Mapping[str, Any], item: Artifact) -> dict[str, tuple[int, str]]:
    """The colour tells the model, the line its head."""
    models = list(dict.fromkeys(map(model_of, evaluated(item))))
    heads = [*item.manifest.config["heads"], GIVEN]
    return {
        f"{model} {head}": (i, _LINES[j % len(_LINES)])
        for i, model in enumerate(models)
        for j, head in enumerate(heads)
        if f"{model} {head}" in series
    }
