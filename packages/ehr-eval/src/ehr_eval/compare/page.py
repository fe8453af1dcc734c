"""The page of a comparison, which a person reads."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import polars as pl

from ehr_eval.compare.calibration import calibration
from ehr_eval.compare.costs import Cost, by_model
from ehr_eval.compare.curves import share_curve, shot_curves
from ehr_eval.compare.facts import tasks
from ehr_eval.compare.models import model_rows
from ehr_eval.compare.opened import Artifact, Given
from ehr_eval.compare.seeds import GROUP, TASK, without_seed
from ehr_eval.compare.shares import SHARE, best
from ehr_eval.compare.shown import (
    SHARE_HEADING,
    by_shots,
    by_task,
    each,
    leaders,
    legend,
    scores_table,
)
from ehr_eval.compare.tables import Tables, baseline, most_shots, rows
from ehr_eval.compare.verdict import audit_section
from ehr_eval.compare.zeroshot import zeroshot_section
from ehr_eval.protocol.evaluation import AUROC
from ehr_eval.protocol.groups import ALL
from ehr_eval.protocol.shown import lineage, shown_interval, shown_k, shown_shots
from ehr_tracking.manifest import ancestry
from ehr_tracking.report import html_page, table

_FILES = (
    "The same as tables: leaderboard.csv (the most shots, all metrics), curves.csv (all shots), differences.csv (every "
    "two models), costs.csv, leaderboard.md; methods.md has what a methods section needs."
)


def write_page(
    directory: Path, tables: Tables, given: Given, costs: Sequence[Cost], title: str
) -> None:
    """Write page.html, one file that needs no other, and plots/.

    Args:
        directory: Of the artifact.
        tables: Over seeds.
        given: What is compared.
        costs: Measured.
        title: Plain text.
    """
    plots = directory / "plots"
    body = [f"<p>{escape(told)}</p>" for told in legend(given)]
    for name, item, ending in each(given):
        told = escape(ending)
        body += [
            f"<h2>Leaderboard{told}</h2>",
            f"<p>Means over tasks, heads {shown_shots(most_shots(item))}.</p>",
            scores_table(leaders(tables, name, item)),
            "<h3>AUROC by task</h3>",
            scores_table(by_task(tables, name, item)),
            *_few(tables, name, item),
            *_not_evaluated(given, item),
            *_share(plots, tables, name, item, ending),
            f"<h2>AUROC against the number of shots{told}</h2>",
            *shot_curves(plots, tables, name, item),
            f"<h2>Where {escape(baseline(item))} is better{told}</h2>",
            *_behind(tables, name, item),
            *_in_pairs(tables, name, item, ending),
            *zeroshot_section(tables, name, item, ending),
            f"<h2>Calibration{told}</h2>",
            f"<p>Held-out rows, heads {shown_shots(most_shots(item))}, ten bins of about equally many rows; those of all "
            "seeds of a model together.</p>",
            *calibration(plots, name, item),
        ]
    body += [*audit_section(given), *_models(given), *_costs(given, costs)]
    body += [*_lineage(given), f"<p>{_FILES}</p>"]
    (directory / "page.html").write_text(html_page(title, body), encoding="utf-8")


def _share(plots: Path, tables: Tables, name: str, item: Artifact, ending: str) -> Iterator[str]:
    """How far to the best possible, where that is known."""
    found = by_shots(tables, name, SHARE)
    if found:
        yield f"<h2>{SHARE_HEADING}{escape(ending)}</h2>"
        yield (
            "<p>(AUROC - 0.5) / (AUROC of the best possible risk - 0.5): 0 is chance, 1 the best that any model of the "
            f"record can reach. Means over {escape(', '.join(best(item)))}, by shots of each class.</p>"
        )
        yield scores_table(found)
        yield from share_curve(plots, tables, name, item)


def _few(tables: Tables, name: str, item: Artifact) -> Iterator[str]:
    """A warning of tasks on which no model can be judged."""
    few = int(item.manifest.config["few_positives"])
    sizes = {
        row["task"]: min(row["positives"], row["n"] - row["positives"])
        for row in rows(tables.scores, results=name, level=TASK, metric=AUROC)
        if row["positives"] is not None
    }
    small = [f"{task} ({count})" for task, count in sizes.items() if count < few]
    if small:
        yield (
            f'<p class="note"><strong>Too little data to judge a model.</strong> Fewer than {few} held-out rows of '
            f"the rarer class: {escape(', '.join(small))}.</p>"
        )


def _not_evaluated(given: Given, item: Artifact) -> Iterator[str]:
    """Tasks without a score, and why, as far as results and labels tell."""
    scores = item.table("results.parquet")
    why = scores.filter(pl.col("reason").is_not_null()).with_columns(without_seed("model"))
    why = why.unique(["task", "metric", "reason", "model"], maintain_order=True)
    for one in ("model", "metric", "task"):  # rows that differ in this alone become one
        others = [name for name in ("task", "metric", "model", "reason") if name != one]
        why = why.group_by(others, maintain_order=True).agg(pl.col(one).str.join(", "))
    found: list[dict[str, object]] = why.select("task", "metric", "model", why="reason").to_dicts()
    labels = given.labels_of(item)
    asked = item.manifest.config["tasks"]
    if labels is not None and asked is None:
        there = set(scores["task"])
        found += [
            {
                "task": task,
                "metric": "all",
                "model": "all",
                "why": "not in the results; their report has why",
            }
            for task in tasks(labels)
            if task not in there
        ]
    if found:
        yield "<p>What could not be evaluated:</p>"
        yield table(found)


def _behind(tables: Tables, name: str, item: Artifact) -> Iterator[str]:
    compared = rows(tables.differences, results=name, level=TASK, other=baseline(item))
    if not compared:
        yield (
            f'<p class="note">There is nothing to compare: <code>{escape(baseline(item))}</code> was not evaluated. A score '
            "means little without a baseline.</p>"
        )
        return
    worse = [row for row in compared if row["difference"] < 0]
    clear = [row for row in worse if row["upper"] is not None and row["upper"] < 0]
    ahead = sum(row["lower"] is not None and row["lower"] > 0 for row in compared)
    yield (
        f"<p>Of {len(compared):,} comparisons (model, head, task, k) the baseline has the higher AUROC in "
        f"<strong>{len(worse):,}</strong>, in {len(clear):,} of these with an interval that excludes 0; a model is ahead with "
        f"such an interval in {ahead:,}. Intervals are paired by patient; they cover neither the draw of the shots nor "
        "the number of comparisons.</p>"
    )
    yield table(_worse_by_k(compared))
    yield f"<details><summary>The {len(clear):,} whose interval excludes 0</summary>"
    yield scores_table([_difference(row) for row in clear])
    yield f"</details><details><summary>All {len(worse):,}</summary>"
    yield scores_table([_difference(row) for row in worse])
    yield "</details>"


def _in_pairs(tables: Tables, name: str, item: Artifact, ending: str) -> Iterator[str]:
    """The mean over tasks of every two models, at the most shots."""
    most = most_shots(item)
    found = rows(tables.differences, results=name, level=GROUP, task=ALL, k=most)
    if found:
        yield f"<h2>Models in pairs{escape(ending)}</h2>"
        yield f"<p>Difference in AUROC, model less other: means over tasks, {shown_shots(most)}; intervals paired by patient.</p>"
        yield scores_table(
            [
                {
                    "model": f"{row['model']} {row['head']}",
                    "other": f"{row['other']} {row['other_head']}",
                    "difference": shown_interval(row["difference"], row["lower"], row["upper"]),
                    "pairs of seeds ahead": f"{row['ahead']} of {row['pairs']}",
                }
                for row in found
            ]
        )


def _worse_by_k(compared: Sequence[Mapping[str, Any]]) -> list[dict[str, object]]:
    """A row a model and head, a column a k: on how many of its tasks the baseline is better."""
    ks = sorted({row["k"] for row in compared}, key=lambda k: (k == -1, k))
    found: dict[tuple[str, str], dict[int, list[bool]]] = {}
    for row in compared:
        of_model = found.setdefault((row["model"], row["head"]), {})
        of_model.setdefault(row["k"], []).append(row["difference"] < 0)
    return [
        {"model": model, "head": head}
        | {shown_k(k): f"{sum(of[k])}\u00a0of\u00a0{len(of[k])}" if k in of else None for k in ks}
        for (model, head), of in found.items()
    ]


def _difference(row: Mapping[str, Any]) -> dict[str, object]:
    return {
        "task": row["task"],
        "model": row["model"],
        "head": row["head"],
        "baseline head": row["other_head"],
        "k": shown_k(row["k"]),
        "model AUROC": f"{row['model_auroc']:.3f}",
        "baseline AUROC": f"{row['other_auroc']:.3f}",
        "difference": shown_interval(row["difference"], row["lower"], row["upper"]),
        "seeds not ahead": f"{row['pairs'] - row['ahead']} of {row['pairs']}",
    }


def _models(given: Given) -> Iterator[str]:
    if given.runs:
        yield "<h2>Models</h2>"
        yield table(model_rows(given))


def _costs(given: Given, costs: Sequence[Cost]) -> Iterator[str]:
    yield "<h2>Cost</h2>"
    yield (
        '<p class="note">Measured: seconds and memory differ from run to run, and so do the fingerprints of runs and '
        "results, which hold them; nothing else on this page does. Means over seeds. Heads are fitted over all tasks "
        "and shots.</p>"
    )
    yield scores_table(by_model(given, costs))
    yield f"<details><summary>All {len(costs):,} that were measured</summary>"
    yield table([{k: v for k, v in cost._asdict().items() if k != "source"} for cost in costs])
    yield "</details>"


def _lineage(given: Given) -> Iterator[str]:
    """What was read, the raw data behind it, and the whole tree."""
    yield "<h2>Lineage</h2>"
    found = given.sources.items()
    yield table(
        [
            {"input": r, "is": s.contract, "by": s.producer, "fingerprint": s.fingerprint}
            for r, s in found
        ]
    )
    raw = {s.fingerprint: s.contract for _, s in ancestry(given.sources) if not s.inputs}
    told = ", ".join(f"{escape(is_)} <code>{f[:16]}</code>" for f, is_ in sorted(raw.items()))
    yield f"<p>All of it was made from: {told}.</p>"
    yield "<details><summary>Each input with what it was made from</summary>"
    yield lineage(given.sources)
    yield "</details>"
