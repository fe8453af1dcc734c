"""Labels as arrays, in the shape that a problem has them.

R rows, C labels, M measurements.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ehr_tracking.arrow.label_csv import LabelColumns
from ehr_tracking.contracts import SHOTS, ContractError
from ehr_tracking.manifest import check_file, read_manifest
from ehr_train import PRODUCER

if TYPE_CHECKING:
    import pyarrow as pa

    from ehr_models.data.tokens import TokenSet
    from ehr_models.heads.config import Problem


@dataclass(frozen=True, eq=False)
class LabelRows:
    """Rows of labels, each of a subject at a time."""

    subject_id: npt.NDArray[np.int64]
    """[R]"""
    time: npt.NDArray[np.int64]
    """[R] prediction times, microseconds since 1970"""
    label: npt.NDArray[Any]
    """As `Examples.label`."""
    names: tuple[str, ...] = ()
    """As `Examples.names`."""
    weight: npt.NDArray[np.float32] | None = None
    """[R]"""
    measurements: npt.NDArray[np.float32] | None = None
    """[R, M] not a number where one is missing"""
    measured: tuple[str, ...] = ()
    """What the M measurements are called."""


def read_rows(path: Path, problem: "Problem", columns: LabelColumns | None = None) -> LabelRows:
    """Read labels for a problem.

    Args:
        path: Of one task (of `multilabel`: of several whose rows agree, or of one), or of a directory
            that holds no other; anyone's, or a `labels/1` artifact.
        problem: What they have to say.
        columns: What a CSV file calls its columns.

    Raises:
        ContractError: Naming the tasks where there are several, or what is wrong with a file.
    """
    from ehr_tracking.arrow import labels

    if problem == "multilabel":
        return _several(labels.read_labels(path, reader=PRODUCER, columns=columns))
    task, table = labels.read_task(path, reader=PRODUCER, columns=columns)
    given = table
    names: tuple[str, ...] = ()
    if problem == "binary":
        table = labels.binary(table, task=task)
        label = table["boolean_value"].to_numpy().astype(np.float32)
    elif problem == "multiclass":
        table = labels.classes(table, task=task)
        coded = table["categorical_value"].combine_chunks()
        label, names = (
            coded.indices.to_numpy().astype(np.int64),
            tuple(coded.dictionary.to_pylist()),
        )
    elif problem == "regression":
        table = labels.numbers(table, task=task)
        label = table["float_value"].to_numpy()
    else:
        table = labels.time_to_event(table, task=task)
        both = (table[name].to_numpy() for name in (labels.DURATION, "boolean_value"))
        label = np.stack([column.astype(np.float64) for column in both], 1)
    return _rows(given, label, names)


def read_shots(path: Path, *, task: str, k: int, replicate: int) -> LabelRows:
    """The rows of one draw of `shots/1`, of train and tuning; one that was drawn twice is there twice.

    Raises:
        ContractError: If it is no `shots/1`, or has no such draw.
    """
    import pyarrow.compute as pc

    table = shots_table(path)
    asked = {"task": task, "k": k, "replicate": replicate}
    for name, value in asked.items():
        table = table.filter(pc.equal(table[name], value))
    if not len(table):
        raise ContractError(
            f"{path} has no shots of {', '.join(f'{n} {v}' for n, v in asked.items())}"
        )
    return _rows(table, table["boolean_value"].to_numpy().astype(np.float32), ())


def shots_table(path: Path) -> "pa.Table":
    """The rows of `shots/1`.

    Raises:
        ContractError: If it is none.
    """
    import pyarrow.parquet as pq

    manifest = read_manifest(path, SHOTS, reader=PRODUCER)
    return pq.read_table(check_file(path, manifest, "shots.parquet"))


def _several(tables: "dict[str, pa.Table]") -> LabelRows:
    """The labels of several tasks beside each other."""
    from ehr_tracking.arrow.labels import binary

    found = {task: binary(table, task=task) for task, table in tables.items()}
    (first, one), *others = found.items()
    given = next(iter(tables.values()))
    keys = _rows(one, np.zeros(0), ())
    for task, table in others:
        other = _rows(table, np.zeros(0), ())
        mine, theirs = (set(zip(k.subject_id, k.time, strict=True)) for k in (keys, other))
        if mine != theirs:
            subject, _ = min(mine ^ theirs)
            raise ContractError(
                f"several labels at once need the same rows, but tasks {first} and {task} differ in "
                f"{len(mine ^ theirs):,}, the first of subject {subject}"
            )
    columns = (table["boolean_value"].to_numpy().astype(np.float32) for table in found.values())
    return _rows(given, np.stack(list(columns), 1), tuple(found))


def _rows(table: "pa.Table", label: npt.NDArray[Any], names: tuple[str, ...]) -> LabelRows:
    import pyarrow as pa

    from ehr_tracking.arrow.label_csv import MEASURED, WEIGHT

    def single(name: str) -> npt.NDArray[np.float32]:
        found: npt.NDArray[np.float32] = table[name].to_numpy().astype(np.float32)
        return found

    subject, time = (
        table[n].cast(pa.int64()).to_numpy() for n in ("subject_id", "prediction_time")
    )
    columns = [name for name in table.column_names if name.startswith(MEASURED)]
    return LabelRows(
        subject,
        time,
        label,
        names,
        weight=single(WEIGHT) if WEIGHT in table.column_names else None,
        measurements=np.stack([single(n) for n in columns], 1) if columns else None,
        measured=tuple(name.removeprefix(MEASURED) for name in columns),
    )


def refuse_unknown(rows: LabelRows, tokens: "TokenSet", *, where: Path) -> None:
    """Raise where a label speaks of a subject that the tokens do not hold, in any split.

    Raises:
        ContractError: Naming how many such subjects there are, and the first.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ehr_tracking.arrow.labels import require_known

    shards = [p for p in tokens.manifest.files if "/" in p and p.endswith(".parquet")]
    columns = [pq.read_table(tokens.directory / p, columns=["subject_id"]) for p in shards]
    known = pa.concat_tables(columns)["subject_id"].to_numpy() if columns else np.zeros(0, np.int64)
    require_known(
        {where.name: pa.table({"subject_id": rows.subject_id})}, known, where=tokens.directory
    )
