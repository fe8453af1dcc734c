"""Intervals of means over seeds, tasks and pairs: percentiles of these means in each bootstrap draw of patients.

All models are judged in the same draws, so that seeds, and the two sides of a difference, are brought together draw by
draw. So are tasks: those of exactly the same held-out patients share their draws; to any others, since EHRSHOT's draws are
of places in the sorted patients, a draw of the same number is as if independent, as EHRSHOT's interval of a group takes all to be.

B bootstrap draws.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from ehr_eval.compare.grouped import over_groups
from ehr_eval.compare.opened import Artifact
from ehr_eval.compare.seeds import CELL, GROUP, PAIR, SEEDS, TASK, model_of
from ehr_eval.compare.shares import SHARE, best
from ehr_eval.judge.bootstrap import Interval, interval
from ehr_eval.judge.metrics import METRICS
from ehr_eval.judge.metrics.ranked import Floats
from ehr_eval.protocol.best import CHANCE
from ehr_eval.protocol.cell import Setting
from ehr_eval.protocol.draws import DRAWS, read_best, read_draws
from ehr_eval.protocol.evaluation import AUROC

Drawn = Mapping[Setting, Mapping[str, Floats]]
"""Model with its seed, head and k -> task -> [B]."""
_OF_PAIR = tuple(name for name in PAIR if name not in ("level", "task"))
_BOUNDS: dict[str, pl.DataType] = {"lower": pl.Float64(), "upper": pl.Float64()}


def draw_files(item: Artifact) -> dict[str, Path]:
    """Task -> its draws; none of results that were made before these were kept."""
    names = (name for name in item.manifest.files if name.startswith(f"{DRAWS}/"))
    return {
        name.removeprefix(f"{DRAWS}/").removesuffix(".safetensors"): item.file(name)
        for name in names
    }


def score_bounds(name: str, item: Artifact, files: Mapping[str, Path]) -> pl.DataFrame:
    """Of every score over seeds.

    Args:
        name: Of the results.
        item: They themselves.
        files: From `draw_files`.

    Returns:
        `CELL`, lower, upper.
    """
    groups, found = item.manifest.config["groups"], []
    for metric in METRICS:  # one at a time: all of a large run would be some gigabytes
        drawn = _drawn(files, metric)
        found += [(name, *row) for row in _bounds(drawn, metric, groups)]
        if metric == AUROC:
            shares = _shares(drawn, files, [t for t, auroc in best(item).items() if auroc > CHANCE])
            found += [(name, *row) for row in _bounds(shares, SHARE, groups)]
    schema: dict[str, pl.DataType] = dict.fromkeys(CELL, pl.String()) | {"k": pl.Int64()}
    return pl.DataFrame(found, schema | _BOUNDS, orient="row")


def difference_bounds(
    pairs: pl.DataFrame, files: Mapping[str, Path], groups: Mapping[str, Sequence[str]]
) -> pl.DataFrame:
    """Of every difference of AUROC between two models, by task and for groups of tasks.

    Args:
        pairs: From `pairs_of_seeds`, of the results that have these draws.
        files: From `draw_files`.
        groups: Group -> patterns of tasks, of the config.

    Returns:
        `PAIR`, lower, upper.
    """
    drawn, found = _drawn(files, AUROC), []
    for key, part in pairs.group_by(_OF_PAIR, maintain_order=True):
        named = dict(zip(_OF_PAIR, key, strict=True))
        apart: dict[tuple[str, str], dict[str, Floats]] = {}
        for row in part.to_dicts():
            ours, theirs = (
                drawn[Setting(row[seed], row[head], row["k"])][row["task"]]
                for seed, head in zip(SEEDS, ("head", "other_head"), strict=True)
            )
            apart.setdefault((row["seed"], row["other_seed"]), {})[row["task"]] = ours - theirs
        found += [
            {"level": level, "task": task, **named, **bounds._asdict()}
            for level, task, bounds in _over(list(apart.values()), groups)
        ]
    schema = {name: pairs.schema[name] for name in PAIR} | _BOUNDS
    return pl.DataFrame(found, schema)


def with_bounds(table: pl.DataFrame, bounds: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """A table with these bounds in place of its own."""
    joined = table.drop("lower", "upper").join(bounds, on=key, how="left", maintain_order="left")
    return joined.select(table.columns)


def _drawn(files: Mapping[str, Path], metric: str) -> Drawn:
    found: dict[Setting, dict[str, Floats]] = {}
    for task, path in files.items():
        for setting, draws in read_draws(path, metric).items():
            found.setdefault(setting, {})[task] = draws
    return found


def _shares(aurocs: Drawn, files: Mapping[str, Path], tasks: Sequence[str]) -> Drawn:
    """The way from chance to the best possible in each draw; NaN where that is no better than chance."""
    known = {task: b for task in tasks if (b := read_best(files[task])) is not None}
    way = {task: np.where(b > CHANCE, b - CHANCE, np.nan) for task, b in known.items()}
    found = {
        setting: {task: (of[task] - CHANCE) / way[task] for task in of if task in way}
        for setting, of in aurocs.items()
    }
    return {setting: of for setting, of in found.items() if of}


def _bounds(
    drawn: Drawn, metric: str, groups: Mapping[str, Sequence[str]]
) -> Iterator[tuple[object, ...]]:
    """level, task, model, head, k, metric, lower, upper."""
    models: dict[Setting, list[Mapping[str, Floats]]] = {}
    for setting, of in drawn.items():
        models.setdefault(setting._replace(model=model_of(setting.model)), []).append(of)
    for setting, seeds in models.items():
        for level, task, bounds in _over(seeds, groups):
            yield (level, task, *setting, metric, *bounds)


def _over(
    seeds: Sequence[Mapping[str, Floats]], groups: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, str, Interval]]:
    """Level, task or group, and the interval of the mean over seeds of [B] by task."""
    grouped = [over_groups(seed, groups) for seed in seeds]
    for level, found in ((TASK, seeds), (GROUP, grouped)):
        for task in dict.fromkeys(name for seed in found for name in seed):
            mean = np.mean([seed[task] for seed in found if task in seed], axis=0)
            yield level, task, interval(mean)
