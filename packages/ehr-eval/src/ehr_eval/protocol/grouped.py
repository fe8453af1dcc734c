"""The report's part on groups of tasks: tables by k, curves, published numbers beside them."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ehr_eval.protocol.config import EhrshotConfig
from ehr_eval.protocol.curves import draw_tasks
from ehr_eval.protocol.evaluation import AUROC, Evaluation
from ehr_eval.protocol.groups import ALL, members
from ehr_eval.protocol.published import Published
from ehr_eval.protocol.shown import TITLES, most_shots, shown_k, shown_shots
from ehr_tracking.report import figure, table

_METRICS = (AUROC, "auprc", "brier")
"""EHRSHOT's."""


def by_group(rows: Sequence[Mapping[str, Any]], k: int, metric: str) -> list[dict[str, object]]:
    """A row a model and head, a column a group, with half of each interval."""
    found: dict[tuple[str, str], dict[str, object]] = {}
    groups = dict.fromkeys(row["group"] for row in rows)
    for row in rows:
        if (row["k"], row["metric"]) == (k, metric):
            name = row["model"], row["head"]
            start: dict[str, object] = {"model": name[0], "head": name[1], **dict.fromkeys(groups)}
            found.setdefault(name, start)[row["group"]] = _with_half(row)
    return list(found.values())


def by_shots(rows: Sequence[Mapping[str, Any]], group: str, metric: str) -> list[dict[str, object]]:
    """A row a model and head, a column a k, of one group."""
    inside = [row for row in rows if (row["group"], row["metric"]) == (group, metric)]
    ks = sorted({row["k"] for row in inside}, key=lambda k: (k == -1, k))
    found: dict[tuple[str, str], dict[str, object]] = {}
    for row in inside:
        name = row["model"], row["head"]
        start: dict[str, object] = {"model": name[0], "head": name[1]}
        start |= {shown_k(k): None for k in ks}
        found.setdefault(name, start)[shown_k(row["k"])] = _with_half(row)
    return list(found.values())


def _with_half(row: Mapping[str, Any]) -> str:
    value = f"{row['value']:.3f}"
    return value if row["upper"] is None else f"{value} ± {row['upper'] - row['value']:.3f}"


def group_section(
    directory: Path,
    evaluations: Sequence[Evaluation],
    rows: Sequence[Mapping[str, Any]],
    config: EhrshotConfig,
    published: Published | None,
) -> Iterator[str]:
    """Tables of the groups; nothing where no task is in one."""
    inside = members(config.groups, [evaluation.task for evaluation in evaluations])
    if not inside:
        return
    most = most_shots(config)
    yield "<h2>Groups of tasks</h2>"
    yield (
        f"<p>{escape(told_groups(inside))}. Unweighted means over tasks ± half of the 95% interval over "
        f"patients, 1.96 sqrt(sum of variances) / tasks; {shown_shots(most)}.</p>"
    )
    for metric in _METRICS:
        found = by_group(rows, most, metric)
        if found:
            yield f"<h3>{escape(TITLES[metric])}</h3>"
            yield table(found)
    if published is not None:
        yield from _published(published, list(inside))
    yield "<h3>AUROC by shots</h3>"
    for number, (group, tasks) in enumerate(inside.items()):
        part = [evaluation for evaluation in evaluations if evaluation.task in tasks]
        if any(e.means for e in part):
            path = directory / "plots" / "groups" / f"{number}.png"
            points = published.points(group, AUROC) if published else {}
            draw_tasks(path, part, config, group, points)
            told = "; crosses at all rows are published" if points else ""
            yield figure(path, f"{group}: mean over {len(part)} tasks{told}")
    for group in (*inside, ALL):
        yield f"<details><summary>{escape(group)}</summary>"
        yield table(by_shots(rows, group, AUROC))
        yield "</details>"


def told_groups(inside: Mapping[str, Sequence[str]]) -> str:
    """Each group with its tasks."""
    return "; ".join(f"{group}: {', '.join(tasks)}" for group, tasks in inside.items())


def _published(published: Published, groups: Sequence[str]) -> Iterator[str]:
    for metric in (AUROC, "auprc"):
        rows = published.table(groups, metric)
        if rows:
            yield f"<h3>Published, {escape(TITLES[metric])}, all training rows</h3>"
            yield (
                '<p class="note">Read from a file and measured by others, on other tools and maybe '
                "other rows: to compare orders of magnitude, not to win by a third decimal.</p>"
            )
            yield table(rows)
