"""The plots of a task: ROC, precision and recall, decision curves, calibration before and after."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ehr_eval.judge.curves import CURVES, Curve
from ehr_eval.judge.recalibrate import NONE
from ehr_eval.judgement.judge import TaskJudged
from ehr_tracking.report import figure, line_plot

_REFERENCE = 7
"""The colour of what is no model."""
Points = list[tuple[float, float]]


def draw(directory: Path, task: TaskJudged) -> Iterator[str]:
    """Write the plots of a task, and give them as figures of the page.

    Args:
        directory: Of the plots; those of the task lie in a folder of its name.
        task: With at least one row.
    """
    folder = directory / task.name
    base = task.positives / task.n
    for name, references in (
        ("roc", {"chance": [(0.0, 0.0), (1.0, 1.0)]}),
        ("precision_recall", {"frequency": [(0.0, base), (1.0, base)]}),
        ("decision", {"treat none": [(0.01, 0.0), (_treated(base), 0.0)], **_treat_all(task)}),
    ):
        found = {m: j.curves[NONE][name] for m, j in task.models.items() if name in j.curves[NONE]}
        if found:
            if name == "decision":
                found = {m: _until(curve, _treated(base)) for m, curve in found.items()}
            path = folder / f"{name}.png"
            _plot(path, name, found, references, task.name)
            yield figure(path, f"{CURVES[name].title}; shades are 95% intervals over patients")
    for number, (model, judged) in enumerate(task.models.items()):
        path = folder / f"calibration-{number + 1}.png"
        _calibration(path, judged.curves, f"{task.name}: {model}")
        yield figure(
            path,
            f"Calibration of {model}: lines are isotonic, points ten bins of about equally many rows, as "
            "told and recalibrated on tuning; shades are 95% intervals over patients",
        )


def _plot(
    path: Path, name: str, found: Mapping[str, Curve], references: Mapping[str, Points], title: str
) -> None:
    kind = CURVES[name]
    series = {**{model: _points(curve) for model, curve in found.items()}, **references}
    styles = {model: (i, "-") for i, model in enumerate(found)}
    styles |= {
        name: (_REFERENCE, line) for name, line in zip(references, (":", "--"), strict=False)
    }
    bands = {model: _band(curve) for model, curve in found.items()}
    line_plot(path, series, title=title, x=kind.x, y=kind.y, bands=bands, styles=styles)


def _calibration(path: Path, ways: Mapping[str, Mapping[str, Curve]], title: str) -> None:
    most = max(float(curves["calibration_isotonic"].x[-1]) for curves in ways.values())
    series: dict[str, Points] = {"perfect": [(0.0, 0.0), (most, most)]}
    styles, bands = {"perfect": (_REFERENCE, ":")}, {}
    for i, (way, curves) in enumerate(ways.items()):
        line, bins = curves["calibration_isotonic"], curves["calibration_binned"]
        said = "as told" if way == NONE else way
        series[said], styles[said] = _points(line), (i, "-" if way == NONE else "--")
        series[f"{said}, bins"], styles[f"{said}, bins"] = _points(bins), (i, "none")
        if way == NONE:
            bands[said] = _band(line)
    kind = CURVES["calibration_isotonic"]
    line_plot(path, series, title=title, x=kind.x, y=kind.y, bands=bands, styles=styles)


def _treated(base: float) -> float:
    """The highest risk that a decision curve is drawn to: beyond, few would treat anybody."""
    return float(np.clip(3 * base, 0.3, 0.99))


def _treat_all(task: TaskJudged) -> dict[str, Points]:
    """Down to as far below 0 as the curve begins above."""
    first = next(iter(task.models.values()))
    curve = first.curves[NONE]["treat_all"]
    return {"treat all": [(x, y) for x, y in _points(curve) if y >= -abs(curve.y[0]) / 2]}


def _until(curve: Curve, most: float) -> Curve:
    return Curve(*(part[curve.x <= most] for part in curve))


def _points(curve: Curve) -> Points:
    return [(x, y) for x, y in zip(curve.x.tolist(), curve.y.tolist(), strict=True) if y == y]


def _band(curve: Curve) -> Points:
    """Low and high of each point that is drawn; of no width where there is no interval."""
    low, high = (np.where(np.isnan(part), curve.y, part) for part in (curve.lower, curve.upper))
    there = ~np.isnan(curve.y)
    return list(zip(low[there].tolist(), high[there].tolist(), strict=True))
