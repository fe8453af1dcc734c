"""Make MEDS labels of the built-in tasks."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from ehr_eval.frames import KEY, PRODUCER, read_events, read_subjects
from ehr_eval.tasks.by_file import label_by_file, require_codes
from ehr_eval.tasks.config import LabelsConfig
from ehr_eval.tasks.course import Course, read_course
from ehr_eval.tasks.files import TaskFile, read_task_files
from ehr_eval.tasks.labelers import DURATION, LEFT_OUT, ROW
from ehr_eval.tasks.registry import TASKS, Task, choose
from ehr_tracking.arrow.meds import data_files
from ehr_tracking.config import to_dict
from ehr_tracking.contracts import LABELS, MEDS, SPLITS
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import new_artifact, raw_source, refuse_existing, seal

SCHEMA = pa.schema(
    [
        pa.field("subject_id", pa.int64(), nullable=False),
        pa.field("prediction_time", pa.timestamp("us"), nullable=False),
        pa.field("boolean_value", pa.bool_(), nullable=False),
    ]
)
_DURATION = pa.field(DURATION, pa.float64(), nullable=False)


@dataclass(frozen=True, slots=True)
class LabelsSummary:
    """What was written."""

    path: Path
    counts: pl.DataFrame
    """task, split, rows, positives."""
    skipped: Mapping[str, str]
    """Task -> why the data set cannot have it."""
    left_out: pl.DataFrame
    """task, left_out, rows: how many rows are none, by reason."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """One task to label."""

    label: Callable[[pl.DataFrame, Course], pl.DataFrame]
    """From events, and what they were cut up into, to rows."""
    definition: str
    timed: bool = False


def make_labels(
    meds: PathLike,
    out: PathLike,
    config: LabelsConfig | None = None,
    *,
    task_files: Sequence[PathLike] = (),
    overwrite: bool = False,
) -> LabelsSummary:
    """Label a MEDS data set and write `labels/1`.

    Args:
        meds: Data set; one file of it is in memory at a time.
        out: The artifact.
        config: Tasks, codes and times.
        task_files: Tasks as YAML; where there are some, of the built-in ones only those that are named.
        overwrite: Replace an artifact that is there.

    Raises:
        UserError: If a task does not fit the data set, no row can be labelled, or `out` exists.
        ConfigError: If a task file is none.
        ContractError: If `meds` is not a MEDS data set.
    """
    meds, out = Path(meds), Path(out)
    config = config or LabelsConfig()
    tasks = read_task_files(task_files)
    refuse_existing(out, LABELS, overwrite=overwrite, inputs=[meds])
    files = data_files(meds)
    subjects = read_subjects(meds, files, seed=config.seed)
    codes = pl.concat([_distinct_codes(f) for f in files]).unique()
    chosen, skipped = _chosen(config, tasks, codes)
    parts: dict[str, list[pl.DataFrame]] = {name: [] for name in chosen}
    for path in tqdm(files, desc="labels", unit="file", disable=None):
        events = read_events(path, more=config.visit_ids)
        course = read_course(events, config)
        for name, task in chosen.items():
            parts[name].append(task.label(events, course))
    tables, reasons = _rows(parts, config)
    for name in [name for name, table in tables.items() if not table.height]:
        skipped[name] = f"no row can be labelled ({_told(reasons, name) or 'none was found'})"
        del tables[name]
    if not tables:
        why = "; ".join(f"for {name}, {skipped[name]}" for name in chosen)
        raise UserError(f"{meds}: {why}")
    counts = _count(subjects, tables)
    told = {name: to_dict(task) for name, task in tasks.items()}
    with new_artifact(out, LABELS, overwrite=overwrite, inputs=[meds]) as partial:
        rows = {}
        for name, table in tables.items():
            (partial / name).mkdir()
            rows[f"{name}/labels.parquet"] = table.height
            schema = SCHEMA.append(_DURATION) if chosen[name].timed else SCHEMA
            pq.write_table(table.to_arrow().cast(schema), partial / name / "labels.parquet")
        definitions = {name: task.definition for name, task in chosen.items()}
        _write_tasks(partial / "tasks.json", counts, reasons, definitions)
        seal(
            partial,
            LABELS,
            producer=PRODUCER,
            config=to_dict(config) | ({"task_files": told} if told else {}),
            seed=config.seed,
            inputs={"meds": raw_source(meds, contract=MEDS)},
            rows=rows,
        )
    return LabelsSummary(out, counts, skipped, reasons)


def _chosen(
    config: LabelsConfig, files: Mapping[str, TaskFile], codes: pl.Series
) -> tuple[dict[str, _Asked], dict[str, str]]:
    """The tasks to label, and why others that were not named are skipped.

    Raises:
        UserError: If one that was named or given does not fit, or is there twice.
    """
    built_in, skipped = ([], {}) if files and config.tasks is None else choose(config, codes)
    chosen = {name: _built_in(TASKS[name], config) for name in built_in}
    for name, task in files.items():
        if name in chosen:
            raise UserError(f"task {name} is named and given as a file; leave one out")
        require_codes(codes, task)
        chosen[name] = _by_file(task, config)
    return chosen, skipped


def _built_in(task: Task, config: LabelsConfig) -> _Asked:
    return _Asked(lambda _, c: task.labeler(c, config), task.define(config), task.timed)


def _by_file(task: TaskFile, config: LabelsConfig) -> _Asked:
    return _Asked(lambda e, _: label_by_file(e, task, config), task.doc)


def _distinct_codes(path: Path) -> pl.Series:
    return read_events(path)["code"].unique()


def _rows(
    parts: Mapping[str, list[pl.DataFrame]], config: LabelsConfig
) -> tuple[dict[str, pl.DataFrame], pl.DataFrame]:
    """The rows of each task, and how many were left out: task, left_out, rows."""
    tables, counts = {}, []
    for name, made in parts.items():
        every = pl.concat(made, how="diagonal")
        if LEFT_OUT not in every.columns:
            every = every.with_columns(pl.lit(None, pl.String).alias(LEFT_OUT))
        kept = every.filter(pl.col(LEFT_OUT).is_null())
        once = _sorted(kept)
        tables[name] = _sample(once, name, config)
        late = {
            "at the time of another row": kept.height - once.height,
            "beyond rows_per_subject": once.height - tables[name].height,
        }
        odd = every.drop_nulls(LEFT_OUT).group_by(LEFT_OUT).agg(rows=pl.len().cast(pl.Int64))
        more = pl.DataFrame({LEFT_OUT: list(late), "rows": list(late.values())})
        of_task = pl.concat([odd.sort("rows", LEFT_OUT, descending=[True, False]), more])
        counts.append(of_task.select(pl.lit(name).alias("task"), LEFT_OUT, "rows"))
    return tables, pl.concat(counts).filter(pl.col("rows") > 0)


def _told(left_out: pl.DataFrame, task: str) -> str:
    rows = left_out.filter(pl.col("task") == task)
    return ", ".join(f"{n:,} {why}" for _, why, n in rows.iter_rows())


def _sorted(table: pl.DataFrame) -> pl.DataFrame:
    """One row a (subject, time); of two that coincide, positive wins. Their durations are the same."""
    more = [pl.col(DURATION).min()] if DURATION in table.columns else []
    once = table.group_by(KEY).agg(pl.col("boolean_value").any(), *more)
    return once.sort(KEY).select(*ROW, *([DURATION] if more else []))


def _sample(table: pl.DataFrame, name: str, config: LabelsConfig) -> pl.DataFrame:
    if config.rows_per_subject is None:
        return table
    many = pl.len().over("subject_id") > config.rows_per_subject
    few, table = table.filter(~many), table.filter(many)

    def draw(row: tuple[object, ...]) -> bytes:
        text = f"{config.seed}:{name}:{row[0]}:{row[1]}"
        return hashlib.blake2b(text.encode(), digest_size=8).digest()

    order = pl.Series("order", [draw(r) for r in table.select(KEY).iter_rows()], pl.Binary)
    kept = pl.col("order").rank("ordinal").over("subject_id") <= config.rows_per_subject
    return pl.concat([few, table.with_columns(order).filter(kept).drop("order")]).sort(KEY)


def _count(subjects: pl.DataFrame, tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    named = [table.select(*ROW, task=pl.lit(name)) for name, table in tables.items()]
    every = pl.DataFrame({"task": list(tables)}).join(pl.DataFrame({"split": SPLITS}), how="cross")
    found = (
        pl.concat(named)
        .join(subjects.select("subject_id", "split"), on="subject_id")
        .group_by("task", "split")
        .agg(rows=pl.len(), positives=pl.col("boolean_value").sum())
    )
    return every.join(found, on=["task", "split"], how="left", maintain_order="left").fill_null(0)


def _write_tasks(
    path: Path,
    counts: pl.DataFrame,
    left_out: pl.DataFrame,
    definitions: Mapping[str, str],
) -> None:
    about = {}
    for name in counts["task"].unique(maintain_order=True):
        of_task = counts.filter(pl.col("task") == name).drop("task")
        reasons = left_out.filter(pl.col("task") == name)
        about[name] = {
            "definition": definitions[name],
            "splits": {row.pop("split"): row for row in of_task.to_dicts()},
            "left_out": dict(reasons.select(LEFT_OUT, "rows").iter_rows()),
        }
    path.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
