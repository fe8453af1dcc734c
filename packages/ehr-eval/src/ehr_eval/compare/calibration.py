"""Plots of a comparison: calibration, task by task."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import polars as pl

from ehr_eval.compare.curves import styles_of
from ehr_eval.compare.opened import Artifact, evaluated
from ehr_eval.compare.seeds import model_of
from ehr_eval.judge.curves import CURVES, curves
from ehr_eval.protocol.config import GIVEN
from ehr_eval.protocol.results import PREDICTED
from ehr_tracking.report import figure, line_plot

_KIND = CURVES["calibration_binned"]
_PERFECT = "perfect"


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
            styles = styles_of(lines, item) | {_PERFECT: (7, ":")}
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
