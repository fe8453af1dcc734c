"""The page on predicted times to an event: tables, and survival by group of risk."""

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from ehr_eval.judge.bootstrap import interval
from ehr_eval.judge.compare import Model, Score
from ehr_eval.judge.metrics.ranked import Floats
from ehr_eval.protocol.shown import lineage, shown_differences, shown_score
from ehr_eval.survival.config import SurvivalConfig
from ehr_eval.survival.judge import AT_HORIZON, EVERYONE, OVERALL, Judged, Measure
from ehr_eval.survival.kaplan_meier import StepCurve
from ehr_tracking.config import to_dict
from ehr_tracking.manifest import Source
from ehr_tracking.report import figure, html_page, line_plot, table

BASELINE = "counts"


def write_report(
    directory: Path, tasks: Sequence[Judged], config: SurvivalConfig, inputs: Mapping[str, Source]
) -> None:
    """Write report.html, one file that needs no other, and plots/.

    Args:
        directory: Of the results.
        tasks: What came out of each.
        config: As it was run.
        inputs: What the results were made from.
    """
    body = [
        "<p>Judged on the held-out split; brackets are 95% intervals over patients. C says how often the "
        "one of two subjects who comes first has the higher risk (by the last horizon): 0.5 is chance. "
        "AUROC(t) asks the same of an event by day t against none until then; Brier(t) is the squared "
        "distance of risk and outcome, integrated over the horizons. Uno's C, AUROC(t) and Brier(t) weight "
        "by the inverse of the chance not to be censored, as estimated in train.</p>",
        *(piece for judged in tasks for piece in _task(directory, judged, config)),
        "<h2>What was run</h2>",
        lineage(inputs),
        f"<pre>{escape(json.dumps(to_dict(config), indent=1))}</pre>",
    ]
    (directory / "report.html").write_text(html_page("Times to an event", body), encoding="utf-8")


def _task(directory: Path, judged: Judged, config: SurvivalConfig) -> Iterator[str]:
    yield f"<h2>{escape(judged.task)}</h2>"
    sizes = ", ".join(f"{split} {n:,} ({events:,})" for split, (n, events) in judged.sizes.items())
    yield f"<p>Rows (of which with the event): {sizes}.</p>"
    if judged.problem:
        yield f'<p class="note">Not judged: {escape(judged.problem)}.</p>'
        return
    yield table(
        [
            {
                "model": model.name,
                "head": model.head,
                **{title: shown_score(of.get(Measure(m, None))) for m, title in OVERALL.items()},
            }
            for model, of in judged.scores.items()
        ]
    )
    yield from _against_baseline(judged)
    for metric, title in AT_HORIZON.items():
        yield f"<h3>{escape(title)}</h3>"
        yield table(
            [
                {"model": model.name, "head": model.head}
                | {f"{h:g} days": shown_score(of.get(Measure(metric, h))) for h in judged.horizons}
                for model, of in judged.scores.items()
            ]
        )
    for measure, reason in judged.reasons.items():
        of = "" if measure.horizon is None else f" at {measure.horizon:g} days"
        yield f"<p>No {escape(measure.metric)}{of}: {escape(reason)}.</p>"
    yield from _plots(directory / "plots" / judged.task, judged, config)


def _against_baseline(judged: Judged) -> Iterator[str]:
    uno = Measure("uno_c", None)
    of = {m: scores.get(uno) for m, scores in judged.scores.items() if m != EVERYONE}
    rows = shown_differences(of, Model(BASELINE, "cox"))
    if rows:
        yield "<p>Uno's C minus that of Cox regression on counts, paired by patient:</p>"
        yield table(rows)


def _plots(directory: Path, judged: Judged, config: SurvivalConfig) -> Iterator[str]:
    curves, bands = {}, {}
    for model, of in judged.scores.items():
        scored = [(h, s) for h in judged.horizons if (s := of.get(Measure("auc", h))) is not None]
        if scored and model != EVERYONE:
            name = f"{model.name} {model.head}"
            curves[name] = [(h, s.value) for h, s in scored]
            bands[name] = [_bounds(s) for _, s in scored]
    if curves:
        path = directory / "auc.png"
        line_plot(path, curves, title=judged.task, x="days", y="AUROC(t)", bands=bands)
        yield figure(path, "AUROC of an event by a day; shades are 95% intervals over patients")
    for model, risk in judged.risk.items():
        if model != EVERYONE:
            path = directory / f"{model.name}-{model.head}.png"
            groups = _groups(judged, risk[:, -1], config.groups)
            title = f"{model.name} {model.head}"
            line_plot(path, groups, title=title, x="days", y="share without the event")
            yield figure(path, f"{title}: Kaplan-Meier by risk by {judged.horizons[-1]:g} days")


def _bounds(score: Score) -> tuple[float, float]:
    low, high = interval(score.draws)
    return (score.value if low is None else low, score.value if high is None else high)


def _groups(judged: Judged, risk: Floats, groups: int) -> dict[str, list[tuple[float, float]]]:
    """Steps of the survival of groups of about equal size, the lowest risk first."""
    rows = judged.followed
    assert rows is not None
    number = np.searchsorted(np.quantile(risk, np.arange(1, groups) / groups), risk, side="left")
    found = {}
    for i in range(groups):
        mine = number == i
        if mine.any():
            curve = StepCurve.survival(rows.days[mine], rows.event[mine])
            days = np.concatenate([[0.0], np.repeat(curve.days, 2)])
            share = np.repeat(np.concatenate([[1.0], curve.value]), 2)[:-1]
            name = f"risk {i + 1} of {groups} ({int(mine.sum()):,} rows)"
            found[name] = list(zip(days.tolist(), share.tolist(), strict=True))
    return found
