"""One subject under two ids: records that are the same but for their dates, or nearly.

A record is the set of its events, each as code, value and the time since the events before: moving all
dates changes none, and one event that is missing changes few. Two records are compared by the share that they have in
common (Jaccard); who is compared with whom is found by the least hashes of each (Broder, 1997).
"""

from collections.abc import Iterable, Iterator

import polars as pl

from ehr_eval.audit.found import Finding, Skipped, ids
from ehr_eval.audit.inputs import Inputs, unrolled

_SKETCH = 64
"""Least hashes of a record that are compared first."""
_COMMON = 50
"""An event that more records have says nothing of who it is."""
_SHARED = 3
"""Least hashes that two records share before they are compared as a whole."""


def duplicate_subjects(inputs: Inputs) -> Iterator[Finding]:
    """Pairs of subjects whose records are one."""
    if inputs.given.meds is not None:
        where, records = "meds", pl.concat([_hashed(events) for events in inputs.events()])
    elif inputs.given.tokens is not None:
        where = "tokens"
        parts = [
            unrolled(frame, "token", "time").select(
                "subject_id", "time", code="token", numeric_value=pl.lit(None)
            )
            for _, frame in inputs.token_shards()
        ]
        records = pl.concat(map(_hashed, parts))
    else:
        raise Skipped("needs --meds or --tokens")
    pairs = same_records(records, overlap=inputs.config.overlap, least=inputs.config.events)
    if not pairs.height:
        return
    split = inputs.splits
    placed = pairs.join(split, left_on="one", right_on="subject_id").join(
        split, left_on="other", right_on="subject_id", suffix="_of_other"
    )
    across = placed.filter(pl.col("split") != pl.col("split_of_other")).height
    exact = int((pairs["overlap"] == 1).sum())
    yield Finding(
        where,
        f"{pairs.height:,} pairs of subjects have the same record ({exact:,} event by event, but for their dates; the "
        f"others to {inputs.config.overlap:.0%} or more); {across:,} of them lie across splits",
        pairs.height,
        subjects=ids([*pairs["one"], *pairs["other"]]),
    )


def _hashed(events: pl.DataFrame) -> pl.DataFrame:
    """Distinct subject_id, hash of the events with a time, births apart: their dates are often cut."""
    timed = events.filter(pl.col("time").is_not_null())
    if timed.schema["code"] == pl.String:
        timed = timed.filter(~pl.col("code").str.contains("^MEDS_BIRTH"))
    moments = timed.select("subject_id", "time").unique().sort("subject_id", "time")
    gaps = moments.with_columns(
        gap=pl.col("time").diff().over("subject_id").fill_null(pl.duration())
    )
    return (
        timed.join(gaps, on=["subject_id", "time"])
        .select("subject_id", hash=pl.struct("code", "numeric_value", "gap").hash(seed=0))
        .unique()
    )


def same_records(records: pl.DataFrame, *, overlap: float, least: int) -> pl.DataFrame:
    """Pairs of subjects whose sets of events overlap.

    Args:
        records: subject_id, hash: each pair once.
        overlap: Least share, of all events of both, that both have.
        least: Distinct events below which a record is never one of a pair.

    Returns:
        one, other (the greater id) and their overlap.

    Examples:
        >>> frame = pl.DataFrame({"subject_id": [1, 1, 1, 2, 2, 2, 3], "hash": [5, 6, 7, 5, 6, 7, 5]})
        >>> same_records(frame, overlap=0.8, least=2).rows()
        [(1, 2, 1.0)]
    """
    sizes = records.group_by("subject_id").agg(n=pl.len()).filter(pl.col("n") >= least)
    records = records.join(sizes.select("subject_id"), on="subject_id", how="semi")
    telling = records.filter(pl.len().over("hash").is_between(2, _COMMON))
    least_hashes = (
        telling.sort("subject_id", "hash").group_by("subject_id", maintain_order=True).head(_SKETCH)
    )
    pairs = (
        _pairs(least_hashes).filter(pl.col("shared") >= min(_SHARED, least)).select("one", "other")
    )
    who = pl.concat([pairs["one"], pairs["other"]]).unique()
    near = records.filter(pl.col("subject_id").is_in(who.implode()))
    shared = (
        pairs.join(near.rename({"subject_id": "one"}), on="one")
        .join(near.rename({"subject_id": "other"}), on=["other", "hash"])
        .group_by("one", "other")
        .agg(shared=pl.len())
    )
    n = dict(sizes.iter_rows())
    union = [n[a] + n[b] - both for a, b, both in shared.iter_rows()]
    found = shared.with_columns(overlap=pl.col("shared") / pl.Series(union, dtype=pl.Float64))
    return found.filter(pl.col("overlap") >= overlap).drop("shared").sort("one", "other")


def _pairs(records: pl.DataFrame) -> pl.DataFrame:
    """one, other, shared: pairs of subjects with a hash in common, and how many."""
    both = records.join(records, on="hash", suffix="_of_other")
    named: Iterable[pl.Expr] = (
        pl.col("subject_id").alias("one"),
        pl.col("subject_id_of_other").alias("other"),
    )
    return (
        both.select(*named)
        .filter(pl.col("one") < pl.col("other"))
        .group_by("one", "other")
        .agg(shared=pl.len())
    )
