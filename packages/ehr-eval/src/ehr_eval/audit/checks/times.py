"""Prediction times at which nobody could have acted on an answer."""

from collections.abc import Iterator

import polars as pl

from ehr_eval.audit.definitions import Definition, definitions, events_of, validated
from ehr_eval.audit.found import Finding, ids
from ehr_eval.audit.inputs import Inputs
from ehr_eval.tasks.config import LabelsConfig
from ehr_eval.tasks.record import BIRTH


def times_without_a_chance(inputs: Inputs) -> Iterator[Finding]:
    """Rows outside the record, after death, or outside the stay that they ask about."""
    inputs.require("meds", "labels")
    in_stay = {task: d for task, d in definitions(inputs).items() if d.stays is not None}
    spans, stays = _read(inputs, in_stay)
    for task, rows in inputs.asked.items():
        placed = rows.join(spans, on="subject_id", how="left")
        at = pl.col("prediction_time")
        reasons = {
            "are of subjects that the data set does not have": pl.col("first").is_null()
            & pl.col("last").is_null(),
            "are before the first event of their subject: nothing is known yet": at
            < pl.col("first"),
            "are more than a day after the last event of their subject": at
            > pl.col("last") + pl.duration(days=1),
            "are at or after the death of their subject": at >= pl.col("death"),
        }
        for what, wrong in reasons.items():
            yield from _told(task, placed, placed.filter(wrong.fill_null(False)), what)
        if task in in_stay:
            outside = _outside(rows, stays[task])
            yield from _told(
                task, rows, outside, "are outside every stay, though the task asks within one"
            )


def _told(task: str, rows: pl.DataFrame, wrong: pl.DataFrame, what: str) -> Iterator[Finding]:
    if wrong.height:
        yield Finding(
            task,
            f"{wrong.height:,} of {rows.height:,} rows {what}",
            wrong.height,
            subjects=ids(wrong["subject_id"]),
        )


def _read(
    inputs: Inputs, in_stay: dict[str, Definition]
) -> tuple[pl.DataFrame, dict[str, pl.DataFrame]]:
    """subject_id, first, last, death of each subject; and task -> subject_id, start, end of stays."""
    config = validated(LabelsConfig, inputs.label_config) or LabelsConfig()
    spans: list[pl.DataFrame] = []
    stays: dict[str, list[pl.DataFrame]] = {task: [] for task in in_stay}
    code, time = pl.col("code"), pl.col("time")
    for events in events_of(inputs, in_stay):
        spans.append(
            events.all.group_by("subject_id").agg(
                first=time.filter(~code.str.contains(BIRTH)).min(),
                last=time.max(),
                death=time.filter(code.str.contains(config.death)).min(),
            )
        )
        for task, definition in in_stay.items():
            assert definition.stays is not None
            stays[task].append(definition.stays(events))
    return pl.concat(spans), {task: pl.concat(found) for task, found in stays.items()}


def _outside(rows: pl.DataFrame, stays: pl.DataFrame) -> pl.DataFrame:
    """Rows in no stay, of those that have begun; one whose end is not recorded goes on."""
    at = pl.col("prediction_time")
    within = (
        rows.join(stays, on="subject_id")
        .filter((pl.col("start") <= at) & ((at < pl.col("end")) | pl.col("end").is_null()))
        .select("subject_id", "prediction_time")
        .unique()
    )
    return rows.join(within, on=["subject_id", "prediction_time"], how="anti")
