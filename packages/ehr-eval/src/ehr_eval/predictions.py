"""Predictions of a model that was trained elsewhere, checked against the labels it is judged on.

n held-out rows of a task, p predicted rows.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from ehr_eval.frames import KEY, PRODUCER, in_order_of
from ehr_tracking.arrow.columns import microseconds, no_nulls, whole_numbers
from ehr_tracking.arrow.parquet import read_table
from ehr_tracking.contracts import HELD_OUT, PREDICTIONS, TUNING, ContractError
from ehr_tracking.manifest import MANIFEST, Source, check_file, raw_source, read_manifest
from ehr_tracking.tree import files_below

MEDS_PREDICTIONS = "meds-predictions/0.4"
"""What predictions are in a lineage that carry no manifest: anyone's, not `predictions/1`."""
_DRAW = re.compile(r"k=(?P<k>-1|[1-9]\d*)/replicate=(?P<replicate>0|[1-9]\d*)/")
_DRAWS = re.compile(r"(?:^|/)k=")
_LIKE_DRAW = re.compile(r"(k|replicate)=")
LABEL, DECIDED = "boolean_value", "predicted_boolean_value"
PROBABILITY = "predicted_boolean_probability"


class Predicted(NamedTuple):
    """What a model says of the held-out rows of a task."""

    probability: npt.NDArray[np.float64]
    """[n] of the outcome."""
    decided: npt.NDArray[np.bool_] | None = None
    """[n] what each row is called; None where no threshold was chosen."""


class Draw(NamedTuple):
    """The shots that a model was fitted on."""

    k: int
    replicate: int


def read_predictions(
    directory: Path, held_out: Mapping[str, pl.DataFrame], *, others: Collection[str] = ()
) -> dict[str, dict[Draw, Predicted]]:
    """Read what one model says of the held-out rows of each task.

    Args:
        directory: `<task>/**/*.parquet` in the schema of meds-evaluation; where it is a
            `predictions/1` artifact, its files are checked against the manifest. What lies below
            `<task>/k=<k>/replicate=<r>/` was fitted on these shots, all else on all rows.
        held_out: Task -> its held-out labels: subject_id, prediction_time, boolean_value.
        others: Tasks of the labels that are not evaluated: predictions of them are passed over.

    Returns:
        Task -> draw -> what is predicted, in the order of that task's `held_out`; tasks that the model does not predict are left out.

    Raises:
        ContractError: If there are none; a file cannot be read, was changed, lies in no task's
            folder or is of a task that the labels lack; a column is missing, mistyped or null; a
            probability is not within [0, 1]; or a row is there twice, missing, no held-out label,
            or says another outcome than the labels. Naming file or task and the first such row.
    """
    found = {}
    for task, draws in prediction_files(directory, {*held_out, *others}).items():
        if task in held_out:
            found[task] = {
                draw: read_aligned(task, files, held_out[task], where=directory)
                for draw, files in draws.items()
            }
        elif task not in others:
            known = ", ".join(sorted({*held_out, *others}))
            raise ContractError(f"{directory} predicts task {task}; the labels have {known}")
    return found


def prediction_files(
    directory: Path, known: Collection[str], *, split: str = HELD_OUT
) -> dict[str, dict[Draw, list[Path]]]:
    """Task -> draw of the shots -> files of predictions of one split.

    Args:
        directory: As of `read_predictions`. What lies below `tuning/` are predictions of tuning rows, by
            which probabilities may be recalibrated; all else is of held-out rows.
        known: Tasks of the labels, whose names may hold `/`.
        split: held_out or tuning.

    Raises:
        ContractError: If there are none that are held out, or one was changed or lies in no task's folder.
    """
    root = directory / TUNING if split == TUNING else directory
    return {
        task: dict(sorted(_by_draw(root / task, files).items()))
        for task, files in _tasks(directory, known, split).items()
    }


def _by_draw(directory: Path, files: Iterable[Path]) -> dict[Draw, list[Path]]:
    draws: dict[Draw, list[Path]] = {}
    for path in files:
        below = path.relative_to(directory).as_posix()
        named = _DRAW.match(below)
        if not named and _LIKE_DRAW.match(below):
            raise ContractError(
                f"{path}: predictions of few shots lie in k=<k>/replicate=<r>/, k 1 or more (all "
                "rows: -1), r 0 or more"
            )
        if named and below[named.end() :].startswith(f"{TUNING}/"):
            continue  # of `predict --shots`: each draw is an artifact, with its tuning rows beside
        draw = Draw(int(named["k"]), int(named["replicate"])) if named else Draw(-1, 0)
        draws.setdefault(draw, []).append(path)
    return draws


def predictions_source(directory: Path) -> Source:
    """Predictions as an input: the artifact that they are, else the files."""
    return raw_source(directory, contract=MEDS_PREDICTIONS)


def _tasks(directory: Path, known: Collection[str], split: str) -> dict[str, list[Path]]:
    """Task -> its files, in the order of their paths; no known task lies in another's folder."""
    if not directory.is_dir():
        raise ContractError(f"{directory}: no such directory")
    names = {p.relative_to(directory).as_posix() for p in files_below(directory, ".parquet")}
    if (directory / MANIFEST).is_file():
        manifest = read_manifest(directory, PREDICTIONS, reader=PRODUCER)
        names |= {name for name in manifest.files if name.endswith(".parquet")}
        for name in sorted(names):
            check_file(directory, manifest, name)
    beside = {name for name in names if name.startswith(f"{TUNING}/")}
    root, names = (
        (directory / TUNING, {name.removeprefix(f"{TUNING}/") for name in beside})
        if split == TUNING
        else (directory, names - beside)
    )
    if not names and split != TUNING:
        raise ContractError(f"{directory} holds no predictions: expected <task>/**/*.parquet")
    tasks: dict[str, list[Path]] = {}
    for name in sorted(names):
        task = next((task for task in known if name.startswith(f"{task}/")), "")
        task = task or _DRAWS.split(name.rpartition("/")[0])[0]
        if not task:
            raise ContractError(f"{root / name} lies in no task's folder: expected <task>/")
        tasks.setdefault(task, []).append(root / name)
    return tasks


def _read(path: Path) -> pl.DataFrame:
    """[p] the key, the outcome, what it is called (or null), the probability, and `file`."""
    table = read_table(path, [*KEY, LABEL, DECIDED, PROBABILITY])
    for name in (*KEY, LABEL, PROBABILITY):
        if name not in table.column_names:
            raise ContractError(f"{path} has no column {name}: not predictions of meds-evaluation")
        no_nulls(table[name], name, path)
    label, probability = table[LABEL], table[PROBABILITY]
    if not pa.types.is_boolean(label.type):
        raise ContractError(f"{path}: column {LABEL} is {label.type} (expected bool)")
    if not pa.types.is_floating(probability.type):
        raise ContractError(f"{path}: column {PROBABILITY} is {probability.type} (expected float)")
    value = probability.cast(pa.float64()).to_numpy()
    outside = ~((value >= 0) & (value <= 1))  # NaN as well
    if outside.any():
        row = int(outside.argmax())
        raise ContractError(
            f"{path} row {row}: {PROBABILITY} = {value[row]:g}, which is no probability in [0, 1]"
        )
    columns: dict[str, Any] = {
        "subject_id": whole_numbers(table["subject_id"], "subject_id", path),
        "prediction_time": microseconds(table["prediction_time"], "prediction_time", path),
        LABEL: label,
        PROBABILITY: value,
    }
    columns[DECIDED] = _decided(table, path)
    frame = pl.DataFrame(pl.from_arrow(pa.table(columns)))
    return frame.with_columns(file=pl.lit(str(path)))


def _decided(table: pa.Table, path: Path) -> pa.ChunkedArray | pa.Array:
    if DECIDED not in table.column_names or table[DECIDED].null_count == len(table):
        return pa.nulls(len(table), pa.bool_())
    no_nulls(table[DECIDED], DECIDED, path)  # of some rows alone it would be another F1
    if not pa.types.is_boolean(table[DECIDED].type):
        raise ContractError(f"{path}: column {DECIDED} is {table[DECIDED].type} (expected bool)")
    return table[DECIDED]


def read_aligned(
    task: str, files: Iterable[Path], labels: pl.DataFrame, *, where: Path, split: str = HELD_OUT
) -> Predicted:
    """What some files say of a task, in the order of its labels.

    Args:
        task: For messages.
        files: In the schema of meds-evaluation.
        labels: [n] subject_id, prediction_time, boolean_value of the rows that they shall predict.
        where: The folder that they are of, for messages.
        split: That the labels are of, for messages.

    Raises:
        ContractError: As of `read_predictions`.
    """
    kind = split.replace("_", "-")
    predicted = pl.concat([_read(path) for path in files])
    _refuse(predicted.filter(pl.struct(KEY).is_duplicated()), "is predicted twice", task)
    told = labels.select(*KEY, outcome=LABEL)
    checked = predicted.join(told, on=KEY, how="left", maintain_order="left")
    extra = checked.filter(pl.col("outcome").is_null())
    _refuse(extra, f"is predicted, but is no {kind} label", task)
    wrong = checked.filter(pl.col("outcome") != pl.col(LABEL))
    _refuse(wrong, f"has another {LABEL} than the labels", task)
    found = in_order_of(
        labels.select(KEY), predicted, where=where, what=f"{kind} labels of task {task}"
    )
    decided = None if found[DECIDED].null_count() else found[DECIDED].to_numpy()
    return Predicted(found[PROBABILITY].to_numpy(), decided)


def _refuse(rows: pl.DataFrame, what: str, task: str) -> None:
    if rows.height:
        path, subject, time = rows.select("file", *KEY).row(0)
        more = f" ({rows.height:,} such rows)" if rows.height > 1 else ""
        raise ContractError(f"{path}: subject {subject} at {time} {what} of task {task}{more}")
