"""How far from chance to the best possible AUROC a model gets, where results know the best risk: one more metric."""

from typing import Any

import polars as pl

from ehr_eval.compare.grouped import over_groups, parts_of
from ehr_eval.compare.opened import Artifact
from ehr_eval.compare.seeds import GROUP, TASK
from ehr_eval.protocol.best import share
from ehr_eval.protocol.evaluation import AUROC

SHARE = "share_of_best"
"""Name of the metric."""
_TABLE = "best.parquet"
_SETTING = ("results", "model", "head", "k")


def best(item: Artifact) -> dict[str, float]:
    """Task -> AUROC of the best possible risk; none where results know of none."""
    return {} if (table := best_table(item)) is None else dict(table["task", "value"].iter_rows())


def best_table(item: Artifact) -> pl.DataFrame | None:
    """`best.parquet`; None where results were made before it."""
    return item.table(_TABLE) if _TABLE in item.manifest.files else None


def share_scores(scores: pl.DataFrame, item: Artifact) -> pl.DataFrame:
    """Rows of the metric `SHARE` for those of AUROC by task, and for groups of tasks.

    Args:
        scores: `CELL`, value, lower, upper, n, positives; `model` with its seed.
        item: The results that they are of.

    Returns:
        The same columns, bounds null.
    """
    known = best(item)
    found: list[dict[str, Any]] = []
    by_setting: dict[tuple[str | int, ...], dict[str, float]] = {}
    for row in scores.filter(level=TASK, metric=AUROC).drop_nulls("value").to_dicts():
        reached = share(row["value"], known[row["task"]]) if row["task"] in known else None
        if reached is not None:
            found.append(row | {"metric": SHARE, "value": reached, "lower": None, "upper": None})
            setting = tuple(row[name] for name in _SETTING)
            by_setting.setdefault(setting, {})[row["task"]] = reached
    groups = item.manifest.config["groups"]
    for setting, of in by_setting.items():
        sizes = {g: sum(map(len, parts)) for g, parts in parts_of(list(of), groups).items()}
        for group, mean in over_groups(of, groups).items():
            told = {
                "level": GROUP,
                "task": group,
                "metric": SHARE,
                "value": mean,
                "n": sizes[group],
            }
            named = dict(zip(_SETTING, setting, strict=True))
            found.append({**dict.fromkeys(scores.columns), **named, **told})
    return pl.DataFrame(found, scores.schema)
