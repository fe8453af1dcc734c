"""Labels, data set, tokens and predictions, brought to the held-out rows of each task."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from tqdm import tqdm

from ehr_eval.frames import (
    KEY,
    PRODUCER,
    labelled_rows,
    read_events,
    read_subjects,
    require_tasks,
)
from ehr_eval.judge.metrics.ranked import Floats
from ehr_eval.judgement.inputs import models_of
from ehr_eval.predictions import read_aligned
from ehr_eval.strata.config import StrataConfig
from ehr_eval.strata.measures import MEASURES, measure_rows
from ehr_eval.tasks.label_tasks import read_labels
from ehr_tracking.arrow.delays import Delays, delays_of
from ehr_tracking.arrow.meds import data_files
from ehr_tracking.contracts import HELD_OUT, TOKENS, ContractError
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import read_manifest
from ehr_tracking.names import require_name


class Told(NamedTuple):
    """A task's held-out rows, and what models say of them."""

    rows: pl.DataFrame
    """[n] subject_id, prediction_time, boolean_value and a column a measure; by subject and time."""
    probability: Mapping[str, Floats]
    """Model -> [n]"""


def open_tasks(
    meds: Path,
    labels: Path,
    predictions: Mapping[str, Path],
    tokens: Path | None,
    config: StrataConfig,
) -> dict[str, Told]:
    """Task -> its held-out rows with their measures, and predictions.

    Args:
        meds: The data set.
        labels: Of it.
        predictions: Name -> `predictions/1` or anyone's like it, or `results/1`.
        tokens: Of it: their number, and their delays.
        config: Tasks, split.

    Raises:
        ContractError: If an input is not what it should be, or predictions lack a label.
        ConfigError: If the config names an unknown task.
        UserError: If predictions are of none of the tasks, or a name is there twice.
    """
    tables = read_labels(labels, config.labels)
    require_tasks(config.tasks, tables, labels)
    files = data_files(meds)
    subjects = read_subjects(meds, files, seed=config.seed)
    split = subjects.select("subject_id", "split")
    labelled = labelled_rows({t: f.to_arrow() for t, f in tables.items()}, subjects, where=meds)
    held_out = {
        task: table.join(split, on="subject_id", how="left")
        .filter(split=HELD_OUT)
        .sort(KEY)
        .select(*KEY, "boolean_value")
        for task, table in tables.items()
        if config.tasks is None or task in config.tasks
    }
    said = _said(predictions, held_out, tables.keys())
    keys = pl.concat([held_out[task].select(KEY) for task in said]).unique()
    rows = labelled.join(keys, on=KEY, how="semi")
    measured = _measured(files, rows, _delays(tokens))
    if tokens is not None:
        measured = _with_tokens(measured, tokens)
    return {
        task: Told(held_out[task].join(measured, on=KEY, how="left", maintain_order="left"), models)
        for task, models in said.items()
    }


def _delays(tokens: Path | None) -> Delays:
    return delays_of(read_manifest(tokens, TOKENS, reader=PRODUCER)) if tokens else Delays()


def _measured(files: list[Path], rows: pl.DataFrame, delays: Delays) -> pl.DataFrame:
    parts = []
    for i, path in enumerate(tqdm(files, desc="measuring", unit="file", disable=None)):
        here = rows.filter(pl.col("file") == i)
        if here.height:
            asked = pl.col("subject_id").is_in(here["subject_id"].unique().to_list())
            events = read_events(path, delays).filter(asked)
            ordered = events.sort("subject_id", "time", nulls_last=False, maintain_order=True)
            parts.append(measure_rows(ordered, here))
    return pl.concat(parts)


def _with_tokens(rows: pl.DataFrame, tokens: Path) -> pl.DataFrame:
    """With how many tokens each row knows."""
    from ehr_models.data.cutoff import visible_tokens
    from ehr_models.data.store import open_split
    from ehr_models.data.tokens import open_tokens

    split = open_split(open_tokens(tokens), HELD_OUT)
    order = np.argsort(split.subject_id, kind="stable")
    subject = rows["subject_id"].to_numpy()
    place = np.searchsorted(split.subject_id, subject, sorter=order)
    row = order[np.minimum(place, len(order) - 1)]
    missing = split.subject_id[row] != subject
    if missing.any():
        raise ContractError(
            f"{tokens}: its held-out split lacks {int(missing.sum()):,} labelled rows, the first of "
            f"subject {subject[missing.argmax()]}: give the tokens of this data set"
        )
    count = visible_tokens(split, row, rows["prediction_time"].dt.epoch("us").to_numpy())
    return rows.with_columns(tokens=pl.Series(count.astype(np.float64)))


def _said(
    predictions: Mapping[str, Path], held_out: Mapping[str, pl.DataFrame], known: Collection[str]
) -> dict[str, dict[str, Floats]]:
    """Task -> model -> probabilities of its rows."""
    found: dict[str, dict[str, Floats]] = {}
    for name, path in predictions.items():
        require_name(name, "model")
        told = models_of(name, path, known)
        if not any(task in held_out for of_task in told.values() for task in of_task):
            raise UserError(f"{path} predicts no task that is asked for ({', '.join(held_out)})")
        for model, of_task in told.items():
            for task in of_task.keys() & held_out.keys():
                files, models = of_task[task], found.setdefault(task, {})
                if model in models:
                    raise UserError(f"two models are called {model}; give one another name")
                rows = held_out[task]
                read = read_aligned(task, files.held_out, rows, where=files.where)
                models[model] = read.probability
    return {task: found[task] for task in sorted(found)}


def measures_of(told: Told) -> list[str]:
    """Those that its rows have."""
    return [name for name in MEASURES if name in told.rows.columns]
