"""`ehr-eval adopt`: files of another system to `predictions/1`, joined with the labels they are judged on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa

from ehr_eval.answers import Answer, write_parts
from ehr_eval.foreign.config import ForeignConfig
from ehr_eval.foreign.read import DECIDED, PROBABILITY, TASK, read_file, refuse_twice
from ehr_eval.frames import KEY, PRODUCER
from ehr_eval.predictions import LABEL
from ehr_eval.tasks.label_tasks import read_labels
from ehr_tracking.arrow.label_files import label_source
from ehr_tracking.arrow.splits import Splits, read_splits
from ehr_tracking.config import to_dict
from ehr_tracking.contracts import HELD_OUT, MEDS, PREDICTIONS, SPLITS, TUNING, ContractError
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import new_artifact, raw_source, seal

_THEIRS = "foreign-predictions"
"""What the files are in a lineage."""
_SCHEMA = pa.schema(
    {"subject_id": pa.int64(), "prediction_time": pa.timestamp("us"), LABEL: pa.bool_(),
     DECIDED: pa.bool_(), PROBABILITY: pa.float32()}
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Adopted:
    """What became of a task."""

    task: str
    rows: int
    """Written, tuning rows apart."""
    tuning: int
    """Tuning rows written: all that are labelled, or none."""
    labelled: int
    """Labels that they could be of: all, or those of held-out subjects."""
    elsewhere: int
    """Predicted rows of other subjects, left away."""


def adopt(
    files: Sequence[PathLike],
    labels: PathLike,
    out: PathLike,
    config: ForeignConfig,
    *,
    task: str | None = None,
    meds: PathLike | None = None,
    overwrite: bool = False,
) -> list[Adopted]:
    """Write predictions of another system as `predictions/1`, with the outcomes of the labels.

    Args:
        files: Of one task each, or with a column that names it.
        labels: Of one or more tasks.
        out: Where the artifact shall be.
        config: What the files call their columns.
        task: Of files without such a column; None where labels have one task, or files are named like tasks.
        meds: Data set whose held-out subjects are kept, and its tuning subjects where each of their labels is
            predicted; None takes all for held out.
        overwrite: Replace predictions that are there.

    Raises:
        ContractError: If a file or the labels cannot be read, or a row is there twice or has no label.
        UserError: If it cannot be told which task a file is of, or `out` may not be written.
    """
    paths, labels, out = [Path(file) for file in files], Path(labels), Path(out)
    meds = None if meds is None else Path(meds)
    tables = read_labels(labels, config.labels)
    splits = None if meds is None else read_splits(meds)
    read = [*paths, labels, *([meds] if meds else [])]
    with new_artifact(out, PREDICTIONS, overwrite=overwrite, inputs=read) as partial:
        told: dict[str, list[pl.DataFrame]] = {}
        for path in paths:
            for name, rows in _by_task(path, read_file(path, config), task, list(tables)).items():
                told.setdefault(name, []).append(rows)
        done: list[Adopted] = []
        written: dict[str, int] = {}
        for name in sorted(told):
            if name not in tables:
                raise ContractError(
                    f"{labels} has no labels of task {name}; it has {', '.join(tables)}"
                )
            rows = pl.concat(told[name])
            refuse_twice(rows, paths[0], name)
            answer, labelled = _judged(rows, tables[name], name, labels, splits)
            written |= write_parts(partial, name, answer)
            held_out, tuning = len(answer.table), len(answer.tuning or ())
            counts = {"rows": held_out, "tuning": tuning, "labelled": labelled}
            done.append(Adopted(task=name, **counts, elsewhere=rows.height - held_out - tuning))
        inputs = {f"file.{i}": raw_source(path, contract=_THEIRS) for i, path in enumerate(paths)}
        inputs["labels"] = label_source(labels)
        if meds:
            inputs["splits"] = raw_source(meds / "metadata", contract=MEDS)
        seal(
            partial,
            PREDICTIONS,
            producer=PRODUCER,
            config=to_dict(config),
            inputs=inputs,
            rows=written,
        )
    return done


def _by_task(
    path: Path, rows: pl.DataFrame, task: str | None, known: Sequence[str]
) -> dict[str, pl.DataFrame]:
    if TASK in rows.columns:
        return {
            str(name): part.drop(TASK) for (name,), part in rows.group_by(TASK, maintain_order=True)
        }
    name = task or (known[0] if len(known) == 1 else path.stem)
    if name not in known:
        raise UserError(
            f"{path}: of which task is it? The labels have {', '.join(known)}; name it with --task, or the "
            "column that does with -s task="
        )
    return {name: rows}


def _judged(
    rows: pl.DataFrame, labels: pl.DataFrame, task: str, where: Path, splits: Splits | None
) -> tuple[Answer, int]:
    """What is said of the held-out labels and of the tuning labels, in their order; and how many are held out."""
    told, known = _split(rows, splits), _split(labels, splits)
    ours, held_out = told.filter(split=HELD_OUT), known.filter(split=HELD_OUT)
    alien = ours.join(held_out, on=KEY, how="anti", maintain_order="left")
    if alien.height:
        subject, time = alien.select(KEY).row(0)
        raise ContractError(
            f"{where} has no label of task {task} of subject {subject} at {time}, which is predicted "
            f"({alien.height:,} such rows)"
        )
    table = _with_outcomes(ours, held_out)
    if not len(table):
        raise ContractError(f"{where}: no label of task {task} is predicted")
    # of some tuning rows alone no reader could say which are missing on purpose
    beside = known.filter(split=TUNING)
    tuning = _with_outcomes(told.filter(split=TUNING), beside)
    return Answer(table, tuning=tuning if len(tuning) == beside.height else None), held_out.height


def _split(rows: pl.DataFrame, splits: Splits | None) -> pl.DataFrame:
    """With `split`: as the data set has it; without one, all are held out."""
    if splits is None:
        return rows.with_columns(split=pl.lit(HELD_OUT))
    number = splits.of_everyone(rows["subject_id"].to_numpy())
    return rows.with_columns(split=pl.Series([SPLITS[n] for n in number.tolist()], dtype=pl.String))


def _with_outcomes(rows: pl.DataFrame, labels: pl.DataFrame) -> pa.Table:
    found = labels.select(*KEY, LABEL).join(rows, on=KEY, how="inner", maintain_order="left")
    return found.select(_SCHEMA.names).to_arrow().cast(_SCHEMA)
