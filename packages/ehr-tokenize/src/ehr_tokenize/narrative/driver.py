"""From a MEDS data set and labels to a sealed data set of texts."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from ehr_tokenize.narrative.buckets import Buckets
from ehr_tokenize.narrative.config import NarrateConfig
from ehr_tokenize.narrative.records import records
from ehr_tokenize.narrative.setting import FILE, GROUP_ROWS, PRODUCER, SCRATCH, Setting
from ehr_tokenize.narrative.terms import unknown_line
from ehr_tokenize.narrative.text import Record, cutoff, narrate_record
from ehr_tracking.arrow.label_files import label_source
from ehr_tracking.arrow.labels import KEY, VALUES, read_labels
from ehr_tracking.contracts import NARRATIVES
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import new_artifact, refuse_existing, seal

_ARROW = {
    "subject_id": pa.int64(),
    "prediction_time": pa.timestamp("us"),
    "split": pa.string(),
    "text": pa.string(),
    "boolean_value": pa.bool_(),
    "integer_value": pa.int64(),
    "float_value": pa.float32(),
    "categorical_value": pa.string(),
    "events": pa.int64(),
    "truncated": pa.int64(),
}


@dataclass(frozen=True, slots=True)
class TaskSummary:
    """What was written of one task."""

    task: str
    rows: int
    events: int
    """Told, over all rows."""
    truncated: int
    """Rows from which the oldest events were left out."""
    empty: int
    """Rows of which nothing was known at their prediction time."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What `narrate` wrote."""

    out: Path
    tasks: tuple[TaskSummary, ...]
    unknown: tuple[str, ...]
    """Codes without a term, told by themselves."""

    def lines(self) -> list[str]:
        """For a terminal."""
        total = sum(t.rows for t in self.tasks)
        lines = [f"{self.out}: {total:,} narratives"]
        for t in self.tasks:
            mean = t.events / t.rows if t.rows else 0.0
            lines.append(
                f"{t.task}: {t.rows:,} narratives, {mean:.1f} events each, "
                f"{t.truncated:,} cut to the limit, {t.empty:,} of subjects with nothing known yet"
            )
        return [*lines, *unknown_line(self.unknown)]


def narrate(
    meds: PathLike,
    labels: PathLike,
    out: PathLike,
    config: NarrateConfig | None = None,
    *,
    tokens: PathLike | None = None,
    overwrite: bool = False,
) -> Summary:
    """Write `narratives/1`: for each row of the labels, what was known then, as text.

    The result depends on subjects, labels, metadata and config alone, not on how subjects are
    spread over files; what happens after a cut-off changes no byte of its row.

    Args:
        meds: MEDS 0.4 data set; about a million rows of it are in memory at a time.
        labels: A `labels/1` artifact, `<task>/**/*.parquet`, one task, or one file.
        out: The artifact.
        config: Defaults where None.
        tokens: A `tokens/1` data set: events become known when they do there.
        overwrite: Replace an artifact that is there.

    Raises:
        UserError: If the data set breaks MEDS, lacks a labelled subject, a lookup table cannot be
            read, delays differ between config, tokens and bins, or `out` is taken.
        ContractError: If the labels cannot be read, or one has no prediction time.
    """
    meds, labels, out = Path(meds), Path(labels), Path(out)
    tokens = None if tokens is None else Path(tokens)
    config = config or NarrateConfig()
    given_paths = [meds, labels, *filter(None, (tokens, config.bins))]
    refuse_existing(out, NARRATIVES, overwrite=overwrite, inputs=given_paths)
    read = read_labels(labels, reader=PRODUCER)
    tasks = {task: pl.DataFrame(pl.from_arrow(table)) for task, table in read.items()}
    setting = Setting.of(meds, config, tokens)
    config, terms = setting.config, setting.terms
    keys = pl.concat([t.select(KEY) for t in tasks.values()]).unique().sort(KEY)
    with new_artifact(out, NARRATIVES, overwrite=overwrite, inputs=given_paths) as directory:
        scratch = directory / SCRATCH
        scratch.mkdir()
        buckets = Buckets(setting.dataset, _last_seen(keys, config), scratch, setting.delays)
        setting.splits.of_everyone(
            buckets.everyone
        )  # a subject without one is refused, as elsewhere
        split = setting.split_of(keys["subject_id"].unique().sort().to_numpy())
        with _Writers(directory, tasks) as writers:
            told = chain.from_iterable(
                records(events, terms, config, setting.edges)
                for events in tqdm(buckets, "writing", disable=None)
            )
            for made in _made(keys, told, config):
                writers.write(made.join(split, on="subject_id", maintain_order="left"))
        shutil.rmtree(scratch)
        seal(
            directory,
            NARRATIVES,
            producer=PRODUCER,
            config=setting.portable(),
            seed=config.seed,
            inputs=setting.inputs | {"labels": label_source(labels)},
            rows={f"{t.task}/{FILE}": t.rows for t in writers.summaries()},
        )
    return Summary(out, writers.summaries(), tuple(sorted(terms.unknown)))


class _Writers:
    """One file a task, filled in the order of subjects."""

    def __init__(self, directory: Path, tasks: Mapping[str, pl.DataFrame]) -> None:
        self._tasks, self._files, self._schemas = tasks, {}, {}
        self._counts = {name: np.zeros(4, np.int64) for name in tasks}
        for name, table in tasks.items():
            (directory / name).mkdir(parents=True)
            absent = set(VALUES) - set(table.columns)
            schema = pa.schema([(c, t) for c, t in _ARROW.items() if c not in absent])
            self._schemas[name] = schema
            self._files[name] = pq.ParquetWriter(
                directory / name / FILE, schema, compression="zstd", use_dictionary=["split"]
            )

    def __enter__(self) -> "_Writers":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def write(self, made: pl.DataFrame) -> None:
        """Append, to each task that asks for them, texts with the labels of the task."""
        for name, table in self._tasks.items():
            rows = made.join(table, on=list(KEY), how="inner", maintain_order="left")
            if not rows.height:
                continue
            schema = self._schemas[name]
            self._files[name].write_table(rows.select(schema.names).to_arrow().cast(schema))
            self._counts[name] += np.array(
                [
                    rows.height,
                    rows["events"].sum(),
                    (rows["truncated"] > 0).sum(),
                    (rows["text"] == "").sum(),
                ]
            )

    def summaries(self) -> tuple[TaskSummary, ...]:
        """One a task."""
        return tuple(TaskSummary(name, *map(int, c)) for name, c in self._counts.items())


def _last_seen(keys: pl.DataFrame, config: NarrateConfig) -> pl.DataFrame:
    latest = keys.group_by("subject_id").agg(pl.col("prediction_time").max()).sort("subject_id")
    times = latest["prediction_time"].cast(pl.Int64).to_list()
    seen = [cutoff(t, config.gap_days, config.gap_months) for t in times]
    last = pl.Series("last", seen, pl.Int64)
    return latest.select("subject_id", last.cast(pl.Datetime("us")))


def _made(
    keys: pl.DataFrame, told: Iterator[tuple[int, Record]], config: NarrateConfig
) -> Iterator[pl.DataFrame]:
    """Texts of the keys (sorted by subject), some at a time."""
    rows: list[tuple[int, int, str, int, int]] = []
    empty = Record(None, [], [], np.zeros(0, np.int64), [])
    subject, record = next(told, (None, empty))
    times = keys["prediction_time"].cast(pl.Int64).to_list()
    for asked, time in zip(keys["subject_id"].to_list(), times, strict=True):
        while subject is not None and subject < asked:
            subject, record = next(told, (None, empty))
        made = narrate_record(record if subject == asked else empty, time, config)
        rows.append((asked, time, made.text, made.events, made.truncated))
        if len(rows) == GROUP_ROWS:
            yield _table(rows)
            rows = []
    if rows:
        yield _table(rows)


def _table(rows: list[tuple[int, int, str, int, int]]) -> pl.DataFrame:
    schema = {
        "subject_id": pl.Int64,
        "time": pl.Int64,
        "text": pl.String,
        "events": pl.Int64,
        "truncated": pl.Int64,
    }
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    return frame.with_columns(prediction_time=pl.col("time").cast(pl.Datetime("us")))
