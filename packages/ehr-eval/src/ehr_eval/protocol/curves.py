"""The report's plots: AUROC, and the share of the way to the best possible, against shots."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from ehr_eval.judge.bootstrap import interval
from ehr_eval.protocol.cell import Setting
from ehr_eval.protocol.config import GIVEN, EhrshotConfig
from ehr_eval.protocol.evaluation import AUROC, Evaluation, over_tasks, over_tasks_share, shares
from ehr_eval.protocol.shown import BEST, most_shots, settings_of, shown_k, shown_shots
from ehr_tracking.contracts import TRAIN
from ehr_tracking.report import figure, line_plot, table

_X = "training rows (2k; the last point: all)"
_LINES = ("-", "--", ":", "-.")
"""A head each; the colour tells the model."""


def auroc_curves(
    directory: Path, evaluations: Sequence[Evaluation], config: EhrshotConfig
) -> Iterator[str]:
    """One plot a task and one over all."""
    yield "<h2>AUROC against the number of shots</h2>"
    why = {e.task: _why_no_curve(e) for e in evaluations}
    drawn = [e for e in evaluations if why[e.task] is None]
    if drawn:
        overview = directory / "plots" / "overview.png"
        draw_tasks(overview, drawn, config, "mean over tasks")
        yield figure(overview, "Mean over tasks; shades are 95% intervals over patients")
    for evaluation in drawn:
        # in a folder of their own: a task may be called overview
        path = directory / "plots" / "tasks" / f"{evaluation.task}.png"
        draw_tasks(path, [evaluation], config, evaluation.task)
        yield figure(path, f"{evaluation.task}; shades are 95% intervals over patients")
    for task, reason in why.items():
        if reason is not None:
            yield f"<p>{escape(task)} has no curve: {escape(reason)}.</p>"


def _why_no_curve(evaluation: Evaluation) -> str | None:
    """Why AUROC is undefined; that depends on the labels alone, so for all cells alike."""
    reason: str | None = next(
        (r["reason"] for r in evaluation.rows if r["metric"] == "auroc"), evaluation.problem
    )
    return reason


def share_of_best(
    directory: Path, evaluations: Sequence[Evaluation], config: EhrshotConfig
) -> Iterator[str]:
    """How far to the best possible, where that is known: one row a model and head, one column a k."""
    known = [e.task for e in evaluations if e.best is not None]
    if not known:
        return
    curves: dict[str, dict[int, float | None]] = {}
    for setting in settings_of(evaluations):
        of_model = curves.setdefault(f"{setting.model} {setting.head}", {})
        of_model[setting.k] = over_tasks_share(evaluations, setting)
    ks = sorted({k for curve in curves.values() for k in curve}, key=lambda k: (k == -1, k))
    yield "<h2>Share of the way to the best possible</h2>"
    yield (
        "<p>(AUROC - 0.5) / (AUROC of the best possible risk - 0.5): 0 is chance, 1 the best that any "
        f"model of the record can reach. Unweighted mean over {escape(', '.join(known))}, by shots.</p>"
    )
    yield table(
        [
            {"model": name} | {shown_k(k): _two(curve.get(k)) for k in ks}
            for name, curve in curves.items()
        ]
    )
    most = most_shots(config)
    yield f"<p>Task by task, {shown_shots(most)}:</p>"
    yield table(list(shares(evaluations, settings_of(evaluations, most))))
    rows = _train_rows([e for e in evaluations if e.task in known])
    points = {
        name: [(rows if k == -1 else 2 * k, v) for k in ks if (v := curve.get(k)) is not None]
        for name, curve in curves.items()
    }
    path = directory / "plots" / "share.png"
    _draw(path, points, config, "mean over tasks", "share of the way to the best possible")
    yield figure(path, "Mean share over tasks; 1 is the best possible")


def _two(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}"


def _train_rows(evaluations: Sequence[Evaluation]) -> float:
    """Where all rows are drawn: as many as the tasks have on average."""
    return float(np.mean([e.sizes[TRAIN][0] for e in evaluations]))


def draw_tasks(
    path: Path,
    evaluations: Sequence[Evaluation],
    config: EhrshotConfig,
    title: str,
    published: Mapping[str, float] | None = None,
) -> None:
    """Plot the mean AUROC of some tasks against shots.

    Args:
        path: Of the PNG.
        evaluations: Of the tasks.
        config: Of the run.
        title: Above it.
        published: Name -> what others reached with all rows.
    """
    rows = _train_rows(evaluations)
    series: dict[str, list[tuple[float, float]]] = {}
    bands: dict[str, list[tuple[float, float]]] = {}
    for setting in sorted(settings_of(evaluations), key=lambda s: rows if s.k == -1 else 2 * s.k):
        point = _point(evaluations, setting)
        if point is not None:
            value, low, high = point
            name = f"{setting.model} {setting.head}"
            series.setdefault(name, []).append((rows if setting.k == -1 else 2 * setting.k, value))
            bands.setdefault(name, []).append((low, high))
    best = [e.best.value for e in evaluations if e.best is not None]
    level = float(np.mean(best)) if best and len(best) == len(evaluations) else None
    _draw(path, series, config, title, "AUROC", bands, level, (rows, published or {}))


def _draw(
    path: Path,
    series: Mapping[str, list[tuple[float, float]]],
    config: EhrshotConfig,
    title: str,
    y: str,
    bands: Mapping[str, list[tuple[float, float]]] | None = None,
    best: float | None = None,
    published: tuple[float, Mapping[str, float]] = (0.0, {}),
) -> None:
    """Curves of models and heads, over the best possible where that is known."""
    # the baseline last, as the line to beat
    order = sorted(series, key=lambda name: name.startswith(f"{config.baseline} "))
    models = list(dict.fromkeys(name.rsplit(" ", 1)[0] for name in order))
    heads = [*config.heads, GIVEN]
    drawn = {name: series[name] for name in order}
    styles = {
        f"{model} {head}": (number, _LINES[heads.index(head) % len(_LINES)])
        for number, model in enumerate(models)
        for head in heads
        if f"{model} {head}" in series
    }
    if best is not None:
        xs = [x for points in series.values() for x, _ in points]
        drawn[BEST] = [(min(xs), best), (max(xs), best)]
        styles[BEST] = (len(models), ":")
    at, values = published
    for name, value in values.items():
        drawn[f"published: {name}"] = [(at, value)]
        styles[f"published: {name}"] = (-1, "")
    line_plot(path, drawn, title=title, x=_X, y=y, log_x=True, bands=bands, styles=styles)


def _point(
    evaluations: Sequence[Evaluation], setting: Setting
) -> tuple[float, float, float] | None:
    """AUROC with its interval: of the one task, or the mean over several."""
    if len(evaluations) == 1:
        score = evaluations[0].mean(setting, AUROC)
        if score is None:
            return None
        low, high = interval(score.draws)
        return (
            score.value,
            score.value if low is None else low,
            score.value if high is None else high,
        )
    mean = over_tasks(evaluations, setting, AUROC)
    if mean is None:
        return None
    half = mean.half or 0.0  # a shade of no width where there is no interval
    return mean.value, mean.value - half, mean.value + half
