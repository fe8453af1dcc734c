"""What labelers look at: stays, visits, deaths and the end of follow-up of some subjects."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from ehr_eval.tasks.config import LabelsConfig
from ehr_eval.tasks.stays import CONTINUES, join_touching, pair


@dataclass(frozen=True, slots=True)
class Course:
    """Whole subjects, cut up once for all labelers. All times are timestamps in microseconds."""

    admissions: pl.DataFrame
    """subject_id, time of each admission that does not continue another stay."""
    stays: pl.DataFrame
    """subject_id, start, end, died, fault: whole stays where `fault` is null; else why it is none."""
    visits: pl.DataFrame
    """subject_id, start, end, fault: the same for every kind of visit."""
    deaths: pl.DataFrame
    """subject_id, death: the first record of death."""
    last: pl.DataFrame
    """subject_id, last: the time of the last event."""
    diagnoses: pl.DataFrame
    """subject_id, time of each diagnosis of `config.diagnosis`."""
    labs: pl.DataFrame
    """subject_id, time, value of measurements of `config.lab`: of several at one time, the highest."""


def read_course(events: pl.DataFrame, config: LabelsConfig) -> Course:
    """Cut the events of some whole subjects into what labelers look at.

    Args:
        events: subject_id, time, code, numeric_value, and those of `config.visit_ids` that there are;
            in any order, which nothing depends on.
        config: Which codes mean what.
    """
    timed = events.filter(pl.col("time").is_not_null()).with_columns(
        id=_id(events, config.visit_ids)
    )
    stays = _spans(timed, config.admission, config.discharge, config)
    started = pl.col("start").is_not_null() & pl.col("fault").ne_missing(CONTINUES)
    return Course(
        admissions=stays.filter(started).select("subject_id", time="start"),
        stays=stays,
        visits=_spans(timed, config.visit_start, config.visit_end, config).drop("died"),
        deaths=timed.filter(pl.col("code").str.contains(config.death))
        .group_by("subject_id")
        .agg(death=pl.col("time").min()),
        last=timed.group_by("subject_id").agg(last=pl.col("time").max()),
        diagnoses=timed.filter(pl.col("code").str.contains(config.diagnosis)).select(
            "subject_id", "time"
        ),
        labs=timed.filter(
            pl.col("code").str.contains(config.lab)
            & pl.col("numeric_value").is_not_null()
            & pl.col("numeric_value").is_not_nan()
        )
        .group_by("subject_id", "time")
        .agg(value=pl.col("numeric_value").max()),
    )


def _id(events: pl.DataFrame, names: Sequence[str]) -> pl.Expr:
    """What names the stay of an event: the first of some columns that is filled, with its name."""
    ids = [
        pl.when(pl.col(name) != "").then(pl.format(f"{name}={{}}", name))
        for name in names
        if name in events.columns
    ]
    return pl.coalesce(*ids, pl.lit(None, pl.String))


def _spans(timed: pl.DataFrame, start: str, end: str, config: LabelsConfig) -> pl.DataFrame:
    """Stays or visits by the codes that open and close them."""
    marks = timed.select(
        "subject_id",
        "time",
        "id",
        opens=pl.col("code").str.contains(start),
        closes=pl.col("code").str.contains(end),
        died=pl.col("code").str.contains(config.died),
    ).filter(pl.col("opens") | pl.col("closes"))
    return join_touching(pair(marks), hours=config.transfer_hours)
