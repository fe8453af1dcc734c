"""The tasks themselves.

Each labeler is a pure function from a `Course` to rows: subject_id, prediction_time, boolean_value,
and left_out: why a row is none, null where it is one. A prediction time is inclusive: what happened at that very time is visible, and the
outcome is strictly later. A window of d days is (prediction time, prediction time + d days].
"""

import polars as pl

from ehr_eval.tasks.config import LabelsConfig
from ehr_eval.tasks.course import Course

ROW = ["subject_id", "prediction_time", "boolean_value"]
DURATION = "duration_days"
"""Column of rows that hold a time to an event; `boolean_value` then says whether it came."""
ANSWERS = {"yes": "boolean_value", "code": "categorical_value", "value": "float_value"}
"""Kind of answer -> its column."""
SEVERITY = "severity"
"""Column beside `boolean_value`: 0 where that is false, else from 1 on (int8)."""
LEFT_OUT = "left_out"
"""Column of a labeler's rows; may be missing where none is left out."""


def in_hospital_mortality(course: Course, config: LabelsConfig) -> pl.DataFrame:
    """Death in the stay, predicted some hours after admission."""
    died = pl.col("died") | (pl.col("death") <= pl.col("end")).fill_null(False)
    return running_stays(course, config).select(*ROW[:2], LEFT_OUT, boolean_value=died)


def long_stay(course: Course, config: LabelsConfig) -> pl.DataFrame:
    """A stay longer than some days, predicted some hours after admission."""
    longer = pl.col("end") - pl.col("start") > pl.duration(days=config.long_stay_days)
    return running_stays(course, config).select(*ROW[:2], LEFT_OUT, boolean_value=longer)


def readmission_30d(course: Course, config: LabelsConfig) -> pl.DataFrame:
    """An admission within some days after discharge."""
    days = config.readmission_days
    return within(discharges(course), course.admissions, days, course, config)


def mortality_1y(course: Course, config: LabelsConfig) -> pl.DataFrame:
    """Death within a year after discharge."""
    deaths = course.deaths.rename({"death": "time"})
    return within(discharges(course), deaths, config.horizon_days, course, config)


def new_diagnosis_1y(course: Course, config: LabelsConfig) -> pl.DataFrame:
    """A first diagnosis within a year after discharge, in subjects without one until then."""
    rows = _without_diagnosis(course)
    return within(rows, course.diagnoses, config.horizon_days, course, config)


def _without_diagnosis(course: Course) -> pl.DataFrame:
    """Discharges; left out where the diagnosis is there already."""
    first = course.diagnoses.group_by("subject_id").agg(first=pl.col("time").min())
    known = pl.col("first") <= pl.col("prediction_time")
    return (
        discharges(course)
        .join(first, on="subject_id", how="left", maintain_order="left")
        .with_columns(
            reasons(
                (pl.col(LEFT_OUT).is_not_null(), pl.col(LEFT_OUT)),
                (known, "the diagnosis is there already"),
            )
        )
        .drop("first")
    )


def abnormal_lab_next_visit(course: Course, config: LabelsConfig) -> pl.DataFrame:
    """Whether the first value of a measurement in the next visit is abnormal."""
    whole = course.visits.filter(pl.col("fault").is_null())
    starts = whole.group_by("subject_id", next_start="start").agg(next_end=pl.col("end").max())
    following = asof(whole, starts, "end", "next_start", strictly=True)
    labs = course.labs.rename({"time": "measured"})
    found = asof(
        following.filter(pl.col("next_start").is_not_null()),
        labs,
        "next_start",
        "measured",
        strictly=False,
    )
    unknown = pl.col("measured").is_null() | (pl.col("measured") > pl.col("next_end"))
    rows = pl.concat(
        [
            found,
            course.visits.filter(pl.col("fault").is_not_null()),
            following.filter(pl.col("next_start").is_null()),
        ],
        how="diagonal",
    )
    return rows.with_columns(
        reasons(
            (pl.col("fault").is_not_null(), pl.col("fault")),
            (pl.col("next_start").is_null(), "no visit follows"),
            (unknown, "not measured in the next visit"),
        )
    ).select(
        "subject_id",
        LEFT_OUT,
        prediction_time="end",
        boolean_value=pl.col("value") > config.lab_above,
    )


def time_to_death(course: Course, _: LabelsConfig) -> pl.DataFrame:
    """Days from discharge to death."""
    return _until(discharges(course), course.deaths.rename({"death": "time"}), course)


def time_to_readmission(course: Course, _: LabelsConfig) -> pl.DataFrame:
    """Days from discharge to the next admission."""
    return _until(discharges(course), course.admissions, course)


def time_to_diagnosis(course: Course, _: LabelsConfig) -> pl.DataFrame:
    """Days from discharge to a first diagnosis, in subjects without one until then."""
    return _until(_without_diagnosis(course), course.diagnoses, course)


def _until(rows: pl.DataFrame, outcomes: pl.DataFrame, course: Course) -> pl.DataFrame:
    """Days from prediction times to the first outcome, or to death or the last event where there is none.

    Args:
        rows: subject_id, prediction_time, left_out.
        outcomes: subject_id, time.
        course: Of the same subjects.
    """
    times = outcomes.select("subject_id", outcome="time")
    asked = rows.filter(pl.col(LEFT_OUT).is_null())
    end = pl.coalesce("outcome", pl.min_horizontal("death", "last"))
    days = (end - pl.col("prediction_time")).dt.total_microseconds() / 86_400_000_000
    found = (
        asof(asked, times, "prediction_time", "outcome", strictly=True)
        .join(course.deaths, on="subject_id", how="left")
        .join(course.last, on="subject_id", how="left")
        .with_columns(boolean_value=pl.col("outcome").is_not_null(), duration_days=days)
        .with_columns(reasons((pl.col(DURATION) <= 0, "nothing is recorded after it")))
    )
    others = rows.filter(pl.col(LEFT_OUT).is_not_null())
    return pl.concat([found.select(*ROW, DURATION, LEFT_OUT), others], how="diagonal")


def asof(
    rows: pl.DataFrame, others: pl.DataFrame, left: str, right: str, *, strictly: bool
) -> pl.DataFrame:
    """Rows with the first of others of their subject that comes at or after them."""
    return rows.sort(left).join_asof(
        others.sort(right),
        left_on=left,
        right_on=right,
        by="subject_id",
        strategy="forward",
        allow_exact_matches=not strictly,
        check_sortedness=False,
    )


def reasons(*reasons: tuple[pl.Expr, str | pl.Expr]) -> pl.Expr:
    """`left_out` by the first reason that holds."""
    given = (
        pl.when(holds).then(pl.lit(why) if isinstance(why, str) else why) for holds, why in reasons
    )
    return pl.coalesce(*given).alias(LEFT_OUT)


def running_stays(course: Course, config: LabelsConfig) -> pl.DataFrame:
    """Stays some hours after admission; left out where over, or the subject is known dead."""
    at = pl.col("prediction_time")
    hours = pl.duration(hours=config.hours_after_admission)
    return (
        course.stays.join(course.deaths, on="subject_id", how="left", maintain_order="left")
        .with_columns(prediction_time=pl.col("start") + hours)
        .with_columns(
            reasons(
                (pl.col("fault").is_not_null(), pl.col("fault")),
                (pl.col("end") <= at, "over by the prediction time"),
                (pl.col("death") <= at, "dead by the prediction time"),
            )
        )
    )


def discharges(course: Course) -> pl.DataFrame:
    """subject_id, prediction_time, left_out: the end of each stay that the subject survived."""
    whole = course.stays.filter(pl.col("fault").is_null())
    # the latest end of the stays that have begun by each start
    begun = (
        whole.sort("subject_id", "start", "end")
        .select("subject_id", "start", latest=pl.col("end").cum_max().over("subject_id"))
        .group_by("subject_id", "start")
        .agg(pl.col("latest").max())
    )
    rows = whole.sort("end").join_asof(
        begun.rename({"start": "begun"}).sort("begun"),
        left_on="end",
        right_on="begun",
        by="subject_id",
        check_sortedness=False,
    )
    faults = course.stays.filter(pl.col("fault").is_not_null())
    return (
        pl.concat([rows, faults], how="diagonal")
        .join(course.deaths, on="subject_id", how="left", maintain_order="left")
        .select(
            "subject_id",
            reasons(
                (pl.col("fault").is_not_null(), pl.col("fault")),
                (pl.col("died") | (pl.col("death") <= pl.col("end")), "ended in death"),
                (pl.col("latest") > pl.col("end"), "another stay runs on"),
            ),
            prediction_time="end",
        )
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
        rows: subject_id, prediction_time, and left_out where some are.
        outcomes: subject_id, time.
        days: Length of the window.
        course: Of the same subjects.
        config: What becomes of censored rows.
    """
    if LEFT_OUT not in rows.columns:
        rows = rows.with_columns(pl.lit(None, pl.String).alias(LEFT_OUT))
    until = pl.col("prediction_time") + pl.duration(days=days)
    times = outcomes.select("subject_id", outcome="time")
    asked = rows.filter(pl.col(LEFT_OUT).is_null())
    found = (
        asof(asked, times, "prediction_time", "outcome", strictly=True)
        .join(course.deaths, on="subject_id", how="left")
        .join(course.last, on="subject_id", how="left")
        .with_columns(boolean_value=(pl.col("outcome") <= until).fill_null(False))
    )
    if config.censored != "negative":
        followed = pl.col("last") >= until
        if config.censored == "exclude":
            followed |= pl.col("death").is_not_null()
        censored = ~(pl.col("boolean_value") | followed)
        found = found.with_columns(reasons((censored, "censored")))
    others = rows.filter(pl.col(LEFT_OUT).is_not_null())
    return pl.concat([found.select(*ROW, LEFT_OUT), others], how="diagonal")
