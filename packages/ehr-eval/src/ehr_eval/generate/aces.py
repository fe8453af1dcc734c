"""`ehr-eval aces`: risks of any ACES task, told of simulated futures by ACES itself.

Each future with the record before it is a record of its own; what ACES says of that, asked at the prediction
time, is counted.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from ehr_eval.frames import KEY, PRODUCER, read_events, read_subjects
from ehr_eval.generate.intervals import of_counts
from ehr_eval.generate.trajectories import EVENTS, FUTURES
from ehr_eval.generate.zeroshot import seal_predictions, write_predictions
from ehr_eval.tasks.aces import AcesTask
from ehr_tracking.arrow import labels as label_reader
from ehr_tracking.arrow.label_files import label_source
from ehr_tracking.arrow.meds import data_files
from ehr_tracking.contracts import (
    HELD_OUT,
    MEDS,
    PREDICTIONS,
    TRAJECTORIES,
    TUNING,
    ContractError,
)
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import (
    check_file,
    new_artifact,
    raw_source,
    read_manifest,
    refuse_existing,
    source,
)

_COLUMNS = ["time", "code", "numeric_value"]
_FUTURE = [*KEY, "sample"]


def aces(
    trajectories: PathLike,
    meds: PathLike,
    labels: PathLike,
    task: PathLike,
    out: PathLike,
    *,
    confidence: float = 0.95,
    overwrite: bool = False,
) -> pl.DataFrame:
    """Write `predictions/1` of the held-out rows of one task, and of its tuning rows where all have futures.

    A risk is the share of futures that ACES labels positive among those that it finds a row in at the
    prediction time, with the interval of Clopper and Pearson.

    Args:
        trajectories: `trajectories/1`, from the prediction times of the labels.
        meds: The data set that they go on with.
        labels: Of the task, as ACES makes them of real records.
        task: Its ACES file, with predicates, a label and an index timestamp.
        out: Where the artifact shall be.
        confidence: Of the intervals.
        overwrite: Replace predictions that are there.

    Returns:
        subject_id, prediction_time, risk, lower, upper, tokens.

    Raises:
        UserError: If ACES is not installed, or `out` exists.
        ConfigError: If the file is no ACES task with a label and an index timestamp.
        ContractError: If an input is not what it should be, or futures of a held-out row are missing.
    """
    trajectories, meds, labels, task, out = map(Path, (trajectories, meds, labels, task, out))
    refuse_existing(
        out, PREDICTIONS, overwrite=overwrite, inputs=[trajectories, meds, labels, task]
    )
    config = AcesTask(task)
    name, table = label_reader.read_task(labels, reader=PRODUCER)
    files = data_files(meds)
    subjects = read_subjects(meds, files, seed=0)
    told = pl.DataFrame(pl.from_arrow(label_reader.binary(table, task=name)))
    events, futures = (_read(trajectories, folder) for folder in (EVENTS, FUTURES))
    asked = _asked(told.join(subjects, on="subject_id"), futures)
    if not (asked["split"] == HELD_OUT).any():
        raise ContractError(f"{labels}: no label of task {name} is of a held-out subject of {meds}")
    parts = [
        _answers(config, read_events(files[number]), mine, events, futures)
        for (number,), mine in asked.group_by("file", maintain_order=True)
    ]
    found = _risks(pl.concat(parts), confidence)
    inputs = {
        "trajectories": source(trajectories),
        "meds": raw_source(meds, contract=MEDS),
        "labels": label_source(labels),
    }
    with new_artifact(
        out, PREDICTIONS, overwrite=overwrite, inputs=[trajectories, meds, labels]
    ) as partial:
        rows = write_predictions(
            partial, found.with_columns(task=pl.lit(name)), {name: asked}, trajectories
        )
        resolved = {"task": config.text, "confidence": confidence}
        seal_predictions(partial, resolved, None, inputs, rows)
    return found


def _read(trajectories: Path, folder: str) -> pl.DataFrame:
    manifest = read_manifest(trajectories, TRAJECTORIES, reader=PRODUCER)
    names = [name for name in manifest.files if name.startswith(f"{folder}/")]
    return pl.concat(pl.read_parquet(check_file(trajectories, manifest, n)) for n in sorted(names))


def _asked(rows: pl.DataFrame, futures: pl.DataFrame) -> pl.DataFrame:
    """Held-out rows, and tuning rows unless one has no future."""
    tuning = rows.filter(split=TUNING)
    if tuning.join(futures, on=KEY, how="anti").height:
        tuning = tuning.clear()
    return pl.concat([rows.filter(split=HELD_OUT), tuning]).sort(KEY)


def _answers(
    config: AcesTask,
    events: pl.DataFrame,
    asked: pl.DataFrame,
    drawn: pl.DataFrame,
    futures: pl.DataFrame,
) -> pl.DataFrame:
    """Each future of some rows, with `label`, null where ACES finds no row, and `tokens`."""
    mine = futures.join(asked.select(KEY), on=KEY, how="semi").with_row_index("record")
    keys = mine.select("record", *_FUTURE)
    past = keys.join(events, on="subject_id").filter(
        pl.col("time").is_null() | (pl.col("time") <= pl.col("prediction_time"))
    )
    future = keys.join(drawn, on=_FUTURE, maintain_order="left")
    records = pl.concat([x.select("record", *_COLUMNS) for x in (past, future)])
    records = records.rename({"record": "subject_id"}).cast({"subject_id": pl.Int64})
    at = mine.cast({"record": pl.Int64}).rename({"record": "row"})
    rows = config.label(records).rename({"subject_id": "row", "boolean_value": "label"})
    return at.join(rows, on=["row", "prediction_time"], how="left", maintain_order="left")


def _risks(answers: pl.DataFrame, confidence: float) -> pl.DataFrame:
    counts = answers.group_by(KEY, maintain_order=True).agg(
        hits=pl.col("label").sum(), asked=pl.col("label").count(), tokens=pl.col("tokens").sum()
    )
    hits, asked = (counts[c].to_numpy().astype(float) for c in ("hits", "asked"))
    found = of_counts(hits, asked, confidence)
    columns: Mapping[str, Any] = dict(zip(("risk", "lower", "upper"), found, strict=True))
    return counts.select(*KEY, "tokens").with_columns(
        **{n: pl.Series(x, nan_to_null=True) for n, x in columns.items()}, drawn="tokens"
    )
