"""The tasks themselves.

Each labeler is a pure function from a `Course` to rows (subject_id, prediction_time,
boolean_value). A prediction time is inclusive: what happened at that very time is visible, and the
outcome is strictly later. A window of d days is (prediction time, prediction time + d days].
"""

import polars as pl

from ehr_eval.tasks.config import LabelsConfig
from ehr_eval.tasks.course import Course

ROW = ["subject_id", "prediction_time", "boolean_value"]


def in_hospital_mortality(course: Course, config: LabelsConfig) -> pl.DataFrame:
    """Death in the stay, predicted some hours after admission."""
    return _running_stays(course, config).select(
        "subject_id",
        "prediction_time",
        boolean_value=pl.col("died") | (pl.col("death") <= pl.col("end")).fill_null(False),
    )


def long_stay(course: Course, config: LabelsConfig) -> pl.DataFrame:
    """A stay longer than some days, predicted some hours after admission."""
    longer = pl.col("end") - pl.col("start") > pl.duration(days=config.long_stay_days)
    return _running_stays(course, config).select(
        "subject_id", "prediction_time", boolean_value=longer
    )


def readmission_30d(course: Course, config: LabelsConfig) -> pl.DataFrame:
    """An admission within some days after discharge."""
    days = config.readmission_days
    return within(_discharges(course), course.admissions, days, course, config)


def mortality_1y(course: Course, config: LabelsConfig) -> pl.DataFrame:
    """Death within a year after discharge."""
    deaths = course.deaths.rename({"death": "time"})
    return within(_discharges(course), deaths, config.horizon_days, course, config)


def new_diagnosis_1y(course: Course, config: LabelsConfig) -> pl.DataFrame:
    """A first diagnosis within a year after discharge, in subjects without one until then."""
    first = course.diagnoses.group_by("subject_id").agg(first=pl.col("time").min())
    rows = (
        _discharges(course)
        .join(first, on="subject_id", how="left", maintain_order="left")
        .filter(pl.col("first").is_null() | (pl.col("first") > pl.col("prediction_time")))
        .drop("first")
    )
    return within(rows, course.diagnoses, config.horizon_days, course, config)


def abnormal_lab_next_visit(course: Course, config: LabelsConfig) -> pl.DataFrame:
    """Whether the first value of a measurement in the next visit is abnormal."""
    following = [
        pl.col(c).shift(-1).over("subject_id").alias(f"next_{c}") for c in ("start", "end")
    ]
    rows = (
        course.visits.with_columns(following, prediction_time="end")
        .filter(pl.col("next_start") > pl.col("prediction_time"))
        .sort("next_start")
    )
    found = rows.join_asof(
        course.labs.sort("time").rename({"time": "measured"}),
        left_on="next_start",
        right_on="measured",
        by="subject_id",
        strategy="forward",
        check_sortedness=False,
    )
    return found.filter(pl.col("measured") <= pl.col("next_end")).select(
        "subject_id", "prediction_time", boolean_value=pl.col("value") > config.lab_above
    )


def _running_stays(course: Course, config: LabelsConfig) -> pl.DataFrame:
    """Stays that are still running, and subjects not known dead, some hours after admission."""
    return (
        course.stays.join(course.deaths, on="subject_id", how="left", maintain_order="left")
        .with_columns(
            prediction_time=pl.col("start") + pl.duration(hours=config.hours_after_admission)
        )
        .filter(
            (pl.col("end") > pl.col("prediction_time"))
            & (pl.col("death").is_null() | (pl.col("death") > pl.col("prediction_time")))
        )
    )


def _discharges(course: Course) -> pl.DataFrame:
    """subject_id, prediction_time: the end of each stay that the subject survived."""
    return (
        course.stays.join(course.deaths, on="subject_id", how="left", maintain_order="left")
        .filter(~pl.col("died") & (pl.col("death").is_null() | (pl.col("death") > pl.col("end"))))
        .select("subject_id", prediction_time="end")
    )


def within(
    rows: pl.DataFrame,
    outcomes: pl.DataFrame,
    days: float,
    course: Course,
    config: LabelsConfig,
) -> pl.DataFrame:
    """Label rows by whether an outcome falls into the window after their prediction time.

    Without one, a row is negative if the subject was followed to the end of the window or died in
    it; else it is censored.

    Args:
        rows: subject_id, prediction_time.
        outcomes: subject_id, time.
        days: Length of the window.
        course: Of the same subjects.
        config: What becomes of censored rows.
    """
    until = pl.col("prediction_time") + pl.duration(days=days)
    found = (
        rows.sort("prediction_time")
        .join_asof(
            outcomes.sort("time").rename({"time": "outcome"}),
            left_on="prediction_time",
            right_on="outcome",
            by="subject_id",
            strategy="forward",
            allow_exact_matches=False,
            check_sortedness=False,
        )
        .join(course.deaths, on="subject_id", how="left")
        .join(course.last, on="subject_id", how="left")
        .with_columns(boolean_value=(pl.col("outcome") <= until).fill_null(False))
    )
    followed = (pl.col("last") >= until) | pl.col("death").is_not_null()
    if config.censored == "exclude":
        found = found.filter(pl.col("boolean_value") | followed)
    return found.select(ROW)
