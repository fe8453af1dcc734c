"""What a task file looks at: the events of some subjects that its patterns mean, and their stays."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import polars as pl

from ehr_eval.tasks.config import LabelsConfig
from ehr_eval.tasks.course import Course, read_course
from ehr_eval.tasks.files import TaskFile
from ehr_eval.tasks.patterns import NEVER, Codebook, CodePattern, EventPattern, Span

BIRTH = "^MEDS_BIRTH"
_YEAR_US = 365.25 * 86_400_000_000


def columns_of(task: TaskFile) -> tuple[str, ...]:
    """Columns of events, beside those of MEDS that are always read, that a task looks at."""
    patterns = [p for group in task.groups().values() for p in group if isinstance(p, EventPattern)]
    unit = ("unit",) if any(p.units for p in patterns) else ()
    text = ("text_value",) if any(p.text for p in patterns) else ()
    return (*(task.start.ids or ()), *unit, *text)


class Events:
    """Some whole subjects, with what every task asks of them, worked out once."""

    def __init__(self, events: pl.DataFrame) -> None:
        """Take them.

        Args:
            events: subject_id, time, code, numeric_value and further columns, in any order.
        """
        lacking = [c for c in ("unit", "text_value") if c not in events.columns]
        timed = events.filter(pl.col("time").is_not_null())
        self.all = events
        self.timed = timed.with_columns(pl.lit(None, pl.String).alias(c) for c in lacking)
        """Without what has no time; unit and text_value are null where there are none."""

    @cached_property
    def births(self) -> pl.DataFrame:
        """subject_id, birth."""
        born = self.timed.filter(pl.col("code").str.contains(BIRTH))
        return born.group_by("subject_id").agg(birth=pl.col("time").min())

    @cached_property
    def spans(self) -> pl.DataFrame:
        """subject_id, begins and last: the first and the last event; seen: the first that is no birth."""
        born = pl.col("code").str.contains(BIRTH)
        return self.timed.group_by("subject_id").agg(
            begins=pl.col("time").min(),
            seen=pl.col("time").filter(~born).min(),
            last=pl.col("time").max(),
        )

    @cached_property
    def times(self) -> pl.DataFrame:
        """subject_id, time: every moment of the record but birth, each once."""
        born = pl.col("code").str.contains(BIRTH)
        return self.timed.filter(~born).select("subject_id", "time").unique()


class Record:
    """Whole subjects, as one task sees them."""

    def __init__(
        self, events: Events, task: TaskFile, config: LabelsConfig, book: Codebook
    ) -> None:
        """Cut them up.

        Args:
            events: With those of `columns_of` and `config.visit_ids` that there are.
            task: Whose codes take the place of `admission` and `discharge`.
            config: What a death is, and transfers.
            book: Of the data set.
        """
        start = task.start
        begins = NEVER if start.until is None else book.regex(start)
        gap = config.transfer_hours if start.transfer_hours is None else start.transfer_hours
        ids = config.visit_ids if start.ids is None else start.ids
        config = replace(
            config,
            admission=begins,
            discharge=start.until or NEVER,
            visit_start=NEVER,
            visit_end=NEVER,
            diagnosis=NEVER,
            lab=NEVER,
            visit_ids=ids,
            transfer_hours=gap,
        )
        self.task, self.book, self.config, self.shared = task, book, config, events
        self.events = events.timed
        marks = [config.admission, config.discharge, config.death]
        codes = {code for mark in marks for code in book.of(CodePattern(code=mark))}
        course = read_course(self.events.filter(pl.col("code").is_in(list(codes))), config)
        self.course: Course = replace(course, last=events.spans.select("subject_id", "last"))
        self._begins = begins
        self._visits: dict[Span, pl.DataFrame] = {}

    def of(self, patterns: Sequence[EventPattern]) -> pl.DataFrame:
        """subject_id, time of events that some patterns mean; of those of stays, only what begins or ends one."""
        if not patterns:
            return self.events.select("subject_id", "time").clear()
        found = self.events_of(patterns)
        until = self.task.start.until
        if until is None:
            return found.select("subject_id", "time")
        code = pl.col("code")
        begins, ends = code.str.contains(self._begins), code.str.contains(until)
        whole = self.course.stays.filter(pl.col("end").is_not_null())
        return pl.concat(
            [
                found.filter(~(begins | ends)).select("subject_id", "time"),
                _at(found.filter(begins), self.course.admissions.unique()),
                _at(found.filter(ends), whole.select("subject_id", time="end").unique()),
            ]
        )

    def events_of(self, patterns: Sequence[EventPattern]) -> pl.DataFrame:
        """Events that any of some patterns means."""
        events = self._aged() if any(p.min_age is not None for p in patterns) else self.events
        free = [pattern for pattern in patterns if pattern.during is None]
        bound = [pattern for pattern in patterns if pattern.during is not None]
        parts = [events.filter(pl.any_horizontal(*map(self.book.events, free)))] if free else []
        parts += [self._during(events.filter(self.book.events(p)), p.during) for p in bound]
        return pl.concat(parts)

    def starts(self) -> pl.DataFrame:
        """subject_id, time at which what begins a stay is there, without stays: each moment once."""
        code = pl.col("code").is_in(self.book.of(self.task.start))
        return self.events.filter(code).select("subject_id", "time").unique()

    def outcomes(self) -> pl.DataFrame:
        """subject_id, time of the outcome: of each of its events, or of the moment at which all have come."""
        if not self.task.together:
            return self.of(self.task.outcome or ())
        first = [
            self.of(group).group_by("subject_id").agg(pl.col("time").min().alias(str(n)))
            for n, group in enumerate(self.task.together)
        ]
        every = first[0]
        for more in first[1:]:
            every = every.join(more, on="subject_id")
        last = pl.max_horizontal(*map(str, range(len(first))))
        return every.select("subject_id", time=last)

    def _during(self, events: pl.DataFrame, span: Span | None) -> pl.DataFrame:
        """Those of some events that are within visits of a kind."""
        if span is None:
            return events
        if span not in self._visits:
            for code in (span.code, span.until):  # beyond polars: said in one line
                self.book.of(CodePattern(code=code))
            kind = replace(self.config, visit_start=span.code, visit_end=span.until)
            visits = read_course(self.events, kind).visits.filter(pl.col("fault").is_null())
            ends = visits.group_by("subject_id", "start").agg(pl.col("end").max()).sort("start")
            self._visits[span] = ends.with_columns(pl.col("end").cum_max().over("subject_id"))
        inside = events.sort("time").join_asof(
            self._visits[span],
            left_on="time",
            right_on="start",
            by="subject_id",
            check_sortedness=False,
        )
        return inside.filter(pl.col("time") <= pl.col("end")).select(events.columns)

    def _aged(self) -> pl.DataFrame:
        """Events with `age` in years, null where no birth is recorded."""
        events = self.events.join(
            self.shared.births, on="subject_id", how="left", maintain_order="left"
        )
        return events.with_columns(age=years(pl.col("time") - pl.col("birth")))


def years(span: pl.Expr) -> pl.Expr:
    """A duration in years of 365.25 days."""
    return span.dt.total_microseconds() / _YEAR_US


def _at(events: pl.DataFrame, times: pl.DataFrame) -> pl.DataFrame:
    on = ["subject_id", "time"]
    return events.select(on).join(times, on=on, how="semi")
