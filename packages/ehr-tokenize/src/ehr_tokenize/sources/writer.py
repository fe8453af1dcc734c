"""From frames of events, in any order, to a MEDS 0.4 directory, in bounded memory.

Events are spilled to disk by a hash of the subject, one file for about half a million of them with one
record batch for each bucket; then bucket after bucket is read back, sorted and written. Rows of a
subject are ordered by (time, static ones first; birth first and death last, between them by rank of
the event's kind; code; number; text; the extra columns in their order; null before any value), so
neither the order of the input nor the number of threads shows.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from meds.schema import DataSchema

import ehr_tokenize
from ehr_tokenize.meds.output import ETL, new_dataset
from ehr_tokenize.sources.config import WriteConfig
from ehr_tokenize.sources.mapping import CORE, Tally, Types
from ehr_tokenize.sources.spill import Spill, arrow
from ehr_tokenize.sources.splits import read_split_file
from ehr_tracking.arrow.splits import Splits
from ehr_tracking.contracts import SPLITS
from ehr_tracking.errors import UserError

_FIRST, _LAST = -128, 127
"""Ranks of birth and death."""
_ARROW = {
    "subject_id": pa.int64(),
    "time": pa.timestamp("us"),
    "code": pa.string(),
    "numeric_value": pa.float32(),
    "text_value": pa.large_string(),
}
_EXTRA_ARROW: dict[type[pl.DataType], pa.DataType] = {
    pl.String: pa.large_string(), pl.Int64: pa.int64(), pl.Float64: pa.float64(),
}  # fmt: skip
Describe = Callable[[list[str]], pl.DataFrame]
"""Codes of the data, sorted -> rows (code, description, parent_codes) for those it knows, and for
their ancestors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What the writer must know of a source beside its events."""

    name: str
    """Of the data set, unless it is configured."""
    version: str | None = None
    extras: Types = field(default_factory=dict)
    """Columns beside those of MEDS: String, Int64 or Float64."""
    describe: Describe = lambda codes: code_rows([])  # noqa: ARG005 -- nothing is known
    """Called after the last frame."""
    splits: Callable[[], Mapping[int, str] | None] = lambda: None
    """Of every subject, or None for splits by hash; called after the last frame."""
    extra_files: Callable[[Path], None] = lambda metadata: None  # noqa: ARG005
    """Adds files to metadata/."""


@dataclass(slots=True)
class Written:
    """What a MEDS directory holds now."""

    path: Path
    subjects: int = 0
    events: int = 0
    codes: int = 0
    duplicates: int = 0
    """Events that were left out because they repeat another in every column."""
    not_finite: int = 0
    """Numbers outside float32 that were left out; their events stay."""
    splits: dict[str, int] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """The summary as text."""
        splits = ", ".join(f"{name} {n:,}" for name, n in self.splits.items())
        lines = []
        if self.duplicates:
            lines.append(f"left out {self.duplicates:,} events that repeat another in every column")
        if self.not_finite:
            lines.append(f"left out {self.not_finite:,} numbers that float32 cannot hold")
        return [
            *lines,
            f"{self.path}: {self.subjects:,} subjects ({splits}), {self.events:,} events, "
            f"{self.codes:,} codes",
        ]


@dataclass(slots=True)
class Done:
    """What was read of a source, and what was written."""

    tallies: Mapping[str, Tally]
    """Table -> what became of its rows."""
    written: Written
    notes: list[str] = field(default_factory=list)
    """What was missing or not read, a line each."""

    def lines(self) -> list[str]:
        """The report as text."""
        tables = [tally.line(table) for table, tally in self.tallies.items()]
        return [*tables, *self.notes, *self.written.lines()]


def write_events(
    out: Path,
    frames: Iterable[pl.DataFrame],
    *,
    config: WriteConfig,
    about: Source,
    read: Path,
    overwrite: bool = False,
) -> Written:
    """Write a MEDS data set from frames of events.

    Args:
        out: Its directory.
        frames: Columns of `CORE`, and any of the extras; drawn one at a time.
        config: Layout, names and splits.
        about: The source.
        read: Where it lies, which is not replaced.
        overwrite: Replace a data set that we wrote.

    Raises:
        UserError: If `out` may not be written, there is no event, or a subject has no split.
    """
    named = read_split_file(config.splits) if config.splits else None
    with new_dataset(out, overwrite=overwrite, inputs=[read]) as directory:
        spill = Spill(directory / ".spill", {**CORE, **about.extras})
        for frame in frames:
            spill.add(frame)
        spill.flush()
        if not spill.sizes.sum():
            raise UserError("the source holds no event; nothing was written")
        brought = about.splits() if named is None else named
        splits = (
            Splits(config.seed, train=config.train) if brought is None else Splits.by_name(brought)
        )
        done, codes = _write_shards(directory, spill, config, about, splits)
        metadata = directory / "metadata"
        _write_codes(metadata / "codes.parquet", codes, about.describe(codes))
        _write_about(metadata / "dataset.json", config, about)
        about.extra_files(metadata)
    done.path = out
    return done


def _write_shards(
    directory: Path,
    spill: Spill,
    config: WriteConfig,
    about: Source,
    splits: Splits,
) -> tuple[Written, list[str]]:
    """Data and splits; gives the sorted codes."""
    done = Written(directory)
    codes: set[str] = set()
    assigned = []
    for shard, buckets in enumerate(spill.shards(config.events_per_shard)):
        frame = _sorted(spill.read(buckets), config, done)
        subjects = frame["subject_id"].unique().sort()
        split = splits.of(subjects.to_numpy())
        assigned.append(pl.DataFrame({"subject_id": subjects, "split": split}))
        for i, name in enumerate(SPLITS):
            chosen = subjects.filter(pl.Series(split == i))
            if len(chosen):
                path = directory / "data" / name / f"{shard}.parquet"
                _write_shard(
                    path, frame.filter(pl.col("subject_id").is_in(chosen.implode())), about
                )
        codes.update(frame["code"].unique().to_list())
    shutil.rmtree(directory / ".spill")
    _write_splits(directory / "metadata", pl.concat(assigned), done)
    done.codes = len(codes)
    return done, sorted(codes)


def _sorted(frame: pl.DataFrame, config: WriteConfig, done: Written) -> pl.DataFrame:
    """Events in their final order, without numbers that are none and without repetitions."""
    value = pl.col("numeric_value")
    finite = value.is_finite().fill_null(True)
    done.not_finite += frame.select((~finite).sum()).item()
    code = pl.col("code")
    frame = frame.with_columns(
        # -0.0 and 0.0 sort as equals but are different bytes
        numeric_value=pl.when(value == 0).then(pl.lit(0.0, pl.Float32)).when(finite).then(value),
        rank=pl.when(code.str.starts_with("MEDS_BIRTH"))
        .then(pl.lit(_FIRST, pl.Int8))
        .when(code.str.starts_with("MEDS_DEATH"))
        .then(pl.lit(_LAST, pl.Int8))
        .otherwise("rank"),
    )
    order = frame.columns
    frame = frame.sort(order, nulls_last=False)
    if config.duplicates == "drop":
        new = pl.any_horizontal(pl.col(n).ne_missing(pl.col(n).shift()) for n in order)
        kept = frame.filter(new | (pl.int_range(pl.len()) == 0))
        done.duplicates += len(frame) - len(kept)
        frame = kept
    done.events += len(frame)
    return frame.drop("rank")


def _write_shard(path: Path, frame: pl.DataFrame, about: Source) -> None:
    types = {**_ARROW, **{name: _EXTRA_ARROW[dtype] for name, dtype in about.extras.items()}}
    table = arrow(frame).cast(pa.schema([pa.field(n, types[n]) for n in frame.columns]))
    DataSchema.validate(table)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd")


def _write_splits(metadata: Path, assigned: pl.DataFrame, done: Written) -> None:
    assigned = assigned.sort("subject_id")
    done.subjects = len(assigned)
    names = [SPLITS[i] for i in assigned["split"].to_list()]
    done.splits = {name: names.count(name) for name in SPLITS}
    metadata.mkdir()
    table = pa.table(
        {"subject_id": assigned["subject_id"].to_numpy(), "split": pa.array(names, pa.string())}
    )
    pq.write_table(table, metadata / "subject_splits.parquet")


def _write_codes(path: Path, codes: list[str], known: pl.DataFrame) -> None:
    everything = (
        pl.DataFrame({"code": codes}, schema={"code": pl.String})
        .join(
            known.unique("code", keep="first", maintain_order=True),
            on="code",
            how="full",
            coalesce=True,
        )
        .sort("code")
    )
    types = {"code": pa.string(), "description": pa.string(), "parent_codes": pa.list_(pa.string())}
    pq.write_table(
        pa.table({n: pa.array(everything[n].to_list(), t) for n, t in types.items()}), path
    )


def _write_about(path: Path, config: WriteConfig, about: Source) -> None:
    tree = {
        "dataset_name": config.dataset_name or about.name,
        "dataset_version": config.dataset_version or about.version,
        "etl_name": ETL,
        "etl_version": ehr_tokenize.__version__,
        "meds_version": version("meds"),
    }
    known = {key: value for key, value in tree.items() if value is not None}
    path.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def code_rows(rows: Iterable[tuple[str, str | None, list[str] | None]]) -> pl.DataFrame:
    """Rows of codes.parquet: (code, description, parents)."""
    schema: dict[str, Any] = {
        "code": pl.String,
        "description": pl.String,
        "parent_codes": pl.List(pl.String),
    }
    return pl.DataFrame(list(rows), schema=schema, orient="row")
