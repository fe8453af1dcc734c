"""What labelers look at: stays, visits, deaths and the end of follow-up of some subjects."""

from dataclasses import dataclass

import polars as pl

from ehr_eval.tasks.config import LabelsConfig


@dataclass(frozen=True, slots=True)
class Course:
    """Whole subjects, cut up once for all labelers. All times are timestamps in microseconds."""

    admissions: pl.DataFrame
    """subject_id, time of each admission."""
    stays: pl.DataFrame
    """subject_id, start, end, died: admissions with their discharge, by subject and time."""
    visits: pl.DataFrame
    """subject_id, start, end: the same for every kind of visit."""
    deaths: pl.DataFrame
    """subject_id, death: the first record of death."""
    last: pl.DataFrame
    """subject_id, last: the time of the last event."""
    diagnoses: pl.DataFrame
    """subject_id, time of each diagnosis of `config.diagnosis`."""
    labs: pl.DataFrame
    """subject_id, time, value of each measurement of `config.lab`."""


def read_course(events: pl.DataFrame, config: LabelsConfig) -> Course:
    """Cut the events of some whole subjects into what labelers look at.

    Args:
        events: subject_id, time, code, numeric_value; in any order.
        config: Which codes mean what.
    """
    timed = events.filter(pl.col("time").is_not_null())
    stays = pair(timed, config.admission, config.discharge)
    return Course(
        admissions=timed.filter(pl.col("code").str.contains(config.admission)).select(
            "subject_id", "time"
        ),
        stays=stays.with_columns(died=pl.col("end_code").str.contains(config.died)).drop(
            "end_code"
        ),
        visits=pair(timed, config.visit_start, config.visit_end).drop("end_code"),
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
        ).select("subject_id", "time", value="numeric_value"),
    )


def pair(events: pl.DataFrame, start: str, end: str) -> pl.DataFrame:
    """Match each start with the end that follows it, if no other start comes between.

    A start whose end is not recorded is left out, and so is a stay of no length. At one time, ends
    come before starts: a transfer ends one stay and begins the next.

    Args:
        events: subject_id, time (no nulls), code.
        start: Regular expression of the codes that open.
        end: Of those that close.

    Returns:
        subject_id, start, end, end_code; sorted by subject_id and start.
    """
    marks = (
        events.with_columns(
            opens=pl.col("code").str.contains(start), closes=pl.col("code").str.contains(end)
        )
        .filter(pl.col("opens") | pl.col("closes"))
        .sort("subject_id", "time", "opens", "code")
    )
    following = [
        pl.col(c).shift(-1).over("subject_id").alias(f"next_{c}")
        for c in ("time", "closes", "code")
    ]
    return (
        marks.with_columns(following)
        .filter(pl.col("opens") & pl.col("next_closes"))
        .select("subject_id", start="time", end="next_time", end_code="next_code")
    )
