"""From a MEDS data set and labels to a sealed data set of texts."""

import dataclasses
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from ehr_tokenize import __version__
from ehr_tokenize.meds.dataset import open_dataset
from ehr_tokenize.narrative.buckets import Buckets
from ehr_tokenize.narrative.config import NarrateConfig
from ehr_tokenize.narrative.records import Edges, records
from ehr_tokenize.narrative.terms import Terms
from ehr_tokenize.narrative.text import Record, cutoff, narrate_record
from ehr_tokenize.tokenizer.tokenizer import Tokenizer
from ehr_tracking.arrow.delays import Delays, agreed, delays_of
from ehr_tracking.arrow.label_files import label_source
from ehr_tracking.arrow.labels import KEY, VALUES, read_labels
from ehr_tracking.arrow.meds import code_infos
from ehr_tracking.arrow.splits import read_splits
from ehr_tracking.config import to_dict
from ehr_tracking.contracts import MEDS, NARRATIVES, SPLITS, TOKENS
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import (
    new_artifact,
    raw_source,
    read_manifest,
    refuse_existing,
    seal,
    source,
)

_PRODUCER = f"ehr-tokenize {__version__}"
_FILE = "narratives.parquet"
_SCRATCH = ".scratch"
_GROUP_ROWS = 1024
"""Texts in memory at a time, and in a row group."""
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
        if self.unknown:
            lines.append(
                f"{len(self.unknown):,} codes have no term and are told as they are, such as "
                f"{', '.join(self.unknown[:3])}"
            )
        return lines


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
    read = read_labels(labels, reader=_PRODUCER)
    tasks = {task: pl.DataFrame(pl.from_arrow(table)) for task, table in read.items()}
    dataset, terms = open_dataset(meds), Terms(code_infos(meds), config)
    fitted = Tokenizer.from_pretrained(config.bins) if config.bins else None
    edges = _edges(fitted, config.bins) if fitted else {}
    delays = _delays(config, tokens, fitted)
    config = dataclasses.replace(config, delay=dict(delays.days))
    keys = pl.concat([t.select(KEY) for t in tasks.values()]).unique().sort(KEY)
    inputs = {
        "meds": raw_source(meds, contract=MEDS),
        "labels": label_source(labels),
    }
    for i, lookup in enumerate(config.lookups):
        inputs[f"lookup-{i}"] = raw_source(lookup.table, contract="table")
    if config.bins:
        inputs["bins"] = raw_source(config.bins, contract="tokenizer")
    if tokens:
        inputs["tokens"] = source(tokens)
    with new_artifact(out, NARRATIVES, overwrite=overwrite, inputs=given_paths) as directory:
        scratch = directory / _SCRATCH
        scratch.mkdir()
        buckets = Buckets(dataset, _last_seen(keys, config), scratch, delays)
        split = _splits(meds, keys, buckets.everyone, config.seed)
        with _Writers(directory, tasks) as writers:
            told = chain.from_iterable(
                records(events, terms, config, edges)
                for events in tqdm(buckets, "writing", disable=None)
            )
            for made in _made(keys, told, config):
                writers.write(made.join(split, on="subject_id", maintain_order="left"))
        shutil.rmtree(scratch)
        seal(
            directory,
            NARRATIVES,
            producer=_PRODUCER,
            config=_portable(config),
            seed=config.seed,
            inputs=inputs,
            rows={f"{t.task}/{_FILE}": t.rows for t in writers.summaries()},
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
                directory / name / _FILE, schema, compression="zstd", use_dictionary=["split"]
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


def _edges(tokenizer: Tokenizer, path: Path | None) -> Edges:
    """Of the bins of a tokenizer that has them by code."""
    if tokenizer.config.scheme.units or tokenizer.config.maps:
        why = "maps codes to others" if tokenizer.config.maps else "has bins by unit"
        raise UserError(f"bins: {path} {why}; fit one with bins by the codes of the data")
    return {code: edges for code, edges in tokenizer.fitted.edges.items() if len(edges)}


def _delays(config: NarrateConfig, tokens: Path | None, bins: Tokenizer | None) -> Delays:
    """Those of the config, of the tokens and of the tokenizer with the bins, which must agree."""
    found: dict[str, Delays] = {}
    if config.delay is not None:
        found["the config"] = Delays(config.delay)
    if tokens is not None:
        found[str(tokens)] = delays_of(read_manifest(tokens, TOKENS, reader=_PRODUCER))
    if bins is not None:
        found[str(config.bins)] = Delays(bins.config.delay)
    return agreed(found)


def _splits(
    meds: Path, keys: pl.DataFrame, everyone: npt.NDArray[np.int64], seed: int
) -> pl.DataFrame:
    splits, subjects = read_splits(meds, seed=seed), keys["subject_id"].unique().sort()
    splits.of_everyone(everyone)  # a subject without one is refused as elsewhere, labelled or not
    index = splits.of(subjects.to_numpy())
    return pl.DataFrame({"subject_id": subjects, "split": [SPLITS[i] for i in index.tolist()]})


def _last_seen(keys: pl.DataFrame, config: NarrateConfig) -> pl.DataFrame:
    latest = keys.group_by("subject_id").agg(pl.col("prediction_time").max()).sort("subject_id")
    times = latest["prediction_time"].cast(pl.Int64).to_list()
    last = pl.Series("last", [cutoff(t, config.gap_days) for t in times], pl.Int64)
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
        if len(rows) == _GROUP_ROWS:
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


def _portable(config: NarrateConfig) -> dict[str, Any]:
    """As plain values; tables by name alone, since a manifest holds no path (inputs have their hash)."""
    named = tuple(dataclasses.replace(x, table=Path(x.table.name)) for x in config.lookups)
    bins = config.bins and Path(config.bins.name)
    return to_dict(dataclasses.replace(config, lookups=named, bins=bins))
