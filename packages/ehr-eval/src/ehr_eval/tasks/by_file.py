"""Labels by a task file, under the rules of the built-in tasks: stays, censoring, what is left out."""

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from ehr_eval.tasks.config import LabelsConfig
from ehr_eval.tasks.course import Course, read_course
from ehr_eval.tasks.files import EventPattern, TaskFile
from ehr_eval.tasks.labelers import LEFT_OUT, ROW, asof, discharges, reasons, running_stays
from ehr_eval.tasks.registry import matching
from ehr_tracking.errors import UserError

_NEVER = "^$"
"""Matches no code of MEDS."""


def label_by_file(events: pl.DataFrame, task: TaskFile, config: LabelsConfig) -> pl.DataFrame:
    """Rows of a task: subject_id, prediction_time, boolean_value, and left_out, why one is none.

    Args:
        events: Of some whole subjects: subject_id, time, code, numeric_value and columns of
            `config.visit_ids` that there are.
        task: Whose codes take the place of `admission` and `discharge`.
        config: What a death is, transfers, and what becomes of censored rows.
    """
    config = replace(
        config,
        admission=task.start.code,
        discharge=task.start.until or _NEVER,
        visit_start=_NEVER,
        visit_end=_NEVER,
        hours_after_admission=task.start.hours,
    )
    course = read_course(events, config)
    timed = _Timed(events.filter(pl.col("time").is_not_null()), task, course)
    rows = _without(_asked(timed, task, config), timed.of(task.exclude))
    rows = _windows(rows, task, course)
    is_one = pl.col(LEFT_OUT).is_null()
    answered = _answered(rows.filter(is_one), timed, task)
    found = _with_reasons(answered, task, course, config).select(*ROW, LEFT_OUT)
    return pl.concat([found, rows.filter(~is_one).select(ROW[:2], LEFT_OUT)], how="diagonal")


def require_codes(codes: pl.Series, task: TaskFile) -> None:
    """Raise where a data set cannot have a task.

    Raises:
        UserError: If no code begins or ends a stay, is an outcome, or decides.
    """
    sought = {
        "start.code": [task.start.code],
        "start.until": [task.start.until] if task.start.until else [],
        **{n: [p.code for p in getattr(task, n)] for n in ("outcome", "given", "stop", "exclude")},
    }
    for name, patterns in sought.items():
        there = [bool(matching(codes, pattern).any()) for pattern in patterns]
        if patterns and not any(there) and name not in {"stop", "exclude"}:
            raise UserError(
                f"task {task.name} does not fit this data set: no code matches {name} = "
                f"{' or '.join(patterns)}"
            )


class _Timed:
    """Events that a task speaks of."""

    def __init__(self, events: pl.DataFrame, task: TaskFile, course: Course) -> None:
        self.events, self.task, self.course = events, task, course

    def of(self, patterns: Sequence[EventPattern]) -> pl.DataFrame:
        """subject_id, time of events that some patterns match; of those of stays, only what begins or ends one."""
        if not patterns:
            return self.events.select("subject_id", "time").clear()
        code = pl.col("code")
        any_of = pl.any_horizontal(*map(_matches, patterns))
        found = self.events.filter(any_of)
        start, until = self.task.start.code, self.task.start.until
        if until is None:
            return found.select("subject_id", "time")
        marks = code.str.contains(start) | code.str.contains(until)
        whole = self.course.stays.filter(pl.col("end").is_not_null())
        ends = whole.select("subject_id", time="end").unique()
        begins = self.course.admissions.unique()
        return pl.concat(
            [
                found.filter(~marks).select("subject_id", "time"),
                _at(found.filter(code.str.contains(start)), begins),
                _at(found.filter(code.str.contains(until)), ends),
            ]
        )


def _at(events: pl.DataFrame, times: pl.DataFrame) -> pl.DataFrame:
    on = ["subject_id", "time"]
    return events.select(on).join(times, on=on, how="semi")


def _matches(pattern: EventPattern) -> pl.Expr:
    found = pl.col("code").str.contains(pattern.code)
    value = pl.col("numeric_value")
    if pattern.above is not None:
        found &= (value > pattern.above).fill_null(False) & value.is_not_nan()
    if pattern.below is not None:
        found &= (value < pattern.below).fill_null(False) & value.is_not_nan()
    return found


def _asked(timed: _Timed, task: TaskFile, config: LabelsConfig) -> pl.DataFrame:
    """subject_id, prediction_time, left_out."""
    course, columns = timed.course, ["subject_id", "prediction_time", LEFT_OUT]
    if task.start.until is None:
        asked = course.stays.filter(pl.col("start").is_not_null()).with_columns(
            prediction_time=pl.col("start") + pl.duration(hours=task.start.hours)
        )
        dead = pl.col("death") <= pl.col("prediction_time")
        rows = asked.join(course.deaths, on="subject_id", how="left", maintain_order="left")
        return rows.with_columns(reasons((dead, "dead by the prediction time"))).select(columns)
    if task.start.at == "begin":
        return running_stays(course, config).select(columns)
    if task.window == "next":  # what follows says who lived on
        rows = course.stays.with_columns(prediction_time=pl.col("end"))
        return rows.with_columns(pl.col("fault").alias(LEFT_OUT)).select(columns)
    rows = discharges(course).select(columns)
    return rows.with_columns(pl.col("prediction_time") + pl.duration(hours=task.start.hours))


def _without(rows: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """Rows, left out where the subject has some event already."""
    first = known.group_by("subject_id").agg(first=pl.col("time").min())
    there = pl.col("first") <= pl.col("prediction_time")
    return (
        rows.join(first, on="subject_id", how="left", maintain_order="left")
        .with_columns(
            reasons(
                (pl.col(LEFT_OUT).is_not_null(), pl.col(LEFT_OUT)),
                (there, "what is excluded is there already"),
            )
        )
        .drop("first")
    )


def _windows(rows: pl.DataFrame, task: TaskFile, course: Course) -> pl.DataFrame:
    """With `opens` (null: right after the prediction time) and `closes` (null: open)."""
    never = pl.lit(None, pl.Datetime("us"))
    rows = rows.with_columns(opens=never, closes=never)
    if task.window == "next":
        whole = course.stays.filter(pl.col("fault").is_null())
        starts = whole.group_by("subject_id", opens="start").agg(closes=pl.col("end").max())
        is_one, bare = pl.col(LEFT_OUT).is_null(), rows.drop("opens", "closes")
        next_ = asof(bare.filter(is_one), starts, "prediction_time", "opens", strictly=True)
        next_ = next_.with_columns(reasons((pl.col("opens").is_null(), "no stay follows")))
        rows = pl.concat([next_, bare.filter(~is_one)], how="diagonal")
    if task.horizon_days is not None:
        until = pl.col("prediction_time") + pl.duration(days=task.horizon_days)
        rows = rows.with_columns(closes=pl.min_horizontal("closes", until))
    return rows


def _answered(rows: pl.DataFrame, timed: _Timed, task: TaskFile) -> pl.DataFrame:
    """With `happened`, and `ended`: something ended the wait before its horizon."""
    found = rows.with_row_index("row")
    for name, patterns in (
        ("outcome", task.outcome),
        ("stop", (*task.stop, *task.given)),
        ("decides", task.given),
    ):
        found = _first(found, timed.of(patterns), name)
    by = pl.min_horizontal("closes", "stop")
    happened = pl.col("outcome").is_not_null() & (pl.col("outcome") <= by).fill_null(True)
    others = timed.of(task.stop)
    found = _first(found, others, "other")
    in_time = (pl.col("decides") <= pl.min_horizontal("closes", "other")).fill_null(True)
    decided = pl.col("decides").is_not_null() & in_time
    ended = (pl.col("stop") <= pl.col("closes")).fill_null(pl.col("stop").is_not_null())
    return found.with_columns(happened=happened, decided=happened | decided, ended=ended)


def _first(rows: pl.DataFrame, events: pl.DataFrame, name: str) -> pl.DataFrame:
    """With a column: the time of the first of some events in the window, its end not yet looked at."""
    times = events.select("subject_id", at="time").unique()
    opened = rows.filter(pl.col("opens").is_not_null())
    after = rows.filter(pl.col("opens").is_null())
    joined = [
        asof(part, times, left, "at", strictly=strictly)
        for part, left, strictly in ((opened, "opens", False), (after, "prediction_time", True))
    ]
    return pl.concat(joined).rename({"at": name}).sort("row")


def _with_reasons(
    rows: pl.DataFrame, task: TaskFile, course: Course, config: LabelsConfig
) -> pl.DataFrame:
    rows = rows.join(course.last, on="subject_id", how="left", maintain_order="left").join(
        course.deaths, on="subject_id", how="left", maintain_order="left"
    )
    given = [(pl.col(LEFT_OUT).is_not_null(), pl.col(LEFT_OUT))]
    if task.given:
        given.append((~pl.col("decided"), pl.lit("nothing decides")))
    elif config.censored == "exclude":
        over = (pl.col("last") >= pl.col("closes")).fill_null(False) | pl.col("death").is_not_null()
        given.append((~(pl.col("happened") | pl.col("ended") | over), pl.lit("censored")))
    yes = ~pl.col("happened") if task.absent else pl.col("happened")
    return rows.with_columns(reasons(*given), boolean_value=yes)
