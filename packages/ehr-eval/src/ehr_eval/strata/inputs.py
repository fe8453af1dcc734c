"""Labels, data set, tokens and predictions, brought to the held-out rows of each task."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from tqdm import tqdm

from ehr_eval.frames import KEY, PRODUCER, labelled_rows, read_events, read_labels, read_subjects
from ehr_eval.judge.metrics.ranked import Floats
from ehr_eval.predictions import Draw, read_predictions
from ehr_eval.strata.config import StrataConfig
from ehr_eval.strata.measures import MEASURES, measure_rows
from ehr_tracking.arrow.delays import Delays, delays_of
from ehr_tracking.arrow.meds import data_files
from ehr_tracking.config import ConfigError
from ehr_tracking.contracts import HELD_OUT, RESULTS, TOKENS, ContractError
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import MANIFEST, check_file, load_manifest, read_manifest
from ehr_tracking.names import require_name

_ALL = Draw(-1, 0)


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
        UserError: If a task or model is left out by all, or a name is there twice.
    """
    tables = read_labels(labels, config.labels)
    unknown = sorted(set(config.tasks or ()) - tables.keys())
    if unknown:
        raise ConfigError(f"tasks: {labels} has no task {unknown[0]}; it has {', '.join(tables)}")
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
    said = _said(predictions, held_out, others=tables.keys() - held_out.keys())
    if not said:
        raise UserError(f"no predictions are of a task of {labels} that is asked for")
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
            events = read_events(path, delays).join(here, on="subject_id", how="semi")
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
    predictions: Mapping[str, Path], held_out: Mapping[str, pl.DataFrame], *, others: set[str]
) -> dict[str, dict[str, Floats]]:
    """Task -> model -> probabilities of its rows; fitted on all rows, not on shots."""
    found: dict[str, dict[str, Floats]] = {}
    for name, path in predictions.items():
        require_name(name, "model")
        if _is_results(path):
            told = _of_results(name, path, held_out)
        else:
            read = read_predictions(path, held_out, others=others)
            told = {
                t: {name: draws[_ALL].probability} for t, draws in read.items() if _ALL in draws
            }
        if not told:
            raise UserError(f"{path} has no predictions of the tasks by a model fitted on all rows")
        for task, models in told.items():
            if both := found.get(task, {}).keys() & models.keys():
                raise UserError(f"two models are called {min(both)}; give one another name")
            found.setdefault(task, {}).update(models)
    return {task: found[task] for task in sorted(found)}


def _is_results(path: Path) -> bool:
    return (path / MANIFEST).is_file() and load_manifest(path).contract == RESULTS.tag


def _of_results(
    name: str, path: Path, held_out: Mapping[str, pl.DataFrame]
) -> dict[str, dict[str, Floats]]:
    """Of the models and heads of `results/1`, each called `NAME/model/head`."""
    manifest = read_manifest(path, RESULTS, reader=PRODUCER)
    found: dict[str, dict[str, Floats]] = {}
    for task, rows in held_out.items():
        for file in sorted(manifest.files):
            below = file.removeprefix(f"predictions/{task}/")
            if below == file or below.count("/") != 1:
                continue
            check_file(path, manifest, file)
            read = read_predictions_file(path / file, task, rows)
            found.setdefault(task, {})[f"{name}/{below.removesuffix('.parquet')}"] = read
    return found


def read_predictions_file(path: Path, task: str, rows: pl.DataFrame) -> Floats:
    """[n] what one file of `results/1` says of a task's rows.

    Raises:
        ContractError: If it lacks one.
    """
    table = pl.read_parquet(path).select(*KEY, p="predicted_boolean_probability")
    told = rows.select(KEY).join(table, on=KEY, how="left", maintain_order="left")
    if told["p"].null_count() or told.height != rows.height:
        raise ContractError(
            f"{path} does not predict the held-out labels of task {task}, each once"
        )
    return told["p"].to_numpy().astype(np.float64)


def measures_of(told: Told) -> list[str]:
    """Those that its rows have."""
    return [name for name in MEASURES if name in told.rows.columns]
