"""Make MEDS labels of the built-in tasks, and read labels that anyone made."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from ehr_eval import __version__
from ehr_eval.meds import RAW, SPLITS, data_files, read_events, read_splits
from ehr_eval.tasks.config import LabelsConfig
from ehr_eval.tasks.labelers import ROW
from ehr_eval.tasks.registry import TASKS, choose
from ehr_eval.tasks.timeline import read_timeline
from ehr_tracking.config import to_dict
from ehr_tracking.contracts import LABELS, ContractError
from ehr_tracking.errors import UserError
from ehr_tracking.labels import label_files
from ehr_tracking.manifest import new_artifact, raw_source, refuse_existing, seal

KEY = ["subject_id", "prediction_time"]
VALUES = ("boolean_value", "integer_value", "float_value", "categorical_value")
SCHEMA = pa.schema(
    [
        pa.field("subject_id", pa.int64(), nullable=False),
        pa.field("prediction_time", pa.timestamp("us"), nullable=False),
        pa.field("boolean_value", pa.bool_(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Summary:
    """What was written."""

    path: Path
    counts: pl.DataFrame
    """task, split, rows, positives."""
    skipped: Mapping[str, str]
    """Task -> why the data set cannot have it."""


def make_labels(
    meds: Path, out: Path, config: LabelsConfig | None = None, *, overwrite: bool = False
) -> Summary:
    """Label a MEDS data set and write `labels/1`.

    Args:
        meds: Data set; one file of it is in memory at a time.
        out: The artifact.
        config: Tasks, codes and times.
        overwrite: Replace an artifact that is there.

    Raises:
        UserError: If a task does not fit the data set, no row can be labelled, or `out` exists.
        ContractError: If `meds` is not a MEDS data set.
    """
    config = config or LabelsConfig()
    refuse_existing(out, overwrite=overwrite)
    files = data_files(meds)
    codes = pl.concat([_distinct_codes(f) for f in files]).unique()
    chosen, skipped = choose(config, codes)
    parts: dict[str, list[pl.DataFrame]] = {name: [] for name in chosen}
    for path in tqdm(files, desc="labels", unit="file", disable=None):
        timeline = read_timeline(read_events(path), config)
        for name in chosen:
            parts[name].append(TASKS[name].labeler(timeline, config))
    tables = {name: _sample(_sorted(pl.concat(p)), name, config) for name, p in parts.items()}
    empty = [name for name, table in tables.items() if not table.height]
    for name in empty:
        skipped[name] = "no row can be labelled"
        del tables[name]
    if not tables:
        raise UserError(f"{meds}: no row can be labelled for {', '.join(empty)}")
    counts = _count(meds, tables, config)
    with new_artifact(out, overwrite=overwrite) as partial:
        rows = {}
        for name, table in tables.items():
            (partial / name).mkdir()
            rows[f"{name}/labels.parquet"] = table.height
            pq.write_table(table.to_arrow().cast(SCHEMA), partial / name / "labels.parquet")
        _write_tasks(partial / "tasks.json", tables, counts, config)
        seal(
            partial,
            LABELS,
            producer=f"ehr-eval {__version__}",
            config=to_dict(config),
            seed=config.seed,
            inputs={"meds": raw_source(meds, contract=RAW)},
            rows=rows,
        )
    return Summary(out, counts, skipped)


def read_labels(path: Path) -> dict[str, pl.DataFrame]:
    """Read binary labels, whoever made them.

    Args:
        path: A `labels/1` artifact, a directory of tasks (`<task>/**/*.parquet`), the directory of
            one task, or one Parquet file.

    Returns:
        Task name -> subject_id, prediction_time, boolean_value; sorted, without duplicates.

    Raises:
        ContractError: If there are none, a sealed one was changed, or a value is not binary; naming
            file, row and value.
    """
    if not path.exists():
        raise ContractError(f"{path}: no such directory")
    files = label_files(path, reader=f"ehr-eval {__version__}")
    if not files:
        raise ContractError(f"{path} holds no labels: expected <task>/**/*.parquet")
    below = [f.relative_to(path).parts for f in files]
    if any(len(parts) == 1 for parts in below) or path.is_file():
        groups = {path.stem if path.is_file() else path.resolve().name: files}
    else:
        groups = {}
        for file, parts in zip(files, below, strict=True):
            groups.setdefault(parts[0], []).append(file)
    return {name: _read_task(name, group) for name, group in groups.items()}


def require_known(labels: Mapping[str, pl.DataFrame], subjects: pl.Series) -> None:
    """Refuse labels of subjects that a data set does not have.

    Args:
        labels: From `read_labels`.
        subjects: Who there is.

    Raises:
        ContractError: With the number of such subjects and the first one.
    """
    for name, table in labels.items():
        unknown = table.filter(~pl.col("subject_id").is_in(subjects.unique().implode()))[
            "subject_id"
        ]
        if len(unknown):
            raise ContractError(
                f"labels of task {name} name {unknown.n_unique()} subjects that the data set does "
                f"not have, the first {unknown.sort()[0]}; were they made from other data?"
            )


def _distinct_codes(path: Path) -> pl.Series:
    return read_events(path)["code"].unique()


def _sorted(table: pl.DataFrame) -> pl.DataFrame:
    """One row a (subject, time); of two that coincide, positive wins."""
    return table.group_by(KEY).agg(pl.col("boolean_value").any()).sort(KEY).select(ROW)


def _sample(table: pl.DataFrame, name: str, config: LabelsConfig) -> pl.DataFrame:
    if config.rows_per_subject is None:
        return table

    def draw(row: tuple[object, ...]) -> bytes:
        text = f"{config.seed}:{name}:{row[0]}:{row[1]}"
        return hashlib.blake2b(text.encode(), digest_size=8).digest()

    order = pl.Series("order", [draw(r) for r in table.select(KEY).iter_rows()], pl.Binary)
    kept = pl.col("order").rank("ordinal").over("subject_id") <= config.rows_per_subject
    return table.with_columns(order).filter(kept).drop("order")


def _count(meds: Path, tables: Mapping[str, pl.DataFrame], config: LabelsConfig) -> pl.DataFrame:
    subjects = pl.concat([t["subject_id"] for t in tables.values()]).unique()
    splits = read_splits(meds, subjects.to_list(), seed=config.seed)
    named = [table.with_columns(task=pl.lit(name)) for name, table in tables.items()]
    every = pl.DataFrame({"task": list(tables)}).join(pl.DataFrame({"split": SPLITS}), how="cross")
    found = (
        pl.concat(named)
        .join(splits, on="subject_id")
        .group_by("task", "split")
        .agg(rows=pl.len(), positives=pl.col("boolean_value").sum())
    )
    return every.join(found, on=["task", "split"], how="left", maintain_order="left").fill_null(0)


def _write_tasks(
    path: Path, tables: Mapping[str, pl.DataFrame], counts: pl.DataFrame, config: LabelsConfig
) -> None:
    about = {}
    for name in tables:
        of_task = counts.filter(pl.col("task") == name).drop("task")
        about[name] = {
            "definition": TASKS[name].define(config),
            "splits": {row.pop("split"): row for row in of_task.to_dicts()},
        }
    path.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _read_task(name: str, files: list[Path]) -> pl.DataFrame:
    table = pl.concat([_read_file(f) for f in files])
    table = table.unique(ROW).sort(KEY)
    twice = table.filter(pl.struct(KEY).is_duplicated())
    if twice.height:
        subject, time = twice.select(KEY).row(0)
        raise ContractError(f"task {name} has contradicting labels of subject {subject} at {time}")
    return table


def _read_file(path: Path) -> pl.DataFrame:
    try:
        table = pq.read_table(path)
    except (OSError, ValueError) as e:
        raise ContractError(
            f"{path} cannot be read as Parquet: {' '.join(str(e).split())}"
        ) from None
    found = {f.name: str(f.type) for f in table.schema}
    for required in LABELS.columns[:2]:
        if required.name not in found:
            raise ContractError(f"{path} has no column {required.name}: not MEDS labels")
    if not found["prediction_time"].startswith(("timestamp", "date")):
        raise ContractError(
            f"{path}: column prediction_time is {found['prediction_time']} (expected timestamp[us])"
        )
    frame = pl.DataFrame(pl.from_arrow(table))
    if not frame["subject_id"].dtype.is_integer():
        raise ContractError(f"{path}: column subject_id is {found['subject_id']} (expected int64)")
    for column in KEY:
        if frame[column].null_count():
            raise ContractError(
                f"{path}: row {frame[column].is_null().arg_true()[0]} has no {column}"
            )
    return frame.select(
        pl.col("subject_id").cast(pl.Int64),
        pl.col("prediction_time").cast(pl.Datetime("us")),
        _binary(frame, path),
    )


def _binary(frame: pl.DataFrame, path: Path) -> pl.Series:
    """The one column of values as booleans; ACES writes all four, with nulls in those unused."""
    used = [c for c in VALUES if c in frame.columns and frame[c].null_count() < frame.height]
    if not frame.height:
        return pl.Series("boolean_value", [], pl.Boolean)
    if len(used) != 1:
        have = " and ".join(used) if used else "no value"
        raise ContractError(f"{path} has {have}; expected exactly one of {', '.join(VALUES)}")
    values = frame[used[0]]
    if values.null_count():
        raise ContractError(f"{path}: row {values.is_null().arg_true()[0]} has no {used[0]}")
    if values.dtype == pl.Boolean:
        return values.alias("boolean_value")
    if not values.dtype.is_numeric():
        raise ContractError(f"{path}: {used[0]} is {values.dtype}; only binary labels can be read")
    wrong = ~values.is_in([0, 1])
    if wrong.any():
        row = wrong.arg_true()[0]
        raise ContractError(f"{path}: row {row} has {used[0]} = {values[row]}; expected 0 or 1")
    return (values == 1).alias("boolean_value")
