"""The leaderboard as Markdown, for a manuscript."""

from pathlib import Path

from ehr_eval.compare.opened import Given
from ehr_eval.compare.shares import SHARE
from ehr_eval.compare.shown import SHARE_HEADING, by_shots, by_task, each, leaders, legend
from ehr_eval.compare.tables import Tables, most_shots
from ehr_eval.protocol.shown import shown_shots
from ehr_tracking.report import markdown_table


def write_leaderboard(path: Path, tables: Tables, given: Given) -> None:
    """Write leaderboard.md: means over tasks, then task by task.

    Args:
        path: The file.
        tables: Over seeds.
        given: What is compared.
    """
    parts = ["# Leaderboard", *legend(given)]
    for name, item, ending in each(given):
        parts += [
            f"## Means over tasks{ending}",
            f"Heads {shown_shots(most_shots(item))}.",
            markdown_table(leaders(tables, name, item)),
            f"## AUROC by task{ending}",
            markdown_table(by_task(tables, name, item)),
        ]
        shares = by_shots(tables, name, SHARE)
        if shares:
            parts += [f"## {SHARE_HEADING}, by shots{ending}", markdown_table(shares)]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
