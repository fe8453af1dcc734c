"""Values by task, as means over the groups of tasks that results tell of."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import polars as pl

from ehr_eval.compare.seeds import GROUP, PAIR, SEEDS
from ehr_eval.judge.metrics.ranked import Floats
from ehr_eval.protocol.groups import ALL, OF_GROUPS, members

Value = TypeVar("Value", float, Floats)


def parts_of(
    tasks: Sequence[str], groups: Mapping[str, Sequence[str]]
) -> dict[str, list[list[str]]]:
    """Group -> lists of tasks: its value is the mean over the lists of the mean over each.

    Args:
        tasks: That have a value.
        groups: Group -> patterns, of the config.

    Examples:
        >>> parts_of(["lab_a", "lab_b", "died"], {"labs": ["lab_*"], "ends": ["d*"]})["mean of groups"]
        [['lab_a', 'lab_b'], ['died']]
    """
    inside = members(groups, tasks)
    found = {group: [part] for group, part in inside.items()} | {ALL: [list(tasks)]}
    return found | ({OF_GROUPS: list(inside.values())} if len(inside) > 1 else {})


def over_groups(
    found: Mapping[str, Value], groups: Mapping[str, Sequence[str]]
) -> dict[str, Value]:
    """Group -> unweighted mean, as `groups.parquet` has it.

    Args:
        found: Task -> a value, or [B] values.
        groups: Group -> patterns, of the config.

    Examples:
        >>> {group: float(mean) for group, mean in over_groups({"lab_a": 1.0, "died": 0.0}, {"labs": ["lab_*"]}).items()}
        {'labs': 1.0, 'all tasks': 0.5}
    """
    return {
        group: np.mean([np.mean([found[task] for task in part], axis=0) for part in parts], axis=0)
        for group, parts in parts_of(list(found), groups).items()
    }


def with_groups(pairs: pl.DataFrame, groups: Mapping[str, Sequence[str]]) -> pl.DataFrame:
    """Differences by task, and of the means over the tasks of each group.

    Args:
        pairs: From `pairs_of_seeds`.
        groups: Group -> patterns, of the config.

    Returns:
        The same columns; bounds of groups are null.
    """
    key = [name for name in (*PAIR, *SEEDS) if name not in ("level", "task")]
    rows: list[dict[str, object]] = []
    for of, part in pairs.group_by(key, maintain_order=True):
        named = dict.fromkeys(pairs.columns) | dict(zip(key, of, strict=True)) | {"level": GROUP}
        means = {
            name: over_groups(dict(zip(part["task"], part[name], strict=True)), groups)
            for name in ("model_auroc", "other_auroc", "difference")
        }
        rows += [
            named | {"task": group} | {name: mean[group] for name, mean in means.items()}
            for group in means["difference"]
        ]
    return pl.concat([pairs, pl.DataFrame(rows, pairs.schema)])
