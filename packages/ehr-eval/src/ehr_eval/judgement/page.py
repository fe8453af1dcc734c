"""The page that a person reads, and the same tables as Markdown."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import NamedTuple

from ehr_eval.judge.metrics import ALL_METRICS
from ehr_eval.judge.recalibrate import NONE
from ehr_eval.judgement.config import JudgeConfig
from ehr_eval.judgement.judge import Compared, Judged, Scored, TaskJudged
from ehr_eval.judgement.plots import draw
from ehr_eval.judgement.tables import Row, baseline_of, compared, means
from ehr_eval.protocol.shown import lineage, shown_interval, shown_mean, shown_score
from ehr_tracking.config import to_dict
from ehr_tracking.manifest import Source
from ehr_tracking.report import html_page, markdown_table, table

AUROC = "auroc"
Key = tuple[str, str, str, str | None, str | None]
"""Kind of difference, task, model, group, level."""
MAIN = ("auroc", "auprc", "brier", "ece", "calibration_slope", "net_benefit")
"""Of tables that have a column a metric."""
MOVED = ("brier", "log_loss", "ece", "ece_mass", "calibration_slope", "calibration_intercept")
"""What recalibration is for."""
_SETS = {
    "coverage": "coverage",
    "coverage_of_positives": "of positives",
    "coverage_of_negatives": "of negatives",
    "size": "mean size",
    "empty": "empty",
    "single": "one outcome",
    "both": "both",
    "right_where_single": "right where one",
}
_METHODS = {"marginal": "marginal", "by_class": "by class"}


class Piece(NamedTuple):
    """A table with what is said above it."""

    text: str
    rows: Sequence[Mapping[str, object]]


def write_page(
    directory: Path,
    tasks: Sequence[TaskJudged],
    config: JudgeConfig,
    inputs: Mapping[str, Source],
    moved: Sequence[Row],
) -> None:
    """Write report.html, one file that needs no other, tables.md and plots/.

    Args:
        directory: Of the artifact.
        tasks: What came out of each.
        config: As it was run.
        inputs: What was read.
        moved: Differences, from `difference_rows`.
    """
    holm = {
        (row["kind"], row["task"], row["model"], row["group"], row["level"]): row["p_holm"]
        for row in moved
        if row["metric"] == AUROC
    }
    body, text = ["<h2>All tasks</h2>"], ["# Judgement", ""]
    for piece in _overview(tasks, config, holm):
        body += _html(piece)
        text += _markdown(piece)
    body += _warnings(tasks, config)
    for task in tasks:
        body.append(f"<h2>{escape(task.name)}</h2>")
        text += [f"## {task.name}", ""]
        sizes = (
            f"{task.n:,} held-out rows of {task.patients:,} patients, {task.positives:,} positive."
        )
        body.append(f"<p>{sizes}</p>")
        text += [sizes, ""]
        for model, problem in task.problems.items():
            body.append(f'<p class="note">{escape(model)} was not judged: {escape(problem)}.</p>')
            text += [f"{model} was not judged: {problem}.", ""]
        if task.models:
            body += draw(directory / "plots", task)
        for piece in _of_task(task, config, holm):
            body += _html(piece)
            text += _markdown(piece)
    body += [
        "<h2>What was run</h2>",
        lineage(inputs),
        f"<pre>{escape(json.dumps(to_dict(config), indent=1))}</pre>",
    ]
    (directory / "report.html").write_text(html_page("Judgement", body), encoding="utf-8")
    (directory / "tables.md").write_text("\n".join(text), encoding="utf-8")


def _html(piece: Piece) -> list[str]:
    return [f"<p>{escape(piece.text)}</p>", *([table(piece.rows)] if piece.rows else [])]


def _markdown(piece: Piece) -> list[str]:
    return [piece.text, "", *([markdown_table(piece.rows), ""] if piece.rows else [])]


def _overview(
    tasks: Sequence[TaskJudged], config: JudgeConfig, holm: Mapping[Key, float | None]
) -> Iterator[Piece]:
    rows: list[dict[str, object]] = [
        {"task": task.name, "model": model, **_main(judged.ways[NONE])}
        for task in tasks
        for model, judged in task.models.items()
    ]
    yield Piece(
        "On the held-out rows, probabilities as they were told; brackets are 95% intervals over "
        f"{config.bootstraps:,} resamples of patients.",
        rows,
    )
    if len(tasks) > 1:
        yield Piece(
            "Unweighted mean over the tasks that have it (± half of EHRSHOT's 95% interval for groups of "
            "tasks).",
            [
                {"model": model, "recalibration": way}
                | {_title(m): shown_mean(of[m][0]) if m in of else None for m in MAIN}
                for (model, way), of in means(tasks).items()
            ],
        )
    found = list(compared(tasks, config))
    if found:
        yield Piece(
            f"Minus {baseline_of(tasks, config)}, both judged on the same patients in each resample; p of no "
            "difference in AUROC is corrected for all tasks and models (Holm).",
            [
                {"task": task.name, "model": model}
                | {ALL_METRICS[m].title: _shown(of.get(m)) for m in MAIN}
                | {"p of AUROC": _p(holm.get(("model", task.name, model, None, None)))}
                for task, model, _, of in found
            ],
        )


def _warnings(tasks: Sequence[TaskJudged], config: JudgeConfig) -> Iterator[str]:
    rarer = {task.name: min(task.positives, task.n - task.positives) for task in tasks}
    few = [f"{name} ({count})" for name, count in rarer.items() if count < config.few_positives]
    if few:
        yield (
            '<p class="note"><strong>Too little data to judge a model.</strong> Fewer than '
            f"{config.few_positives} held-out rows of the rarer class: {escape(', '.join(few))}.</p>"
        )


def _of_task(
    task: TaskJudged, config: JudgeConfig, holm: Mapping[Key, float | None]
) -> Iterator[Piece]:
    if not task.models:
        return
    yield Piece("Every metric.", _every_metric(task))
    undefined = _undefined(task)
    if undefined:
        yield Piece("What is undefined, and why.", undefined)
    tuned = {model: judged for model, judged in task.models.items() if judged.untuned is None}
    for model, judged in task.models.items():
        if judged.untuned is not None:
            yield Piece(f"{model} was not recalibrated, and has no sets: {judged.untuned}.", [])
    if any(len(judged.ways) > 1 for judged in tuned.values()):
        yield Piece(
            "Recalibration, fitted on the tuning rows: before, after, and what it moved.",
            [row for model, judged in tuned.items() for row in _recalibrated(model, judged)],
        )
    if config.misses and tuned:
        yield Piece(
            "Conformal sets, fitted on the tuning rows: how often they hold the outcome, which is promised "
            "over all rows (marginal) or within either class (by class) where held-out rows are drawn as "
            "tuning rows are, and how many outcomes they hold.",
            [row for model, judged in tuned.items() for row in _sets(model, judged)],
        )
    for model, judged in task.models.items():
        if judged.groups:
            yield Piece(
                f"{model}: groups, as known at the prediction time, and AUROC and mean calibration error "
                "(ECE) minus those of all other rows, with p of no difference in AUROC, corrected for all "
                "groups, tasks and models (Holm). Groups of fewer than "
                f"{config.groups.least} patients are not told, nor one that they could be told from.",
                _groups(judged, partial(_group_p, holm, task.name, model)),
            )


def _every_metric(task: TaskJudged) -> list[dict[str, object]]:
    return [
        {"metric": metric.heading}
        | {
            model: shown_score(judged.ways[NONE].scores.get(name))
            for model, judged in task.models.items()
        }
        for name, metric in ALL_METRICS.items()
    ]


def _undefined(task: TaskJudged) -> list[dict[str, object]]:
    return [
        {"model": model, "metric": ALL_METRICS[name].title, "why": reason}
        for model, judged in task.models.items()
        for name, reason in judged.ways[NONE].reasons.items()
    ]


def _recalibrated(model: str, judged: Judged) -> Iterator[dict[str, object]]:
    for way, scored in judged.ways.items():
        yield {"model": model, "recalibration": way} | {
            _title(m): shown_score(scored.scores.get(m)) for m in MOVED
        }
        if way != NONE:
            found = judged.against(way)
            yield {"model": "", "recalibration": f"{way} - none"} | {
                _title(m): _shown(found.get(m)) for m in MOVED
            }


def _sets(model: str, judged: Judged) -> Iterator[dict[str, object]]:
    for (method, miss), of in judged.sets.items():
        shown = {
            title: None if of[m].value != of[m].value else shown_score(of[m])
            for m, title in _SETS.items()
        }
        yield {"model": model, "sets": _METHODS[method], "promised": f"{1 - miss:g}", **shown}


def _group_p(
    holm: Mapping[Key, float | None], task: str, model: str, group: str, level: str
) -> float | None:
    return holm.get(("group", task, model, group, level))


def _groups(judged: Judged, p_of: Callable[[str, str], float | None]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for group, level, scored, against in judged.groups:
        row: dict[str, object] = {"group": group, "level": level}
        if scored is None:
            rows.append(row | {"patients": "not told"})
            continue
        row |= {"patients": scored.patients, "rows": scored.n, "positives": scored.positives}
        row |= _main(scored)
        for m, title in (("auroc", "AUROC - rest"), ("ece", "ECE - rest")):
            row[title] = _shown(against.get(m))
        rows.append(row | {"p of AUROC": _p(p_of(group, level))})
    return sorted(rows, key=lambda row: "rows" not in row)  # a whole row first: it has the header


def _main(scored: Scored) -> dict[str, object]:
    return {_title(m): shown_score(scored.scores.get(m)) for m in MAIN}


def _shown(found: Compared | None) -> str | None:
    return None if found is None else shown_interval(found.difference, found.lower, found.upper)


def _p(p: float | None) -> str | None:
    return None if p is None else f"{p:.3f}"


def _title(metric: str) -> str:
    found = ALL_METRICS[metric]
    return found.title if found.higher_is_better or found.ideal is not None else f"{found.title} ↓"
