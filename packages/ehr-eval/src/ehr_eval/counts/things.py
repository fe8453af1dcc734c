"""From events to the things that are counted: codes, ancestors, value bins.

Fitted on the train split alone: only what train subjects have gets a number. E events, I items.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from ehr_eval.counts.config import CountsConfig
from ehr_eval.counts.measures import Measures, fit_measures, measured

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Things:
    """What is counted, by number."""

    names: list[str]
    """Of each counted thing: a code, an ancestor, or `<measure>//Q<bin>`."""
    codes: pl.DataFrame
    """code, number: those that train has, from 0."""
    offsets: Ints
    """[codes + 1]"""
    members: Ints
    """What an event of code c counts for: members[offsets[c]:offsets[c + 1]]."""
    measures: Measures
    bounds: Ints
    """Ascending: each inner edge of a bin, as `_sortable` with its measure."""
    first_bin: Ints
    """[measures] number of the first bin; -1 for none."""


@dataclass(frozen=True, slots=True, eq=False)
class Occurrences:
    """That things were there, in any order."""

    event: Ints
    """Which row of the events."""
    item: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Values:
    """The values that train knows the measure of, in any order."""

    event: Ints
    """Which row of the events."""
    measure: Ints
    value: npt.NDArray[np.float32]


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
    found: set[str] = set()
    values: list[pl.DataFrame] = []
    for file in files:
        events = file.filter(pl.col("subject_id").is_in(train.implode()))
        found.update(events["code"].unique())
        if config.bins > 1 or config.trends:
            values.append(measured(events, config).select("code", "unit", "numeric_value"))
    empty = pl.DataFrame(schema={"code": pl.String, "unit": pl.String, "numeric_value": pl.Float32})
    measures = fit_measures(pl.concat([empty, *values]), config)
    codes = sorted(found)
    above = parents if config.ontology else {}
    lines = [list(ancestors(code, above)) for code in codes]
    names = sorted({name for line in lines for name in line})
    number = {name: i for i, name in enumerate(names)}
    first_bin, bounds = np.full(len(measures.names), -1, np.int64), [np.zeros(0, np.int64)]
    for m, name in enumerate(measures.names):
        edges = measures.edges.get(name)
        if edges:
            first_bin[m] = len(names)
            bounds.append(_sortable(np.full(len(edges), m), np.array(edges, np.float32)))
            names += [f"{name}//Q{b + 1}" for b in range(len(edges) + 1)]
    return Things(
        names=names,
        codes=pl.DataFrame(
            {"code": codes, "number": np.arange(len(codes))},
            {"code": pl.String, "number": pl.Int64},
        ),
        offsets=np.cumsum([0, *map(len, lines)]),
        members=np.array([number[name] for line in lines for name in line], np.int64),
        measures=measures,
        bounds=np.concatenate(bounds),
        first_bin=first_bin,
    )


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


def occurrences(codes: pl.Series, values: Values, things: Things) -> Occurrences:
    """What each event counts for; nothing where train subjects do not have its code.

    Args:
        codes: [E]
        values: Of these events, for the bins.
        things: What is counted.
    """
    numbered = codes.to_frame("code").join(
        things.codes, on="code", how="left", maintain_order="left"
    )
    code = numbered["number"].fill_null(-1).to_numpy()
    event = np.flatnonzero(code >= 0)
    code = code[event]
    first, length = things.offsets[code], np.diff(things.offsets)[code]
    ends = np.cumsum(length)
    member = np.repeat(first - (ends - length), length) + np.arange(ends[-1] if len(ends) else 0)
    binned = things.first_bin[values.measure] >= 0
    measure, value = values.measure[binned], values.value[binned]
    start = np.searchsorted(things.bounds, measure << 32)
    above = np.searchsorted(things.bounds, _sortable(measure, value), side="right") - start
    return Occurrences(
        np.concatenate([np.repeat(event, length), values.event[binned]]),
        np.concatenate([things.members[member], things.first_bin[measure] + above]),
    )


def values_of(events: pl.DataFrame, things: Things, config: CountsConfig) -> Values:
    """The values of some events.

    Args:
        events: [E]
        things: Their measures.
        config: `units`.
    """
    found = measured(events.with_row_index("event"), config).join(
        things.measures.of, on=["code", "unit"], maintain_order="left"
    )
    return Values(
        found["event"].to_numpy().astype(np.int64),
        found["measure"].to_numpy().astype(np.int64),
        found["numeric_value"].to_numpy().astype(np.float32),
    )


def _sortable(measure: Ints, values: npt.NDArray[np.float32]) -> Ints:
    """One number for each (measure, value), in the order of both.

    Examples:
        >>> found = _sortable(np.array([0, 0, 0, 1]), np.array([-2, -1, 3, -9], np.float32))
        >>> bool((np.diff(found) > 0).all())
        True
    """
    bits = (values + np.float32(0)).view(np.uint32).astype(np.int64)  # -0 as 0
    return (measure << 32) + np.where(bits >> 31, 0xFFFFFFFF - bits, bits + 0x80000000)
