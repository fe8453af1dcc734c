"""The label's own code, visible at the prediction time."""

from collections.abc import Iterator

import polars as pl

from ehr_eval.audit.definitions import Definition, definitions, events_of
from ehr_eval.audit.found import Finding, Skipped, ids
from ehr_eval.audit.inputs import LABEL, Inputs

_MOST, _FEW, _LEAST = 0.5, 0.1, 10
"""Suspicious: this share of the positives or more has the outcome at the very time, this share of the negatives or
less, and there are so many positives."""


def outcome_is_visible(inputs: Inputs) -> Iterator[Finding]:
    """Outcomes up to the prediction time that there cannot be, or that are what made the row positive."""
    inputs.require("meds", "labels")
    defined = definitions(inputs)
    if not defined:
        raise Skipped("no task of the labels has a known definition: give it with --task-file")
    known = {task: d for task, d in defined.items() if d.outcomes}
    happened = _outcomes(inputs, known)
    for task, definition in known.items():
        rows = _rows(inputs, task, definition)
        yield from _of_task(task, _placed(rows, happened[task], definition), definition)
    for task, rows in inputs.asked.items():
        if task not in defined:
            what = "nothing says what its outcome is, so it was not looked at: give it with --task-file"
            yield Finding(task, what, rows.height, severity="warning")


def _rows(inputs: Inputs, task: str, definition: Definition) -> pl.DataFrame:
    """With `yes`: the outcome makes it so; as it makes every row of a task that asks for a class or a number."""
    if task not in inputs.labels:
        return inputs.asked[task].with_columns(yes=pl.lit(value=True))
    return inputs.labels[task].with_columns(yes=pl.col(LABEL) != definition.absent)


def _outcomes(inputs: Inputs, known: dict[str, Definition]) -> dict[str, pl.DataFrame]:
    """Task -> subject_id, time of its outcomes, in order."""
    parts: dict[str, list[pl.DataFrame]] = {task: [] for task in known}
    for events in events_of(inputs, known):
        for task, definition in known.items():
            assert definition.outcomes is not None
            parts[task].append(definition.outcomes(events).drop_nulls().unique())
    return {task: pl.concat(found).sort("time") for task, found in parts.items()}


def _placed(rows: pl.DataFrame, happened: pl.DataFrame, definition: Definition) -> pl.DataFrame:
    """With `by` (an outcome at or before), `now` (one at the very time), `after`."""
    rows = rows.sort("prediction_time")
    times = happened.with_columns(at=pl.col("time"))
    before = rows.join_asof(
        times,
        left_on="prediction_time",
        right_on="time",
        by="subject_id",
        strategy="backward",
        check_sortedness=False,
    ).select(*rows.columns, past="at")
    found = before.join_asof(
        times,
        left_on="prediction_time",
        right_on="time",
        by="subject_id",
        strategy="forward",
        allow_exact_matches=False,
        check_sortedness=False,
    )
    after = pl.col("at").is_not_null()
    if definition.horizon_days is not None:
        # a minute more, since tasks at the end of a day know of its last minute
        until = pl.col("prediction_time") + pl.duration(days=definition.horizon_days, minutes=1)
        after &= (pl.col("at") <= until).fill_null(False)
    return found.with_columns(
        by=pl.col("past").is_not_null(),
        now=(pl.col("past") == pl.col("prediction_time")).fill_null(False),
        after=after,
    )


def _of_task(task: str, rows: pl.DataFrame, definition: Definition) -> Iterator[Finding]:
    if definition.once:
        late = rows.filter("by")
        if late.height:
            yield Finding(
                task,
                f"{late.height:,} of {rows.height:,} rows have the outcome at or before the prediction time, though it "
                "comes once",
                late.height,
                subjects=ids(late["subject_id"]),
            )
        return
    told = rows.filter(pl.col("yes") & ~pl.col("after") & pl.col("by"))
    if told.height:
        yield Finding(
            task,
            f"{told.height:,} of {int(rows['yes'].sum()):,} positive rows have no outcome after the prediction time, "
            "but one at or before it: the answer is visible",
            told.height,
            subjects=ids(told["subject_id"]),
        )
    yes, no = rows.filter("yes"), rows.filter(~pl.col("yes"))
    now = yes.filter("now")
    share = now.height / max(1, yes.height)
    other = no.filter("now").height / max(1, no.height)
    if yes.height >= _LEAST and share >= _MOST and other <= _FEW:
        yield Finding(
            task,
            f"{share:.0%} of {yes.height:,} positive rows have the outcome at the very prediction time (of the negative "
            f"{other:.0%}): the answer is visible",
            now.height,
            subjects=ids(now["subject_id"]),
        )
