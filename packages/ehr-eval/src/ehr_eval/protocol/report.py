"""The page a person reads: scores beside the baseline's, and where the baseline is better."""

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ehr_eval.judge.metrics import METRICS
from ehr_eval.protocol.config import EhrshotConfig
from ehr_eval.protocol.curves import auroc_curves, share_of_best
from ehr_eval.protocol.decisions import confusion_matrices
from ehr_eval.protocol.evaluation import (
    AUROC,
    Evaluation,
    over_tasks,
)
from ehr_eval.protocol.grouped import group_section
from ehr_eval.protocol.paired import pair_section
from ehr_eval.protocol.pairs import Compared
from ehr_eval.protocol.published import Published
from ehr_eval.protocol.shown import (
    BEST,
    TITLES,
    lineage,
    most_shots,
    settings_of,
    shown_interval,
    shown_k,
    shown_mean,
    shown_score,
    shown_shots,
)
from ehr_tracking.config import to_dict
from ehr_tracking.contracts import HELD_OUT, SPLITS
from ehr_tracking.manifest import Source
from ehr_tracking.report import html_page, table


def write_report(
    directory: Path,
    evaluations: Sequence[Evaluation],
    config: EhrshotConfig,
    inputs: Mapping[str, Source],
    groups: Sequence[Mapping[str, Any]],
    compared: Compared,
    published: Published | None,
) -> None:
    """Write report.html, one file that needs no other, and plots/*.png.

    Args:
        directory: Of the results.
        evaluations: One a task.
        config: The protocol as it was run.
        groups: Rows of `groups.parquet`.
        compared: Models in pairs.
        published: Numbers of others, to show beside groups of the same name.
        inputs: What the results were made from, with their lineage.
    """
    body = [
        *_summary(evaluations, config),
        *share_of_best(directory, evaluations, config),
        *group_section(directory, evaluations, groups, config, published),
        *auroc_curves(directory, evaluations, config),
        *_honest(compared, config),
        *pair_section(compared, config),
        *_details(evaluations, config),
        *confusion_matrices(evaluations),
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
            for s in settings_of([evaluation], most_shots(config))
        }
        known = {name: score.value for name, score in found.items() if score is not None}
        scores = {name: known.get(name) for name in found}
        if evaluation.best is not None:
            scores[BEST] = evaluation.best.value
        highest = max(known, key=lambda name: known[name]) if known else None
        rows.append({"task": evaluation.task, **sizes, **scores, "highest": highest})
    yield (
        f"<p>AUROC on the held-out split, {shown_shots(most_shots(config))}. Under each split: rows "
        "(of which positive).</p>"
    )
    yield table(rows)
    overall = []
    for setting in settings_of(evaluations, most_shots(config)):
        means = {m: over_tasks(evaluations, setting, m) for m in METRICS}
        shown = {TITLES[m]: shown_mean(v) for m, v in means.items()}
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


def _honest(pairs: Compared, config: EhrshotConfig) -> Iterator[str]:
    yield "<h2>Where the count baseline is better</h2>"
    compared = pairs.with_baseline(config.baseline)
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
        "k": shown_k(row["k"]),
        "model AUROC": row["model_auroc"],
        "baseline AUROC": row["baseline_auroc"],
        "difference": shown_interval(row["difference"], row["lower"], row["upper"]),
    }


def _heads(row: Mapping[str, Any]) -> str:
    return f"{row['head']}, baseline {row['baseline_head']}"


def _details(evaluations: Sequence[Evaluation], config: EhrshotConfig) -> Iterator[str]:
    yield f"<h2>Scores, {shown_shots(most_shots(config))}</h2>"
    for evaluation in evaluations:
        if evaluation.problem:
            continue
        n, positives = evaluation.sizes[HELD_OUT]
        yield f"<h3>{escape(evaluation.task)}</h3>"
        yield f"<p>{n} held-out rows, {positives} positive. 95% intervals over patients.</p>"
        rows = []
        for setting in settings_of([evaluation], most_shots(config)):
            means = evaluation.means[setting]
            scores = {TITLES[m]: shown_score(means[m]) for m in METRICS}
            rows.append({"model": setting.model, "head": setting.head, **scores})
        yield table(rows)


def _not_evaluated(evaluations: Sequence[Evaluation]) -> Iterator[str]:
    reasons: dict[tuple[str, str], set[str]] = {
        (e.task, e.problem): set(METRICS) for e in evaluations if e.problem and not e.rows
    }
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
        yield table(
            [{**cell._asdict(), "k": shown_k(cell.k), "grid point": p} for cell, p in found]
        )


def _what_was_run(config: EhrshotConfig, inputs: Mapping[str, Source]) -> Iterator[str]:
    yield "<h2>What was run</h2>"
    yield (
        "<p>EHRSHOT's few-shot protocol: for each k and replicate, k rows of each class are drawn "
        "from train to fit on and from tuning to choose hyperparameters on; every head is judged on "
        f"the whole of held_out. Splits: {', '.join(SPLITS)}, by subject.</p>"
    )
    yield "<p>Inputs, each with what it was made from:</p>"
    yield lineage(inputs)
    yield f"<pre>{escape(json.dumps(to_dict(config), indent=1))}</pre>"
