"""The page a person reads: scores beside the baseline's, and where the baseline is better."""

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from ehr_eval.judge.bootstrap import interval
from ehr_eval.judge.compare import GroupMean, Score
from ehr_eval.judge.metrics import METRICS
from ehr_eval.protocol.cell import Setting
from ehr_eval.protocol.config import GIVEN, EhrshotConfig
from ehr_eval.protocol.evaluation import (
    AUROC,
    Evaluation,
    comparisons,
    over_tasks,
    over_tasks_share,
)
from ehr_tracking.config import to_dict
from ehr_tracking.contracts import HELD_OUT, SPLITS, TRAIN
from ehr_tracking.manifest import Source
from ehr_tracking.report import figure, html_page, line_plot, table

_X = "training rows (2k; the last point: all)"
_LINES = ("-", "--", ":", "-.")
"""A head each; the colour tells the model."""
_BEST = "best possible"
_TITLES = {
    name: metric.title if metric.higher_is_better else f"{metric.title} (lower is better)"
    for name, metric in METRICS.items()
}


def write_report(
    directory: Path,
    evaluations: Sequence[Evaluation],
    config: EhrshotConfig,
    inputs: Mapping[str, Source],
) -> None:
    """Write report.html, one file that needs no other, and plots/*.png.

    Args:
        directory: Of the results.
        evaluations: One a task.
        config: The protocol as it was run.
        inputs: What the results were made from, with their lineage.
    """
    body = [
        *_summary(evaluations, config),
        *_shares(directory, evaluations, config),
        *_plots(directory, evaluations, config),
        *_honest(evaluations, config),
        *_details(evaluations, config),
        *_not_evaluated(evaluations),
        *_unconverged(evaluations),
        *_what_was_run(config, inputs),
    ]
    page = html_page("Few-shot evaluation", body)
    (directory / "report.html").write_text(page, encoding="utf-8")


def _summary(evaluations: Sequence[Evaluation], config: EhrshotConfig) -> Iterator[str]:
    yield "<h2>Summary</h2>"
    rows = []
    for evaluation in evaluations:
        sizes = {s: f"{n} ({p})" for s, (n, p) in evaluation.sizes.items()}
        found = {
            f"{s.model} {s.head}": evaluation.mean(s, AUROC)
            for s in _settings([evaluation], _all(config))
        }
        known = {name: score.value for name, score in found.items() if score is not None}
        scores = {name: known.get(name) for name in found}
        if evaluation.best is not None:
            scores[_BEST] = evaluation.best.value
        highest = max(known, key=lambda name: known[name]) if known else None
        rows.append({"task": evaluation.task, **sizes, **scores, "highest": highest})
    yield (
        f"<p>AUROC on the held-out split, {_shots(_all(config))}. Under each split: rows "
        "(of which positive).</p>"
    )
    yield table(rows)
    overall = []
    for setting in _settings(evaluations, _all(config)):
        means = {m: over_tasks(evaluations, setting, m) for m in METRICS}
        shown = {_TITLES[m]: _with_half(v) for m, v in means.items()}
        overall.append({"model": setting.model, "head": setting.head, **shown})
    yield "<p>Unweighted mean over tasks (± half of the 95% interval, over patients).</p>"
    yield table(overall)
    yield from _warnings(evaluations, config.few_positives)


def _warnings(evaluations: Sequence[Evaluation], few: int) -> Iterator[str]:
    rarer = {e.task: min(p, n - p) for e in evaluations for n, p in [e.sizes[HELD_OUT]]}
    small = [f"{task} ({count})" for task, count in rarer.items() if count < few]
    if small:
        yield (
            '<p class="note"><strong>Too little data to judge a model.</strong> Fewer than '
            f"{few} held-out rows of the rarer class: {escape(', '.join(small))}. "
            "Scores on these tasks show that the pipeline runs, not that a model is good.</p>"
        )


def _honest(evaluations: Sequence[Evaluation], config: EhrshotConfig) -> Iterator[str]:
    yield "<h2>Where the count baseline is better</h2>"
    compared = [row for e in evaluations for row in comparisons(e, config.baseline)]
    if not compared:
        yield (
            f'<p class="note">There is nothing to compare: no features named '
            f"<code>{escape(config.baseline)}</code> were evaluated beside a model's. A score means "
            "little without a baseline.</p>"
        )
        return
    behind = [row for row in compared if row["difference"] < 0]
    clear = [row for row in behind if row["upper"] is not None and row["upper"] < 0]
    ahead = [row for row in compared if row["lower"] is not None and row["lower"] > 0]
    yield (
        f"<p>Of {len(compared)} comparisons of a model with <code>{escape(config.baseline)}</code> "
        f"(same task, head and shots{_given(compared)}) the baseline has the higher AUROC in <strong>{len(behind)}"
        f"</strong>, in {len(clear)} of these with an interval that excludes 0. The model is ahead "
        f"with such an interval in {len(ahead)}. Intervals are paired bootstraps over patients; "
        "they do not cover the draw of the shots, nor the number of comparisons.</p>"
    )
    yield "<p>Where the interval excludes 0:</p>"
    yield table([_compared(row) for row in clear])
    yield f"<details><summary>All {len(behind)}</summary>"
    yield table([_compared(row) for row in behind])
    yield "</details>"


def _given(compared: Sequence[Mapping[str, Any]]) -> str:
    there = any(row["head"] != row["baseline_head"] for row in compared)
    return "; predictions made elsewhere with each of its heads" if there else ""


def _compared(row: Mapping[str, Any]) -> dict[str, object]:
    return {
        "task": row["task"],
        "model": row["model"],
        "head": row["head"] if row["head"] == row["baseline_head"] else _heads(row),
        "k": _k(row["k"]),
        "model AUROC": row["model_auroc"],
        "baseline AUROC": row["baseline_auroc"],
        "difference": _with_interval(row["difference"], row["lower"], row["upper"]),
    }


def _heads(row: Mapping[str, Any]) -> str:
    return f"{row['head']}, baseline {row['baseline_head']}"


def _plots(
    directory: Path, evaluations: Sequence[Evaluation], config: EhrshotConfig
) -> Iterator[str]:
    yield "<h2>AUROC against the number of shots</h2>"
    why = {e.task: _why_no_curve(e) for e in evaluations}
    drawn = [e for e in evaluations if why[e.task] is None]
    if drawn:
        overview = directory / "plots" / "overview.png"
        _plot(overview, drawn, config, "mean over tasks")
        yield figure(overview, "Mean over tasks; shades are 95% intervals over patients")
    for evaluation in drawn:
        path = directory / "plots" / f"{evaluation.task}.png"
        _plot(path, [evaluation], config, evaluation.task)
        yield figure(path, f"{evaluation.task}; shades are 95% intervals over patients")
    for task, reason in why.items():
        if reason is not None:
            yield f"<p>{escape(task)} has no curve: {escape(reason)}.</p>"


def _why_no_curve(evaluation: Evaluation) -> str | None:
    """Why AUROC is undefined; that depends on the labels alone, so for all cells alike."""
    reason: str | None = next(r["reason"] for r in evaluation.rows if r["metric"] == "auroc")
    return reason


def _shares(
    directory: Path, evaluations: Sequence[Evaluation], config: EhrshotConfig
) -> Iterator[str]:
    """How far to the best possible, where that is known: one row a model and head, one column a k."""
    known = [e.task for e in evaluations if e.best is not None]
    if not known:
        return
    curves: dict[str, dict[int, float | None]] = {}
    for setting in _settings(evaluations):
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
            {"model": name} | {_k(k): _two(curve.get(k)) for k in ks}
            for name, curve in curves.items()
        ]
    )
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


def _plot(path: Path, evaluations: Sequence[Evaluation], config: EhrshotConfig, title: str) -> None:
    rows = _train_rows(evaluations)
    series: dict[str, list[tuple[float, float]]] = {}
    bands: dict[str, list[tuple[float, float]]] = {}
    for setting in sorted(_settings(evaluations), key=lambda s: rows if s.k == -1 else 2 * s.k):
        point = _point(evaluations, setting)
        if point is not None:
            value, low, high = point
            name = f"{setting.model} {setting.head}"
            series.setdefault(name, []).append((rows if setting.k == -1 else 2 * setting.k, value))
            bands.setdefault(name, []).append((low, high))
    best = [e.best.value for e in evaluations if e.best is not None]
    level = float(np.mean(best)) if best and len(best) == len(evaluations) else None
    _draw(path, series, config, title, "AUROC", bands, level)


def _draw(
    path: Path,
    series: Mapping[str, list[tuple[float, float]]],
    config: EhrshotConfig,
    title: str,
    y: str,
    bands: Mapping[str, list[tuple[float, float]]] | None = None,
    best: float | None = None,
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
        drawn[_BEST] = [(min(xs), best), (max(xs), best)]
        styles[_BEST] = (len(models), ":")
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


def _details(evaluations: Sequence[Evaluation], config: EhrshotConfig) -> Iterator[str]:
    yield f"<h2>Scores, {_shots(_all(config))}</h2>"
    for evaluation in evaluations:
        if evaluation.problem:
            continue
        n, positives = evaluation.sizes[HELD_OUT]
        yield f"<h3>{escape(evaluation.task)}</h3>"
        yield f"<p>{n} held-out rows, {positives} positive. 95% intervals over patients.</p>"
        rows = []
        for setting in _settings([evaluation], _all(config)):
            means = evaluation.means[setting]
            scores = {_TITLES[m]: _scored(means[m]) for m in METRICS}
            rows.append({"model": setting.model, "head": setting.head, **scores})
        yield table(rows)


def _not_evaluated(evaluations: Sequence[Evaluation]) -> Iterator[str]:
    reasons: dict[tuple[str, str], set[str]] = {}
    for evaluation in evaluations:
        for row in evaluation.rows:
            if row["reason"]:
                reasons.setdefault((evaluation.task, row["reason"]), set()).add(row["metric"])
    if reasons:
        yield "<h2>What could not be evaluated</h2>"
        yield table(
            [
                {
                    "task": task,
                    "metrics": ", ".join(m for m in METRICS if m in found),
                    "why": reason,
                }
                for (task, reason), found in reasons.items()
            ]
        )


def _unconverged(evaluations: Sequence[Evaluation]) -> Iterator[str]:
    found = [(cell, point) for e in evaluations for cell, point in e.unconverged]
    if found:
        yield "<h2>Fits that did not converge</h2>"
        yield (
            "<p>A limit of steps ended them (<code>max_iter</code> of the head): they were judged "
            "where they stood.</p>"
        )
        yield table([{**cell._asdict(), "k": _k(cell.k), "grid point": p} for cell, p in found])


def _what_was_run(config: EhrshotConfig, inputs: Mapping[str, Source]) -> Iterator[str]:
    yield "<h2>What was run</h2>"
    yield (
        "<p>EHRSHOT's few-shot protocol: for each k and replicate, k rows of each class are drawn "
        "from train to fit on and from tuning to choose hyperparameters on; every head is judged on "
        f"the whole of held_out. Splits: {', '.join(SPLITS)}, by subject.</p>"
    )
    yield "<p>Inputs, each with what it was made from:</p>"
    yield _tree(inputs)
    yield f"<pre>{escape(json.dumps(to_dict(config), indent=1))}</pre>"


def _tree(inputs: Mapping[str, Source]) -> str:
    items = "".join(
        f"<li>{escape(role)}: {escape(item.contract)} by {escape(item.producer)}, "
        f"<code>{item.fingerprint[:16]}</code>{_tree(item.inputs) if item.inputs else ''}</li>"
        for role, item in inputs.items()
    )
    return f"<ul>{items}</ul>"


def _settings(evaluations: Sequence[Evaluation], k: int | None = None) -> list[Setting]:
    """The settings that occur, in order of evaluation; of one k where it is given."""
    rows = (row for e in evaluations for row in e.rows)
    found = dict.fromkeys(Setting(row["model"], row["head"], row["k"]) for row in rows)
    return [setting for setting in found if k is None or setting.k == k]


def _all(config: EhrshotConfig) -> int:
    """The k with the most rows."""
    return -1 if -1 in config.ks else max(config.ks)


def _k(k: int) -> str:
    return "all" if k == -1 else str(k)


def _shots(k: int) -> str:
    return "fitted on all training rows" if k == -1 else f"fitted on {k} rows of each class"


def _scored(score: Score | None) -> str | None:
    return None if score is None else _with_interval(score.value, *interval(score.draws))


def _with_half(mean: GroupMean | None) -> str | None:
    if mean is None:
        return None
    return f"{mean.value:.3f}" if mean.half is None else f"{mean.value:.3f} ± {mean.half:.3f}"


def _with_interval(value: float | None, lower: float | None, upper: float | None) -> str | None:
    if value is None:
        return None
    shown = f"{value:.3f}"
    return shown if lower is None or upper is None else f"{shown} ({lower:.3f}, {upper:.3f})"
