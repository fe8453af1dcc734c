"""What a fine-tuned model says of labelled rows, through its own head.

n rows, C outputs, M measurements.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from ehr_eval.answers import ANSWERS, Outputs, write_parts
from ehr_eval.features.config import FeaturesConfig
from ehr_eval.features.reader import Reader, read_rows, subjects_of
from ehr_eval.frames import KEY, PRODUCER, labelled_rows
from ehr_eval.shot_labels import ShotDraw, shot_labels
from ehr_models.checkpoint import LoadedCheckpoint, load_checkpoint, require_same_vocabulary
from ehr_models.data.store import open_split
from ehr_models.data.tokens import open_tokens
from ehr_models.heads.config import Problem
from ehr_models.heads.losses import problem_of
from ehr_tracking.arrow import labels as label_reader
from ehr_tracking.arrow.label_csv import MEASURED
from ehr_tracking.arrow.label_files import label_source
from ehr_tracking.config import to_dict
from ehr_tracking.contracts import HELD_OUT, TUNING, ContractError
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import new_artifact, refuse_existing, seal, source


class PredictSummary(NamedTuple):
    """What was written."""

    path: Path
    problem: str
    rows: dict[str, int]
    """Task -> its held-out rows."""
    thresholds: dict[str, float | None]
    """Task -> what is called positive is at least as probable: of highest F1 on the tuning rows."""


def predict(
    checkpoint: PathLike,
    tokens: PathLike,
    labels: PathLike,
    out: PathLike,
    config: FeaturesConfig | None = None,
    *,
    device: str = "cpu",
    overwrite: bool = False,
    draw: ShotDraw | None = None,
) -> PredictSummary:
    """Write what a model with a pooled head of its own says of the held-out rows of its task.

    Of a binary head `predictions/1`: probabilities, and what rows are called at the threshold of
    highest F1 on the tuning rows; of a multi-label head the same, a task a label. Of a multi-class
    head `classes/1`, of regression `numbers/1` in the unit of the labels, of a survival head
    `risks/1`. Each row is read by itself, and sees what was known at its prediction time.

    Args:
        checkpoint: A run, a checkpoint or an adapter, of a model with such a head.
        tokens: `tokens/1` with its vocabulary.
        labels: Of one task; of a multi-label head of all tasks that it was trained on.
        out: Where the artifact shall be.
        config: Context, batches, precision, columns of CSV labels; pooling is the head's own.
        device: As torch names it.
        overwrite: Replace an artifact that is there.
        draw: Where the labels are `shots/1`: whose tuning rows the threshold is chosen on.

    Raises:
        ContractError: If an input is not what it should be, the vocabularies differ, the labels lack
            a task or a measurement of the head, none is in held_out, or a row sees no token.
        UserError: If `out` exists, or the head does not say what its outputs mean.
    """
    checkpoint, tokens, labels, out = Path(checkpoint), Path(tokens), Path(labels), Path(out)
    config = config or FeaturesConfig()
    read = [checkpoint, tokens, labels]
    loaded = load_checkpoint(checkpoint)
    problem = _problem(loaded)
    contract, answer = ANSWERS[problem]
    refuse_existing(out, contract, overwrite=overwrite, inputs=read)
    token_set = open_tokens(tokens)
    require_same_vocabulary(loaded, token_set)
    reader = Reader(loaded, config, device=device)
    tables = _labels(loaded, problem, labels, config) if draw is None else shot_labels(labels, draw)
    splits = {split: open_split(token_set, split) for split in token_set.splits}
    rows = labelled_rows(tables, subjects_of(splits), where=tokens)
    rows = rows.filter(pl.col("split").is_in([TUNING, HELD_OUT]))
    parts = {task: _part(rows, task, table, labels, tokens) for task, table in tables.items()}
    beside = _measurements(loaded, tables, rows, labels)
    width = len(loaded.model.config.id2label or ())  # one name an output, whatever it means
    values, visible = read_rows(splits, rows, reader.answer, width, beside)
    _refuse_blind(rows, visible, tokens)
    found = {}
    for i, (task, mine) in enumerate(parts.items()):
        of_task = values[mine["at"].to_numpy()].astype(np.float64)
        of_task = of_task[:, [i]] if problem == "multilabel" else of_task
        found[task] = answer(Outputs(task, tables[task], mine, of_task, loaded.model.config))
    thresholds = {task: each.threshold for task, each in found.items()}
    with new_artifact(out, contract, overwrite=overwrite, inputs=read) as partial:
        written: dict[str, int] = {}
        for task, each in found.items():
            written |= write_parts(partial, task, each)
        seal(
            partial,
            contract,
            producer=PRODUCER,
            config={**to_dict(config), "context": reader.context, "thresholds": thresholds},
            seed=None,
            inputs={
                "checkpoint": loaded.source,
                "tokens": source(tokens),
                "labels": label_source(labels),
            },
            rows=written,
        )
    held_out = {task: int((mine["split"] == HELD_OUT).sum()) for task, mine in parts.items()}
    return PredictSummary(out, problem, held_out, thresholds)


def _problem(loaded: LoadedCheckpoint) -> Problem:
    said = problem_of(loaded.model.config) if loaded.head != "token" else None
    problem = next((name for name in ANSWERS if name == said), None)
    if problem is None:
        raise UserError(
            f"{loaded.directory} has a {loaded.head} head, of which nothing says what its outputs "
            "mean: fine-tune a model on labels (ehr-train --labels), or read features"
        )
    if problem == "regression" and loaded.model.config.num_labels != 1:
        raise UserError(
            f"{loaded.directory} gives {loaded.model.config.num_labels} numbers of each row; labels "
            "hold one"
        )
    return problem


def _labels(
    loaded: LoadedCheckpoint, problem: Problem, labels: Path, config: FeaturesConfig
) -> dict[str, pa.Table]:
    """Task -> its labels, in the order of the outputs of a multi-label head."""
    columns = config.labels
    if not columns.measurements:
        columns = replace(columns, measurements=_measured(loaded))
    if problem != "multilabel":
        task, table = label_reader.read_task(labels, reader=PRODUCER, columns=columns)
        return {task: table}
    tables = label_reader.read_labels(labels, reader=PRODUCER, columns=columns)
    names = list((loaded.model.config.id2label or {}).values())
    missing = [name for name in names if name not in tables]
    if missing:
        raise ContractError(
            f"{labels} has no labels of {', '.join(missing)}, which the head of {loaded.directory} "
            f"tells; it has {', '.join(tables)}"
        )
    return {name: tables[name] for name in names}


def _measured(loaded: LoadedCheckpoint) -> tuple[str, ...]:
    """What the measurements that the head reads are called.

    Raises:
        UserError: If it reads some, but does not say which.
    """
    reads = int(getattr(loaded.model.config, "classifier_measurements", 0))
    names = tuple(getattr(loaded.model.config, "measurement_names", None) or ())
    if len(names) != reads:
        raise UserError(
            f"{loaded.directory} reads {reads} measurements, but its configuration names "
            f"{len(names)}: say measurement_names, measurement_mean and measurement_std there"
        )
    return names


def _measurements(
    loaded: LoadedCheckpoint, tables: Mapping[str, pa.Table], rows: pl.DataFrame, labels: Path
) -> npt.NDArray[np.float32] | None:
    """[n, M] scaled as in training, a missing one at the mean; None where the head reads none."""
    names = _measured(loaded)
    if not names:
        return None
    table = next(iter(tables.values()))  # those of a CSV file have the same rows
    missing = [name for name in names if f"{MEASURED}{name}" not in table.column_names]
    if missing:
        raise ContractError(
            f"{labels} has no measurement {', '.join(missing)}, which the head of {loaded.directory} "
            "reads; give labels as a CSV file, and name its columns with labels.measurements"
        )
    columns = [f"{MEASURED}{name}" for name in names]
    measured = pl.DataFrame(pl.from_arrow(table.select([*KEY, *columns])))
    found = rows.join(measured, on=KEY, how="left", maintain_order="left").select(columns)
    mean, std = (
        np.array(getattr(loaded.model.config, f"measurement_{n}")) for n in ("mean", "std")
    )
    scaled: npt.NDArray[np.float64] = (found.to_numpy() - mean) / std
    return np.nan_to_num(scaled).astype(np.float32)


def _part(
    rows: pl.DataFrame, task: str, table: pa.Table, labels: Path, tokens: Path
) -> pl.DataFrame:
    """The rows of a task, and `at`: where among all they are."""
    told = pl.DataFrame(pl.from_arrow(table.select(KEY)))
    mine = rows.with_row_index("at").join(told, on=KEY, how="semi", maintain_order="left")
    if not (mine["split"] == HELD_OUT).any():
        raise ContractError(
            f"{labels}: no label of task {task} is of a subject that {tokens} has in {HELD_OUT}"
        )
    return mine


def _refuse_blind(rows: pl.DataFrame, visible: npt.NDArray[np.int64], tokens: Path) -> None:
    blind = rows.filter(pl.Series(visible == 0))
    if blind.height:
        subject, time = blind.select(KEY).row(0)
        raise ContractError(
            f"{tokens}: {blind.height:,} labelled rows see no token, the first of subject {subject} at "
            f"{time}; leave them out, or tokenise with [BOS] or static codes"
        )
