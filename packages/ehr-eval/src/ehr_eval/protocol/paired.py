"""The report's part on models in pairs."""

from collections.abc import Iterator, Mapping
from typing import Any

from ehr_eval.protocol.config import EhrshotConfig
from ehr_eval.protocol.pairs import Compared
from ehr_eval.protocol.shown import most_shots, shown_interval, shown_k, shown_shots
from ehr_tracking.report import table

_NOTE = (
    "Difference in AUROC, model minus other: mean over tasks, with EHRSHOT's interval of a group. A task "
    "counts as clear where the paired bootstrap's p, corrected for all tasks of the pair by Holm's method, "
    "is below .05. Neither covers the draw of the shots."
)


def pair_rows(compared: Compared, k: int) -> list[dict[str, object]]:
    """A row a pair at one k."""
    return [_pair(row) for row in compared.pairs if row["k"] == k]


def _pair(row: Mapping[str, Any]) -> dict[str, object]:
    return {
        "model": _named(row["model"], row["head"]),
        "other": _named(row["baseline"], row["baseline_head"]),
        "tasks": row["tasks"],
        "wins": row["wins"],
        "losses": row["losses"],
        "win rate": f"{row['win_rate']:.2f}",
        "clear wins": row["clear_wins"],
        "clear losses": row["clear_losses"],
        "difference": shown_interval(row["difference"], row["lower"], row["upper"]),
    }


def _named(model: str, head: str) -> str:
    return f"{model} {head}"


def pair_section(compared: Compared, config: EhrshotConfig) -> Iterator[str]:
    """Win rates over tasks, and each task; nothing where there is no pair."""
    if not compared.pairs:
        return
    most = most_shots(config)
    yield "<h2>Models in pairs</h2>"
    yield f"<p>{_NOTE} Here {shown_shots(most)}; comparisons.parquet and pairs.parquet have every k.</p>"
    yield table(pair_rows(compared, most))
    yield "<details><summary>By task</summary>"
    yield table([_task(row) for row in compared.tasks if row["k"] == most])
    yield "</details>"
    yield "<details><summary>Win rates by shots</summary>"
    yield table(_rates(compared))
    yield "</details>"


def _task(row: Mapping[str, Any]) -> dict[str, object]:
    return {
        "task": row["task"],
        "model": _named(row["model"], row["head"]),
        "other": _named(row["baseline"], row["baseline_head"]),
        "difference": shown_interval(row["difference"], row["lower"], row["upper"]),
        **{name: row[key] for name, key in (("p", "p"), ("Holm", "p_holm"), ("BH", "p_bh"))},
    }


def _rates(compared: Compared) -> list[dict[str, object]]:
    ks = sorted({row["k"] for row in compared.pairs}, key=lambda k: (k == -1, k))
    found: dict[tuple[str, str], dict[str, object]] = {}
    for row in compared.pairs:
        key = _named(row["model"], row["head"]), _named(row["baseline"], row["baseline_head"])
        start: dict[str, object] = {"model": key[0], "other": key[1]}
        start |= {shown_k(k): None for k in ks}
        found.setdefault(key, start)[shown_k(row["k"])] = f"{row['win_rate']:.2f}"
    return list(found.values())
