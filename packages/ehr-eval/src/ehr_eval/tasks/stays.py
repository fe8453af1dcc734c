"""From starts and ends to stays: paired by id where there is one, by order of time else."""

import numpy as np
import numpy.typing as npt
import polars as pl

NO_END, NO_START = "no end is recorded", "no start is recorded"
REVERSED = "ends before it starts"
CONTINUES = "continues the one before it"

_KEY = ["subject_id", "time"]
_SPAN = ["subject_id", "start", "end", "died"]
_NEVER = np.iinfo(np.int64).min


def pair(marks: pl.DataFrame) -> pl.DataFrame:
    """Match starts with ends.

    Those of one id belong together: the first start, the last end. Of what has no id, or an id of
    which only one side is recorded, an end belongs to the start right before it, if no other start
    comes between and not both have an id. At one time an end comes before a start, which is a
    transfer, where something is open to be ended; else both are a stay of one moment.

    Args:
        marks: subject_id, time (no nulls), id (null where there is none), opens, closes, died: whether
            an end is a death; in any order.

    Returns:
        subject_id, start, end, died; start or end is null where it is not recorded.
    """
    of_id = (
        marks.filter(pl.col("id").is_not_null())
        .group_by("subject_id", "id")
        .agg(
            start=pl.col("time").filter("opens").min(),
            end=pl.col("time").filter("closes").max(),
            died=(pl.col("closes") & pl.col("died")).any(),
        )
    )
    whole = of_id.filter(pl.col("start").is_not_null() & pl.col("end").is_not_null())
    left = marks.join(whole, on=["subject_id", "id"], how="anti", nulls_equal=False)
    between = whole.select(
        "subject_id",
        time="start",
        id="id",
        opens=pl.lit(False),
        closes=pl.lit(False),
        died=pl.lit(False),
    )
    ordered = _by_order(pl.concat([left.select(between.columns), between]))
    # the same start or end, recorded once more without its id
    for side in ("start", "end"):
        other = "end" if side == "start" else "start"
        alone = ordered.filter(pl.col(other).is_null())
        extra = alone.join(whole, on=["subject_id", side], how="semi")
        ordered = ordered.join(extra, on=_SPAN, how="anti", nulls_equal=True)
    return pl.concat([whole.select(_SPAN), ordered]).sort(_SPAN, nulls_last=True)


def _by_order(marks: pl.DataFrame) -> pl.DataFrame:
    """Stays of marks in order of time, each time as a whole; what neither opens nor closes parts them."""
    free = pl.col("id").is_null()
    both = pl.col("opens") & pl.col("closes")
    times = (
        marks.group_by(_KEY)
        .agg(
            pl.col("opens").any(),
            pl.col("closes").any(),
            died=(pl.col("closes") & pl.col("died")).any(),
            free_start=(pl.col("opens") & free).any(),
            free_end=(pl.col("closes") & free).any(),
        )
        .sort(_KEY)
        .with_columns(leaves_open=pl.when(~both).then("opens"))
        .with_columns(
            is_open=pl.col("leaves_open")
            .shift(1)
            .forward_fill()
            .over("subject_id")
            .fill_null(False),
            before=pl.col("time").shift(1).over("subject_id"),
            fits=pl.col("free_start").shift(1).over("subject_id") | pl.col("free_end"),
        )
        .with_columns(
            ends=pl.col("closes") & pl.col("is_open") & pl.col("fits"),
            moment=both & ~pl.col("is_open"),
        )
        .with_columns(ended=pl.col("ends").shift(-1).over("subject_id").fill_null(False))
    )
    never = pl.lit(None, times.schema["time"])
    return pl.concat(
        times.filter(kind).select("subject_id", start=start, end=end, died=died)
        for kind, start, end, died in (
            (pl.col("ends"), pl.col("before"), pl.col("time"), pl.col("died")),
            (pl.col("moment"), pl.col("time"), pl.col("time"), pl.col("died")),
            (
                pl.col("opens") & ~pl.col("moment") & ~pl.col("ended"),
                pl.col("time"),
                never,
                pl.lit(False),
            ),
            (
                pl.col("closes") & ~pl.col("moment") & ~pl.col("ends"),
                never,
                pl.col("time"),
                pl.col("died"),
            ),
        )
    )


def join_touching(spans: pl.DataFrame, *, hours: float) -> pl.DataFrame:
    """Make one of stays that follow each other within a gap, as transfers do.

    A stay continues the one that ends last of those that began before it, if that has ended and is
    no death. Stays that overlap remain two.

    Args:
        spans: From `pair`.
        hours: The longest gap.

    Returns:
        subject_id, start, end, died, and `fault`: null for a stay, else why it is none.
    """
    reversed_ = (pl.col("end") < pl.col("start")).fill_null(False)
    odd = pl.col("start").is_null() | reversed_
    aside = spans.filter(odd).with_columns(
        fault=pl.when(pl.col("start").is_null()).then(pl.lit(NO_START)).otherwise(pl.lit(REVERSED))
    )
    kept = spans.filter(~odd).sort("subject_id", "start", "end", "died", nulls_last=True)
    first = _firsts(kept, round(hours * 3_600_000_000))
    kept = kept.with_columns(first=pl.Series(first, dtype=pl.Int64)).with_row_index("row")
    whole = pl.col("end").is_not_null().all()
    joined = (
        kept.group_by("first")
        .agg(
            pl.col("subject_id").first(),
            pl.col("start").min(),
            end=pl.when(whole).then(pl.col("end").max()),
            died=pl.col("died").any(),
        )
        .with_columns(fault=pl.when(pl.col("end").is_null()).then(pl.lit(NO_END)))
        .drop("first")
    )
    parts = kept.filter(pl.col("row") != pl.col("first")).with_columns(fault=pl.lit(CONTINUES))
    columns = [*_SPAN, "fault"]
    found = pl.concat([joined.select(columns), parts.select(columns), aside.select(columns)])
    return found.sort(columns, nulls_last=True)


def _firsts(spans: pl.DataFrame, gap: int) -> npt.NDArray[np.int64]:
    """[S] the row of the first of the stays that each one is a part of.

    Args:
        spans: [S] sorted by subject and start.
        gap: In microseconds.
    """
    row = np.arange(spans.height)
    subject = spans["subject_id"].to_numpy()
    start = spans["start"].dt.epoch("us").to_numpy()
    ends = pl.Series("end", spans["end"].dt.epoch("us").fill_null(_NEVER), pl.Int64)
    latest = pl.DataFrame([spans["subject_id"], ends]).select(
        pl.col("end").cum_max().over("subject_id")
    )["end"]
    # the row that holds the latest end so far: the last one at which that end is reached
    holder = np.maximum.accumulate(np.where(ends.to_numpy() == latest.to_numpy(), row, -1))
    before = np.concatenate([[-1], holder[:-1]])[: len(row)]
    end, died = ends.to_numpy()[before], spans["died"].to_numpy()[before]
    ended = (before >= 0) & (subject[before] == subject) & (end != _NEVER) & ~died
    pause = np.where(ended, start - np.where(ended, end, start), -1)
    first = np.where(ended & (pause >= 0) & (pause <= gap), before, row)
    while not np.array_equal(first, first[first]):
        first = first[first]
    return first.astype(np.int64)
