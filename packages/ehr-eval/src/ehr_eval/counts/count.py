"""Count the past of (subject, prediction time) rows: the arithmetic of the count features.

Shapes: `R` rows, `P` pairs of a row and a thing that its subject has.
"""

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse

from ehr_eval.counts.config import CountsConfig
from ehr_eval.counts.things import Things, items

Ints = npt.NDArray[np.int64]

PAIRS = 4_000_000
"""Pairs that are held at a time."""
DAY_US = 86_400_000_000
YEAR_DAYS = 365.25
BIRTH = "^MEDS_BIRTH"


def column_names(names: list[str], config: CountsConfig) -> list[str]:
    """The columns before any is left out: age, then each thing over each window.

    Examples:
        >>> column_names(["A"], CountsConfig(windows_days=(1.0, 365.0)))
        ['age', 'A|1d', 'A|365d', 'A|any']
    """
    windows = [f"{days:g}d" for days in config.windows_days] + ["any"]
    return ["age", *(f"{thing}|{window}" for thing in names for window in windows)]


def count_rows(
    events: pl.DataFrame, rows: pl.DataFrame, things: Things, config: CountsConfig
) -> sparse.csr_matrix:
    """Count the past of some rows; a pure function of the events up to each prediction time.

    Args:
        events: Of whole subjects, at least those of `rows`; in any order.
        rows: [R] subject_id, prediction_time, sorted.
        things: What is counted.
        config: The windows.

    Returns:
        [R, columns] float32, columns as in `column_names`.
    """
    subject = rows["subject_id"].to_numpy()
    at = rows["prediction_time"].dt.epoch("us").to_numpy()
    events = events.filter(pl.col("subject_id").is_in(rows["subject_id"].unique().implode()))
    counted = items(events, things).sort("subject_id", "item", "time", nulls_last=False)
    clock = _Clock(counted["time"])
    groups = counted.group_by("subject_id", "item", maintain_order=True).len()
    size = groups["len"].to_numpy().astype(np.int64)
    key = np.repeat(np.arange(len(size)), size) * clock.ticks + clock.of_events
    bounds = np.concatenate([[0], np.cumsum(size)])
    owner, item = groups["subject_id"].to_numpy(), groups["item"].to_numpy()
    begin, end = np.searchsorted(owner, subject, "left"), np.searchsorted(owner, subject, "right")
    width = 1 + len(things.names) * (len(config.windows_days) + 1)
    parts = []
    for start, stop in _chunks(end - begin, PAIRS):
        n = (end - begin)[start:stop]
        row = np.repeat(np.arange(start, stop), n)
        group = np.repeat(begin[start:stop] - (np.cumsum(n) - n), n) + np.arange(n.sum())
        upto = _place(key, group * clock.ticks + clock.after(at)[row])
        since = [
            _place(key, group * clock.ticks + clock.after(at - int(days * DAY_US))[row])
            for days in config.windows_days
        ]
        counts = np.stack([upto - s for s in (*since, bounds[group])], axis=1)
        parts.append(_to_csr(counts, row, item[group], (rows.height, width)))
    total = sum(parts, sparse.csr_matrix((rows.height, width), dtype=np.float32))
    return (total + _ages(events, rows, width)).tocsr()


class _Clock:
    """Times as small integers in their order, so that (group, time) fits one sorted key."""

    def __init__(self, times: pl.Series) -> None:
        static = np.iinfo(np.int64).min  # before every prediction time, outside every window
        values = times.dt.epoch("us").fill_null(static).to_numpy()
        self._known, self.of_events = np.unique(values, return_inverse=True)
        self.ticks = len(self._known) + 1

    def after(self, time: Ints) -> Ints:
        """The first tick that is later than `time`."""
        return np.searchsorted(self._known, time, side="right").astype(np.int64)


def _place(key: Ints, query: Ints) -> Ints:
    return np.searchsorted(key, query, side="left").astype(np.int64)


def _chunks(pairs: Ints, budget: int) -> list[tuple[int, int]]:
    """Cut rows into runs of at most `budget` pairs, at least one row each.

    Examples:
        >>> _chunks(np.array([3, 3, 9, 1]), budget=6)
        [(0, 2), (2, 3), (3, 4)]
    """
    total = np.concatenate([[0], np.cumsum(pairs)])
    runs, start = [], 0
    while start < len(pairs):
        stop = max(start + 1, int(np.searchsorted(total, total[start] + budget, "right")) - 1)
        runs.append((start, stop))
        start = stop
    return runs


def _to_csr(
    counts: Ints, row: Ints, item: npt.NDArray[np.int32], shape: tuple[int, int]
) -> sparse.csr_matrix:
    pair, window = np.nonzero(counts)
    column = 1 + item[pair].astype(np.int64) * counts.shape[1] + window
    values = counts[pair, window].astype(np.float32)
    return sparse.csr_matrix((values, (row[pair], column)), shape=shape)


def _ages(events: pl.DataFrame, rows: pl.DataFrame, width: int) -> sparse.csr_matrix:
    """Column 0: years since birth; nothing where no birth is recorded by the prediction time."""
    born = (
        events.filter(pl.col("code").str.contains(BIRTH))
        .group_by("subject_id")
        .agg(born=pl.col("time").min())
    )
    elapsed = pl.col("prediction_time") - pl.col("born")
    age = rows.join(born, on="subject_id", how="left", maintain_order="left").select(
        (elapsed.dt.total_microseconds() / DAY_US / YEAR_DAYS).clip(0).fill_null(0.0)
    )
    values = age.to_series().to_numpy().astype(np.float32)
    index = np.flatnonzero(values)
    return sparse.csr_matrix(
        (values[index], (index, np.zeros(len(index), np.int64))), shape=(rows.height, width)
    )
