"""When a task file asks, and of whom: moments of stays and records, and what leaves them out.

Rows have `known`: what has happened by then is history, what happens later may be the outcome. It is the
prediction time, but for tasks at the end of a day its last moment.
"""

import numpy as np
import polars as pl

from ehr_eval.tasks.config import LabelsConfig
from ehr_eval.tasks.draw import draw
from ehr_eval.tasks.files import StartConfig, TaskFile
from ehr_eval.tasks.labelers import LEFT_OUT, discharges, reasons
from ehr_eval.tasks.patterns import History
from ehr_eval.tasks.record import Record, years

ASKED = ["subject_id", "prediction_time", "known", "start", "end", LEFT_OUT]
ALREADY = "the outcome is there already"
_HOUR = 3_600_000_000
_MOMENT = pl.duration(microseconds=1)
_NEVER = pl.lit(None, pl.Datetime("us"))


def asked(record: Record, task: TaskFile, config: LabelsConfig) -> pl.DataFrame:
    """The rows of a task, `left_out` where one is none, and `recurrent`: the outcome has been there.

    Returns:
        subject_id, prediction_time, known, start and end (of the stay, null where there is none),
        left_out, recurrent; all times in microseconds.
    """
    rows = _shifted(_moments(record, task), task.start)
    rows = _history(_of_stays(rows, record, task), record, task)
    if task.start.at == "random":
        rows = _some(rows, task, config)
    return rows


def _moments(record: Record, task: TaskFile) -> pl.DataFrame:
    """subject_id, at, start, end, left_out."""
    start, course = task.start, record.course
    if start.at == "random":
        times = record.shared.times.rename({"time": "at"})
        return times.with_columns(start=_NEVER, end=_NEVER) if start.until is None else _in_stays(record)  # fmt: skip
    if start.at == "every":
        return _every(record, start)
    if start.until is None:
        return record.starts().select("subject_id", at="time", start="time", end=_NEVER)
    if start.at == "begin":
        return course.stays.with_columns(at="start", left_out="fault")
    if task.window == "next" or not start.alive:  # what follows says who lived on
        return course.stays.with_columns(at="end", left_out="fault")
    begun = course.stays.filter(pl.col("fault").is_null()).group_by("subject_id", at="end")
    starts = begun.agg(pl.col("start").min())
    rows = discharges(course).rename({"prediction_time": "at"}).with_columns(end="at")
    return rows.join(starts, on=["subject_id", "at"], how="left", maintain_order="left")


def _in_stays(record: Record) -> pl.DataFrame:
    """Moments of the record within stays."""
    stays = record.course.stays.filter(pl.col("fault").is_null())
    whole = stays.group_by("subject_id", "start").agg(pl.col("end").max()).sort("start")
    rows = record.shared.times.sort("time").join_asof(
        whole, left_on="time", right_on="start", by="subject_id", check_sortedness=False
    )
    return rows.filter(pl.col("time") < pl.col("end")).rename({"time": "at"})


def _every(record: Record, start: StartConfig) -> pl.DataFrame:
    """Moments that are `every_hours` apart, from the beginning of a stay, or record, to before its end."""
    if start.until is None:
        spans = record.shared.times.group_by("subject_id").agg(start=pl.col("time").min(), end=pl.col("time").max())  # fmt: skip
        spans = spans.with_columns(left_out=pl.lit(None, pl.String))
    else:
        spans = record.course.stays.with_columns(left_out="fault")
    whole = spans.filter(pl.col(LEFT_OUT).is_null())
    step = round((start.every_hours or 0) * _HOUR)
    lasts = (whole["end"] - whole["start"]).dt.total_microseconds().to_numpy()
    times = np.maximum(-(-(lasts - round(start.hours * _HOUR)) // step), 0)  # before the end
    row = np.repeat(np.arange(whole.height), times)
    nth = np.arange(len(row)) - np.repeat(np.cumsum(times) - times, times)
    after = pl.Series(nth * step).cast(pl.Duration("us"))
    every = whole[row].with_columns(at=pl.col("start") + after)
    return pl.concat([every, spans.filter(pl.col(LEFT_OUT).is_not_null()).with_columns(at="start")])


def _shifted(rows: pl.DataFrame, start: StartConfig) -> pl.DataFrame:
    """With prediction_time and known."""
    if LEFT_OUT not in rows.columns:
        rows = rows.with_columns(pl.lit(None, pl.String).alias(LEFT_OUT))
    shift = pl.duration(microseconds=round((start.hours * 60 - start.minutes_before) * 60_000_000))
    at = pl.col("at") + shift
    if start.end_of_day:
        day = at.dt.truncate("1d")
        rows = rows.with_columns(
            prediction_time=day + pl.duration(hours=23, minutes=59),
            known=day + pl.duration(days=1) - _MOMENT,
        )
    else:
        shown = at.dt.truncate("1m") if start.whole_minutes else at
        rows = rows.with_columns(prediction_time=shown, known=at)
    return rows.select(ASKED)


def _of_stays(rows: pl.DataFrame, record: Record, task: TaskFile) -> pl.DataFrame:
    """Left out: stays that are over or too short, and the dead."""
    start, known = task.start, pl.col("known")
    rows = rows.join(record.course.deaths, on="subject_id", how="left", maintain_order="left")
    given = [(pl.col(LEFT_OUT).is_not_null(), pl.col(LEFT_OUT))]
    if start.at != "end" and start.until is not None:
        given.append((pl.col("end") <= known, pl.lit("over by the prediction time")))
    if start.longer_than_hours is not None:
        lasts = pl.col("end") - pl.col("start")
        short = lasts <= pl.duration(microseconds=round(start.longer_than_hours * _HOUR))
        given.append((short, pl.lit("too short a stay")))
    if task.window != "next" and start.alive:
        given.append((pl.col("death") <= known, pl.lit("dead by the prediction time")))
    return rows.with_columns(reasons(*given)).select(ASKED)


def _history(rows: pl.DataFrame, record: Record, task: TaskFile) -> pl.DataFrame:
    """Left out by what has been, and `recurrent`."""
    start, known = task.start, pl.col("known")
    rows = rows.with_row_index("row")
    for more in (record.shared.spans, record.shared.births):
        rows = rows.join(more, on="subject_id", how="left", maintain_order="left")
    if start.active_days is not None:
        rows = rows.with_columns(before=_before(rows, record.shared.times))
    given = [
        (pl.col(LEFT_OUT).is_not_null(), pl.col(LEFT_OUT)),
        (pl.col("begins") > known, pl.lit("nothing is recorded by then")),
    ]
    if start.history_days is not None:
        enough = known - pl.col("seen") >= _days(start.history_days)
        given.append((~enough.fill_null(False), pl.lit("too short a record by then")))
    if start.active_days is not None:
        since = pl.col("before") >= known - _days(start.active_days)
        given.append((~since.fill_null(False), pl.lit("nothing recorded lately")))
    if start.min_age is not None or start.max_age is not None:
        age = years(known - pl.col("birth"))
        of_age = (age >= (start.min_age or 0)) & (age < (start.max_age or 1000) + 1)
        given.append((~of_age.fill_null(False), pl.lit("not of that age")))
    for patterns, lacks, why in (
        (task.exclude, False, "what is excluded is there already"),
        (task.require, True, "what is required is not there"),
    ):
        if patterns:
            there = pl.Series("there", _there(rows, record, patterns))
            given.append((pl.lit(~there if lacks else there), pl.lit(why)))
    recurrent = pl.Series("recurrent", [False], pl.Boolean).new_from_index(0, rows.height)
    if task.onset != "any":
        recurrent = _count(rows, record.outcomes(), None) > 0
        if task.onset == "new":
            given.append((pl.lit(recurrent), pl.lit(ALREADY)))
    return rows.with_columns(reasons(*given), recurrent=recurrent).select(*ASKED, "recurrent")


def _there(rows: pl.DataFrame, record: Record, patterns: tuple[History, ...]) -> pl.Series:
    """[R] bool, whether any of some patterns has been, as often as it has to."""
    alike: dict[tuple[object, ...], list[History]] = {}
    for n, pattern in enumerate(patterns):
        key = (pattern.days, pattern.since, pattern.times, n if pattern.times > 1 else -1)
        alike.setdefault(key, []).append(pattern)
    found = pl.Series([False], dtype=pl.Boolean).new_from_index(0, rows.height)
    for some in alike.values():
        since = None
        if some[0].since != "record":
            since = pl.col("start") if some[0].since == "stay" else pl.col("end") + _MOMENT
        elif some[0].days is not None:
            since = pl.col("known") - _days(some[0].days)
        found |= _count(rows, record.of(some), since) >= some[0].times
    return found


def _count(rows: pl.DataFrame, events: pl.DataFrame, since: pl.Expr | None) -> pl.Series:
    """[R] at how many moments there are some events by `known`, from `since` on."""
    numbered = (
        events.select("subject_id", at="time")
        .unique()
        .sort("subject_id", "at")
        .with_columns(n=pl.int_range(1, pl.len() + 1).over("subject_id"))
        .sort("at")
    )

    def until(time: pl.Expr, *, strictly: bool) -> pl.Series:
        joined = (
            rows.select("row", "subject_id", by=time)
            .sort("by")
            .join_asof(
                numbered,
                left_on="by",
                right_on="at",
                by="subject_id",
                allow_exact_matches=not strictly,
                check_sortedness=False,
            )
        )
        return joined.sort("row")["n"].fill_null(0)

    found = until(pl.col("known"), strictly=False)
    return found if since is None else found - until(since, strictly=True)


def _before(rows: pl.DataFrame, times: pl.DataFrame) -> pl.Series:
    """[R] the last moment of the record that is earlier than what is known."""
    joined = (
        rows.select("row", "subject_id", "known")
        .sort("known")
        .join_asof(
            times.sort("time").rename({"time": "at"}),
            left_on="known",
            right_on="at",
            by="subject_id",
            allow_exact_matches=False,
            check_sortedness=False,
        )
    )
    return joined.sort("row")["at"]


def _some(rows: pl.DataFrame, task: TaskFile, config: LabelsConfig) -> pl.DataFrame:
    """Of each subject as many rows as are asked for; one with its reason where none can be."""
    could = rows.filter(pl.col(LEFT_OUT).is_null())
    drawn = draw(could, task.start.count, name=task.name, seed=config.seed)
    others = rows.join(could, on="subject_id", how="anti").sort("subject_id", "prediction_time")
    return pl.concat([drawn, others.unique("subject_id", keep="last", maintain_order=True)])


def _days(days: float) -> pl.Expr:
    return pl.duration(microseconds=round(days * 86_400_000_000))
