"""The tables of a comparison: scores over seeds, and the differences between models."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from ehr_eval.compare.grouped import with_groups
from ehr_eval.compare.opened import Artifact, Given
from ehr_eval.compare.resampled import difference_bounds, draw_files, score_bounds, with_bounds
from ehr_eval.compare.seeds import (
    CELL,
    GROUP,
    PAIR,
    TASK,
    differences,
    over_seeds,
    pairs_of_seeds,
)
from ehr_eval.compare.shares import share_scores

_FIRST = ("value", "lower", "upper", "n", "positives")


class Tables(NamedTuple):
    """Over seeds."""

    scores: pl.DataFrame
    """Of every task and group of tasks, at every k, by every metric."""
    differences: pl.DataFrame
    """Of AUROC, by task and for groups of tasks, for every two models."""


def read_tables(given: Given) -> Tables:
    """Read the results and bring seeds together.

    Raises:
        ContractError: If a table is not as it was sealed.
    """
    found = [_read(name, item, _ranked(given)) for name, item in given.results.items()]
    return Tables(
        pl.concat(one.scores for one in found), pl.concat(one.differences for one in found)
    )


def most_shots(item: Artifact) -> int:
    """The k with the most rows, of results."""
    ks = item.manifest.config["ks"]
    return -1 if -1 in ks else max(ks)


def at_most_shots(table: pl.DataFrame, given: Given) -> pl.DataFrame:
    """The rows that were fitted on the most shots of their results."""
    most = {name: most_shots(item) for name, item in given.results.items()}
    return table.filter(
        pl.col("k") == pl.col("results").replace_strict(most, return_dtype=pl.Int64)
    )


def write_tables(directory: Path, tables: Tables, given: Given) -> dict[str, int]:
    """Write leaderboard.csv (the most shots), curves.csv (every k) and differences.csv.

    Returns:
        File -> rows.
    """
    written: Mapping[str, pl.DataFrame] = {
        "leaderboard.csv": at_most_shots(tables.scores, given),
        "curves.csv": tables.scores,
        "differences.csv": tables.differences,
    }
    for name, table in written.items():
        table.write_csv(directory / name)
    return {name: table.height for name, table in written.items()}


def baseline(item: Artifact) -> str:
    """The features that every model of results is compared with."""
    return str(item.manifest.config["baseline"])


def rows(table: pl.DataFrame, **named: Any) -> list[dict[str, Any]]:  # noqa: ANN401 -- of any column
    """Those rows whose columns have these values, as dictionaries."""
    return table.filter(**named).to_dicts()


def _ranked(given: Given) -> list[str]:
    """Models in order of evaluation, baselines last: they are what others are compared with."""
    last = {baseline(item) for item in given.results.values()}
    return sorted(given.models, key=lambda name: name in last)


def _read(name: str, item: Artifact, ranked: list[str]) -> Tables:
    of_seeds = _scores(name, item)
    compared = item.table("comparisons.parquet").with_columns(results=pl.lit(name))
    pairs = pairs_of_seeds(compared, ranked)
    groups, files = item.manifest.config["groups"], draw_files(item)
    found = Tables(over_seeds(of_seeds), differences(with_groups(pairs, groups)))
    if not files:
        return found
    return Tables(
        with_bounds(found.scores, score_bounds(name, item, files), CELL),
        with_bounds(found.differences, difference_bounds(pairs, files, groups), PAIR),
    )


def _scores(name: str, item: Artifact) -> pl.DataFrame:
    tasks = item.table("results.parquet").filter(replicate=-1).with_columns(level=pl.lit(TASK))
    groups = item.table("groups.parquet").rename({"group": "task", "tasks": "n"})
    groups = groups.with_columns(level=pl.lit(GROUP), positives=pl.lit(None, pl.Int64))
    both = [
        table.with_columns(results=pl.lit(name)).select(*CELL, *_FIRST) for table in (tasks, groups)
    ]
    scores = pl.concat(both)
    return pl.concat([scores, share_scores(scores, item)])
