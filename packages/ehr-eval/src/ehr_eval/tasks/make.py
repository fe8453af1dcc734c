"""Make MEDS labels: of built-in tasks, task files and ACES files, with who is in them and who is not."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from ehr_eval.frames import PRODUCER, read_events, read_subjects
from ehr_eval.tasks.choice import Asked, Chosen, choose_all
from ehr_eval.tasks.cohort import cohort, reasons_of, rows_of, sizes, write_cohort
from ehr_eval.tasks.config import LabelsConfig
from ehr_eval.tasks.course import read_course
from ehr_eval.tasks.labelers import DURATION, LEFT_OUT, SEVERITY
from ehr_eval.tasks.patterns import Codebook
from ehr_eval.tasks.record import Events
from ehr_tracking.arrow.meds import code_infos, data_files
from ehr_tracking.config import to_dict
from ehr_tracking.contracts import LABELS, MEDS
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import Source, new_artifact, raw_source, refuse_existing, seal

_TYPES = {
    "subject_id": pa.int64(),
    "prediction_time": pa.timestamp("us"),
    "boolean_value": pa.bool_(),
    "categorical_value": pa.string(),
    "float_value": pa.float32(),
    DURATION: pa.float64(),
    SEVERITY: pa.int8(),
}


@dataclass(frozen=True, slots=True)
class LabelsSummary:
    """What was written."""

    path: Path
    counts: pl.DataFrame
    """task, split, rows, positives."""
    skipped: Mapping[str, str]
    """Task -> why the data set cannot have it."""
    left_out: pl.DataFrame
    """task, left_out, rows, and rows of each split: how many rows are none, by reason."""


def make_labels(
    meds: PathLike,
    out: PathLike,
    config: LabelsConfig | None = None,
    *,
    asked: Asked | None = None,
    overwrite: bool = False,
) -> LabelsSummary:
    """Label a MEDS data set and write `labels/1`.

    Args:
        meds: Data set; one file of it is in memory at a time.
        out: The artifact.
        config: Tasks, codes and times.
        asked: Tasks beside those that the config names; where there are some, of the built-in ones only
            those that are named.
        overwrite: Replace an artifact that is there.

    Raises:
        UserError: If a task does not fit the data set, no row can be labelled, or `out` exists.
        ConfigError: If a task file is none.
        ContractError: If `meds` is not a MEDS data set.
    """
    meds, out = Path(meds), Path(out)
    config, asked = config or LabelsConfig(), asked or Asked()
    refuse_existing(out, LABELS, overwrite=overwrite, inputs=[meds])
    files = data_files(meds)
    subjects = read_subjects(meds, files, seed=config.seed)
    chosen, skipped = choose_all(config, asked, read_codebook(meds, files))
    parts = _label(files, chosen, config)
    tables, left = {}, {}
    for name, made in parts.items():
        every = pl.concat(made, how="diagonal")
        most = config.rows_per_subject
        tables[name], left[name] = rows_of(every, name, most=most, seed=config.seed)
    counted = cohort(tables, left, subjects)
    reasons = reasons_of(counted)
    for name in [name for name, table in tables.items() if not table.height]:
        skipped[name] = f"no row can be labelled ({_told(reasons, name) or 'none was found'})"
        del tables[name]
    if not tables:
        why = "; ".join(f"for {name}, {skipped[name]}" for name in parts)
        raise UserError(f"{meds}: {why}")
    definitions = {n: told for task in chosen.values() for n, told in task.definitions.items()}
    with new_artifact(out, LABELS, overwrite=overwrite, inputs=[meds]) as partial:
        rows = {}
        for name, table in tables.items():
            (partial / name).mkdir()
            rows[f"{name}/labels.parquet"] = table.height
            schema = pa.schema([pa.field(c, _TYPES[c], nullable=False) for c in table.columns])
            pq.write_table(table.to_arrow().cast(schema), partial / name / "labels.parquet")
        shown = counted.filter(pl.col("task").is_in(list(tables)))
        _write_tasks(partial / "tasks.json", shown, definitions)
        rows |= write_cohort(partial, shown, definitions)
        seal(
            partial,
            LABELS,
            producer=PRODUCER,
            config=to_dict(config) | _about(chosen),
            seed=config.seed,
            inputs={"meds": raw_source(meds, contract=MEDS), **_inputs(chosen)},
            rows=rows,
        )
    counts = sizes(counted).filter(pl.col("task").is_in(list(tables)))
    return LabelsSummary(out, counts, skipped, reasons)


def read_codebook(meds: Path, files: Sequence[Path]) -> Codebook:
    """The codes of a data set and its ontology.

    Args:
        meds: The data set.
        files: Of it, from `data_files`.
    """
    codes = pl.concat([read_events(f)["code"].unique() for f in files]).unique().sort()
    return Codebook(codes, {code: info.parents for code, info in code_infos(meds).items()})


def _label(
    files: Sequence[Path], chosen: Mapping[str, Chosen], config: LabelsConfig
) -> dict[str, list[pl.DataFrame]]:
    """Name of a set of labels -> its rows, from each file."""
    parts: dict[str, list[pl.DataFrame]] = {n: [] for t in chosen.values() for n in t.definitions}
    more = (*config.visit_ids, *(c for task in chosen.values() for c in task.columns))
    by_course = any(task.by_course for task in chosen.values())
    for path in tqdm(files, desc="labels", unit="file", disable=None):
        events = Events(read_events(path, more=tuple(dict.fromkeys(more))))
        course = read_course(events.all, config) if by_course else None
        for task in chosen.values():
            for name, rows in task.label(events, course).items():
                parts[name].append(rows)
    return parts


def _about(chosen: Mapping[str, Chosen]) -> dict[str, Any]:
    """What the manifest says of tasks that are not built in."""
    found: dict[str, Any] = {}
    for task in chosen.values():
        for kind, by_name in task.about.items():
            found[kind] = found.get(kind, {}) | by_name
    return found


def _inputs(chosen: Mapping[str, Chosen]) -> dict[str, Source]:
    """Tables that tasks read beside events."""
    given = {name: path for task in chosen.values() for name, path in task.inputs.items()}
    return {name: raw_source(path, contract="csv") for name, path in given.items()}


def _told(left_out: pl.DataFrame, task: str) -> str:
    rows = left_out.filter(pl.col("task") == task).select("rows", LEFT_OUT)
    return ", ".join(f"{n:,} {why}" for n, why in rows.iter_rows())


def _write_tasks(path: Path, counted: pl.DataFrame, definitions: Mapping[str, str]) -> None:
    counts, reasons, about = sizes(counted), reasons_of(counted), {}
    for name in counts["task"].unique(maintain_order=True):
        of_task = counts.filter(pl.col("task") == name).drop("task")
        left = reasons.filter(pl.col("task") == name)
        about[name] = {
            "definition": definitions[name],
            "splits": {row.pop("split"): row for row in of_task.to_dicts()},
            "left_out": dict(left.select(LEFT_OUT, "rows").iter_rows()),
        }
    path.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
