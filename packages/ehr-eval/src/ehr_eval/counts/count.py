"""Count the past of (subject, prediction time) rows: the arithmetic of the count features.

R rows, P pairs of a row and a thing that its subject has.
"""

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse

from ehr_eval.counts.config import CountsConfig
from ehr_eval.counts.past import DAY_US, STATIC, Ints, Pairs, Past
from ehr_eval.counts.things import Things, Values, occurrences, values_of
from ehr_eval.counts.trends import Trends, in_units, trend_names

BLOCK = 500_000
"""Events that are looked at together, of whole subjects."""
YEAR_DAYS = 365.25
BIRTH = "^MEDS_BIRTH"
_HOUR_US = 3_600_000_000
_LONGEST_HOURS = 100 * YEAR_DAYS * 24


def column_names(things: Things, config: CountsConfig) -> list[str]:
    """The columns before any is left out: age, each thing over each window, its recency, trends."""
    windows = [f"{days:g}d" for days in config.windows_days] + ["any"]
    names = ["age", *(f"{thing}|{window}" for thing in things.names for window in windows)]
    if config.recency:
        names += [f"{thing}|recency" for thing in things.names]
    return names + (trend_names(things.measures, config) if config.trends else [])


def count_rows(
    events: pl.DataFrame, rows: pl.DataFrame, things: Things, config: CountsConfig
) -> sparse.csr_matrix:
    """Count the past of some rows; a pure function of the events up to each prediction time.

    Args:
        events: Of whole subjects, at least those of `rows`; in any order.
        rows: [R] subject_id, prediction_time, sorted.
        things: What is counted.
        config: The windows, and what else is told.

    Returns:
        [R, columns] float32, columns as in `column_names`.
    """
    asked = rows["subject_id"].unique(maintain_order=True)
    subjects = pl.DataFrame({"subject_id": asked, "subject": np.arange(len(asked))})
    events = events.join(subjects, on="subject_id", maintain_order="left")
    subject = rows["subject_id"].rle_id().to_numpy().astype(np.int64)
    at = rows["prediction_time"].dt.epoch("us").to_numpy()
    size = np.bincount(events["subject"].to_numpy(), minlength=len(asked))
    block = np.cumsum(size) // BLOCK
    parts = []
    for number in np.unique(block):
        first, last = np.flatnonzero(block == number)[[0, -1]]
        mine = slice(*np.searchsorted(subject, [first, last + 1]))
        some = events.filter(pl.col("subject").is_between(first, last)).with_columns(
            pl.col("subject") - first
        )
        parts.append(_count_block(some, subject[mine] - first, at[mine], things, config))
    return sparse.vstack(parts, format="csr")


def _count_block(
    events: pl.DataFrame, subject: Ints, at: Ints, things: Things, config: CountsConfig
) -> sparse.csr_matrix:
    """[R, columns] of the rows of some subjects, numbered from 0."""
    values = values_of(events, things, config)
    blocks = [_ages(events, subject, at), *_counts(events, values, subject, at, things, config)]
    if config.trends and things.measures.names:
        blocks.append(_trends(events, values, subject, at, things, config))
    return sparse.hstack(blocks, format="csr")


def _counts(
    events: pl.DataFrame,
    values: Values,
    subject: Ints,
    at: Ints,
    things: Things,
    config: CountsConfig,
) -> list[sparse.csr_matrix]:
    """[R, things * windows], and where it is asked for [R, things] how recently each was there."""
    found, n = occurrences(events["code"], values, things), len(things.names)
    past = Past(*_when(events, found.event), found.item, items=n)
    time = past.time if config.recency else None
    counts, recent = [], []
    for pairs in past.pairs(subject, at, config.windows_days):
        number = np.stack([pairs.upto - since for since in pairs.since], axis=1)
        counts.append(_to_csr(number, pairs, n))
        if time is not None:
            recent.append(_to_csr(_recency(pairs, time, at)[:, None], pairs, n))
    return [sparse.vstack(each, format="csr") for each in (counts, recent) if each]


def _trends(
    events: pl.DataFrame,
    values: Values,
    subject: Ints,
    at: Ints,
    things: Things,
    config: CountsConfig,
) -> sparse.csr_matrix:
    """[R, measures * trends]; a value without a time belongs to none."""
    who, time = _when(events, values.event)
    dated, n = time != STATIC, len(things.measures.names)
    measure = values.measure[dated]
    scaled = in_units(values.value[dated], measure, things.measures)
    past = Past(who[dated], time[dated], measure, items=n, value=scaled)
    trends = Trends(past, config)
    parts = [_to_csr(trends.of(p), p, n) for p in past.pairs(subject, at, config.windows_days)]
    return sparse.vstack(parts, format="csr")


def _when(events: pl.DataFrame, event: Ints) -> tuple[Ints, Ints]:
    """Subject and time of some of the events."""
    time = events["time"].dt.epoch("us").fill_null(STATIC).to_numpy()
    return events["subject"].to_numpy()[event], time[event]


def _recency(pairs: Pairs, time: Ints, at: Ints) -> npt.NDArray[np.float32]:
    """[P] 1 at once, 0 for never or a hundred years ago, and equal steps for each factor of the time since."""
    there = pairs.upto > pairs.since[-1]
    last = time[np.maximum(pairs.upto - 1, 0)] if len(time) else np.zeros(len(there), np.int64)
    there &= last != STATIC
    hours = np.where(there, at[pairs.row] - last, 0) / _HOUR_US
    share = 1 - np.log1p(hours) / np.log1p(_LONGEST_HOURS)
    return np.where(there, np.maximum(share, 0), 0).astype(np.float32)


def _to_csr(values: npt.NDArray[np.generic], pairs: Pairs, items: int) -> sparse.csr_matrix:
    """[stop - start, items * C] of values [P, C], by row and item."""
    width = values.shape[1]
    pair, place = np.nonzero(values)
    stored = np.bincount(pairs.row[pair] - pairs.start, minlength=pairs.stop - pairs.start)
    return sparse.csr_matrix(
        (
            values[pair, place].astype(np.float32),
            (pairs.item[pair] * width + place).astype(np.int32),
            np.concatenate([[0], np.cumsum(stored)]),
        ),
        shape=(pairs.stop - pairs.start, items * width),
    )


def _ages(events: pl.DataFrame, subject: Ints, at: Ints) -> sparse.csr_matrix:
    """[R, 1] years since birth; nothing where no birth is recorded by the prediction time."""
    born = (
        events.filter(pl.col("code").str.contains(BIRTH))
        .group_by("subject")
        .agg(born=pl.col("time").min())
    )
    rows = pl.DataFrame({"subject": subject, "at": pl.Series(at).cast(pl.Datetime("us"))})
    age = rows.join(born, on="subject", how="left", maintain_order="left").select(
        ((pl.col("at") - pl.col("born")).dt.total_microseconds() / DAY_US / YEAR_DAYS)
        .clip(0)
        .fill_null(0.0)
    )
    return sparse.csr_matrix(age.to_numpy().astype(np.float32))
