"""From events to the things that are counted: codes, ancestors, value bins.

Fitted on the train split alone: only what train subjects have gets a number.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from ehr_eval.counts.config import CountsConfig


@dataclass(frozen=True, slots=True)
class Things:
    """What is counted, by number."""

    names: list[str]
    """Of each counted thing: a code, an ancestor, or `code//Q<bin>`."""
    members: pl.DataFrame
    """code, item: which numbers an event of a code counts for."""
    edges: Mapping[str, list[float]]
    """Code -> inner edges of its bins; a bin holds its lower edge."""
    bins: pl.DataFrame
    """code, lower, item: the lower bound of each bin, -inf for the first; sorted by it."""


def fit_things(
    files: Iterable[pl.DataFrame],
    train: pl.Series,
    parents: Mapping[str, list[str | None] | None],
    config: CountsConfig,
) -> Things:
    """Number the codes and value bins of train subjects.

    Args:
        files: Events, one file after the other.
        train: Train subjects.
        parents: Code -> the codes above it.
        config: Whether there are ancestors, and how many bins.
    """
    codes: set[str] = set()
    values: list[pl.DataFrame] = []
    for file in files:
        events = file.filter(pl.col("subject_id").is_in(train.implode()))
        codes.update(events["code"].unique())
        values.append(finite(events).select("code", "numeric_value"))
    edges = quantile_edges(pl.concat(values), config) if config.bins > 1 and values else {}
    above = parents if config.ontology else {}
    member = [(code, name) for code in sorted(codes) for name in ancestors(code, above)]
    names = sorted({name for _, name in member})
    number = {name: i for i, name in enumerate(names)}
    cells = [(c, lower) for c in edges for lower in (-np.inf, *edges[c])]
    for code in edges:
        names += [f"{code}//Q{b + 1}" for b in range(len(edges[code]) + 1)]
    return Things(
        names=names,
        members=pl.DataFrame(
            [(code, number[name]) for code, name in member],
            schema={"code": pl.String, "item": pl.Int32},
            orient="row",
        ),
        edges=edges,
        bins=pl.DataFrame(
            [(c, lower, len(number) + i) for i, (c, lower) in enumerate(cells)],
            schema={"code": pl.String, "lower": pl.Float32, "item": pl.Int32},
            orient="row",
        ).sort("lower"),
    )


def finite(events: pl.DataFrame) -> pl.DataFrame:
    """The events with a value that is a number."""
    return events.filter(pl.col("numeric_value").is_finite())


def quantile_edges(values: pl.DataFrame, config: CountsConfig) -> dict[str, list[float]]:
    """Inner edges of each code's bins; a code whose values do not differ has none.

    Args:
        values: code, numeric_value (finite).
        config: `bins` and `min_values`.

    Examples:
        >>> table = pl.DataFrame({"code": ["A"] * 4, "numeric_value": [1.0, 2.0, 3.0, 4.0]})
        >>> quantile_edges(table, CountsConfig(bins=2, min_values=4))
        {'A': [3.0]}
    """
    edges = {}
    for (code,), group in values.sort("code", "numeric_value").group_by(
        "code", maintain_order=True
    ):
        if group.height < config.min_values:
            continue
        ranks = np.arange(1, config.bins) * group.height // config.bins
        found = np.unique(group["numeric_value"].to_numpy()[ranks])
        found = found[found > group["numeric_value"][0]]
        if len(found):
            edges[str(code)] = [float(x) for x in found]
    return edges


def ancestors(code: str, parents: Mapping[str, list[str | None] | None]) -> Iterator[str]:
    """The code and everything above it, each once; cycles end where they began.

    Examples:
        >>> list(ancestors("a.1", {"a.1": ["a"], "a": ["root", "a.1"], "root": None}))
        ['a.1', 'a', 'root']
    """
    seen = [code]
    for name in seen:
        seen += [p for p in parents.get(name) or [] if p is not None and p not in seen]
    yield from seen


def items(events: pl.DataFrame, things: Things) -> pl.DataFrame:
    """subject_id, time, item: one row for each thing that an event counts for.

    Events of codes that train subjects do not have count for nothing.
    """
    keep = ["subject_id", "time", "item"]
    found = events.join(things.members, on="code", how="inner").select(keep)
    binned = (
        finite(events)
        .sort("numeric_value")
        .join_asof(
            things.bins,
            left_on="numeric_value",
            right_on="lower",
            by="code",
            check_sortedness=False,
        )
        .filter(pl.col("item").is_not_null())
    )
    return pl.concat([found, binned.select(keep)])
