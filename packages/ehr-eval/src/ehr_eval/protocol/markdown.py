"""The report's tables as Markdown, for a manuscript or a pull request."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ehr_eval.protocol.config import EhrshotConfig
from ehr_eval.protocol.evaluation import AUROC, Evaluation, shares
from ehr_eval.protocol.grouped import by_group, by_shots, told_groups
from ehr_eval.protocol.groups import ALL, members
from ehr_eval.protocol.paired import pair_rows
from ehr_eval.protocol.pairs import Compared
from ehr_eval.protocol.published import Published
from ehr_eval.protocol.shown import (
    BEST,
    TITLES,
    most_shots,
    settings_of,
    shown_score,
    shown_shots,
)
from ehr_tracking.contracts import HELD_OUT
from ehr_tracking.report import markdown_table


def write_markdown(
    directory: Path,
    evaluations: Sequence[Evaluation],
    config: EhrshotConfig,
    groups: Sequence[Mapping[str, Any]],
    compared: Compared,
    published: Published | None,
) -> None:
    """Write report.md: scores by task, groups, pairs, what could not be evaluated.

    Args:
        directory: Of the results.
        evaluations: One a task.
        config: The protocol as it was run.
        groups: Rows of `groups.parquet`.
        compared: Models in pairs.
        published: Numbers of others.
    """
    most = most_shots(config)
    inside = members(config.groups, [evaluation.task for evaluation in evaluations])
    parts = [
        "# Few-shot evaluation",
        f"{TITLES[AUROC]} with 95% intervals over patients, {shown_shots(most)}.",
        *_tables("Tasks", list(_tasks(evaluations, most))),
    ]
    parts += _tables(
        "Share of the way from chance to the best possible",
        list(shares(evaluations, settings_of(evaluations, most))),
    )
    if inside:
        parts.append(f"{told_groups(inside)}.")
    for metric in (AUROC, "auprc", "brier"):
        parts += _tables(f"{TITLES[metric]}, means over tasks", by_group(groups, most, metric))
    if published is not None:
        for metric in (AUROC, "auprc"):
            rows = published.table(inside, metric)
            parts += _tables(f"Published, {TITLES[metric]}", rows)
    parts += _tables("AUROC by shots, mean over all tasks", by_shots(groups, ALL, AUROC))
    for group in inside:
        parts += _tables(f"AUROC by shots, {group}", by_shots(groups, group, AUROC))
    parts += _tables("Models in pairs", pair_rows(compared, most))
    problems = [{"task": e.task, "why": e.problem} for e in evaluations if e.problem]
    parts += _tables("Not evaluated", problems)
    (directory / "report.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _tables(title: str, rows: Sequence[Mapping[str, object]]) -> list[str]:
    return [f"## {title}", markdown_table(rows)] if rows else []


def _tasks(evaluations: Sequence[Evaluation], most: int) -> Iterator[dict[str, object]]:
    settings = settings_of(evaluations, most)
    for evaluation in evaluations:
        rows, positives = evaluation.sizes[HELD_OUT]
        scores = {f"{s.model} {s.head}": shown_score(evaluation.mean(s, AUROC)) for s in settings}
        best = {} if evaluation.best is None else {BEST: f"{evaluation.best.value:.3f}"}
        yield {"task": evaluation.task, "n": rows, "positive": positives, **scores, **best}
