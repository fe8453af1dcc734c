"""`match_controls`: from index dates of cases to labels of cases and controls."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from ehr_eval.frames import PRODUCER, read_events, read_subjects
from ehr_eval.judge.ranks import auroc
from ehr_eval.matching.config import MatchConfig
from ehr_eval.matching.pairs import DAY_US, match
from ehr_tracking.arrow.label_csv import LabelColumns
from ehr_tracking.arrow.label_files import label_source
from ehr_tracking.arrow.labels import VALUES, binary, read_task
from ehr_tracking.arrow.meds import data_files
from ehr_tracking.config import to_dict
from ehr_tracking.contracts import LABELS, MEDS
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import new_artifact, raw_source, refuse_existing, seal

_SCHEMA = pa.schema(
    [
        pa.field("subject_id", pa.int64(), nullable=False),
        pa.field("prediction_time", pa.timestamp("us"), nullable=False),
        pa.field("boolean_value", pa.bool_(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Matched:
    """What was written."""

    out: Path
    task: str
    cases: int
    controls: int
    unmatched: int
    """Cases without any control, which are left out."""
    auroc: dict[str, float]
    """How well the length of the record up to the index date alone tells cases: .5 is not at all."""

    def lines(self) -> list[str]:
        """For a terminal."""
        told = ", ".join(f"{value:.3f} by {name}" for name, value in self.auroc.items())
        return [
            f"{self.out}: {self.cases:,} cases of {self.task} and {self.controls:,} controls at their "
            f"index dates; {self.unmatched:,} cases have no control and are left out",
            f"AUROC of the length of records alone: {told} (0.5 tells nothing)",
        ]


def match_controls(
    meds: PathLike,
    cases: PathLike,
    out: PathLike,
    config: MatchConfig | None = None,
    *,
    columns: LabelColumns | None = None,
    overwrite: bool = False,
) -> Matched:
    """Write `labels/1`: cases at their index dates, controls at that of the case they are matched with.

    Args:
        meds: MEDS data set; a file of it is in memory at a time. Whoever is no case may be a control.
        cases: Labels of one task, all of them yes or without a value: who is a case, and when.
        out: The artifact.
        config: Who fits whom.
        columns: What a CSV file of cases calls its columns.
        overwrite: Replace an artifact that is there.

    Raises:
        UserError: If a row is no case, a subject is a case twice, is not in the data set or has no
            event up to its index date, no case has a control, or `out` is taken.
        ContractError: If the cases or the data set cannot be read, or one has no date.
    """
    meds, cases, out = Path(meds), Path(cases), Path(out)
    config = config or MatchConfig()
    refuse_existing(out, LABELS, overwrite=overwrite, inputs=[meds, cases])
    task, rows = _cases(cases, columns)
    files = data_files(meds)
    people = _people(meds, files, config)
    _require_known(rows, people, cases, meds)
    pairs = match(rows, people, config)
    if not pairs.height:
        raise UserError(
            f"no control fits any of {rows.height:,} cases of {cases}; widen age_years or history"
        )
    labels = _labels(rows, pairs)
    told = _leak(labels, people, files)
    done = Matched(
        out,
        task,
        cases=int(labels["boolean_value"].sum()),
        controls=pairs.height,
        unmatched=rows.height - pairs["case"].n_unique(),
        auroc=told,
    )
    with new_artifact(out, LABELS, overwrite=overwrite, inputs=[meds, cases]) as partial:
        (partial / task).mkdir(parents=True)
        made = labels.with_columns(prediction_time=pl.col("index").cast(pl.Datetime("us")))
        table = made.select(_SCHEMA.names).to_arrow().cast(_SCHEMA)
        pq.write_table(table, partial / task / "labels.parquet")
        (partial / "_matching").mkdir()
        pairs.with_columns(pl.col("index").cast(pl.Datetime("us"))).write_csv(
            partial / "_matching" / "pairs.csv", datetime_format="%Y-%m-%dT%H:%M:%S%.6f"
        )
        about = {
            "definition": "cases, and controls at the index date of the case they are matched with"
        }
        counts = {"cases": done.cases, "controls": done.controls, "unmatched": done.unmatched}
        text = json.dumps({task: {**about, **counts, "auroc_of_length": told}}, indent=1) + "\n"
        (partial / "tasks.json").write_text(text, encoding="utf-8")
        seal(
            partial,
            LABELS,
            producer=PRODUCER,
            config=to_dict(config),
            seed=config.seed,
            inputs={"meds": raw_source(meds, contract=MEDS), "cases": label_source(cases)},
            rows={f"{task}/labels.parquet": labels.height},
        )
    return done


def _cases(path: Path, columns: LabelColumns | None) -> tuple[str, pl.DataFrame]:
    """The task, and subject_id and index of each case."""
    task, table = read_task(path, reader=PRODUCER, columns=columns)
    if any(name in table.column_names for name in VALUES):
        table = binary(table, task=task)
    rows = pl.DataFrame(pl.from_arrow(table))
    if "boolean_value" in rows.columns and not rows["boolean_value"].all():
        raise UserError(
            f"{path} has rows that are no cases; leave them out: controls get their dates here"
        )
    twice = rows.filter(pl.col("subject_id").is_duplicated())
    if twice.height:
        raise UserError(
            f"{path}: subject {twice['subject_id'][0]} is a case twice; keep its first index date"
        )
    index = pl.col("prediction_time").cast(pl.Datetime("us")).cast(pl.Int64)
    return task, rows.select("subject_id", index=index)


def _people(meds: Path, files: Sequence[Path], config: MatchConfig) -> pl.DataFrame:
    """subject_id, block, birth, first and last of everyone with an event that has a time."""
    split = read_subjects(meds, files, seed=config.seed).select("subject_id", "split")
    time, code = pl.col("time").cast(pl.Int64), pl.col("code")
    born = code.str.contains(config.birth)
    parts = [
        read_events(path)
        .group_by("subject_id", maintain_order=True)
        .agg(
            birth=time.filter(born).min(),
            first=time.filter(~born).min(),
            last=time.filter(~born).max(),
            sex=code.filter(code.str.contains(config.sex)).first(),
        )
        for path in tqdm(files, desc="who", unit="file", disable=None)
    ]
    block = pl.concat_str("split", pl.col("sex").fill_null(""), separator=" ")
    return (
        pl.concat(parts)
        .drop_nulls("first")
        .join(split, on="subject_id")
        .select("subject_id", "birth", "first", "last", block=block)
        .sort("subject_id")
    )


def _require_known(rows: pl.DataFrame, people: pl.DataFrame, cases: Path, meds: Path) -> None:
    absent = rows.join(people, on="subject_id", how="anti")
    if absent.height:
        raise UserError(
            f"{cases} names {absent.height:,} subjects without events in {meds}, the first "
            f"{absent['subject_id'][0]}; were they made from other data?"
        )
    early = rows.join(people, on="subject_id").filter(pl.col("index") < pl.col("first"))
    if early.height:
        raise UserError(
            f"{cases}: subject {early['subject_id'][0]} has its index date before its first event "
            f"({early.height:,} such cases); leave them out"
        )


def _labels(rows: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """subject_id, index and boolean_value of the cases that have controls, and of these."""
    cases = rows.join(pairs, left_on="subject_id", right_on="case", how="semi")
    controls = pairs.select(pl.col("control").alias("subject_id"), "index")
    return pl.concat(
        [
            cases.select("subject_id", "index", boolean_value=pl.lit(True)),
            controls.with_columns(boolean_value=pl.lit(False)),
        ]
    ).sort("subject_id")


def _leak(labels: pl.DataFrame, people: pl.DataFrame, files: Sequence[Path]) -> dict[str, float]:
    """AUROC of the days and of the events up to the index date."""
    counts = []
    for path in files:
        seen = read_events(path).join(labels, on="subject_id")
        seen = seen.filter(pl.col("time").cast(pl.Int64) <= pl.col("index"))
        counts.append(seen.group_by("subject_id").agg(events=pl.len()))
    known = labels.join(people, on="subject_id", how="left", maintain_order="left").join(
        pl.concat(counts), on="subject_id", how="left", maintain_order="left"
    )
    days = ((known["index"] - known["first"]) / DAY_US).to_numpy()
    events = known["events"].fill_null(0).cast(pl.Float64).to_numpy()
    truth = known["boolean_value"].to_numpy().astype(np.bool_)
    found = auroc(np.column_stack([days, events]), truth)
    return dict(zip(("days", "events"), found.round(4).tolist(), strict=True))
