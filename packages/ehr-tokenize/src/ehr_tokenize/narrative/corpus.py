"""Whole records in pieces: what a language model goes on being trained on before it has a task."""

import shutil
from collections import Counter
from collections.abc import Iterator
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
from ehr_tokenize.narrative.pieces import narrate_pieces
from ehr_tokenize.narrative.records import records
from ehr_tokenize.narrative.setting import FILE, GROUP_ROWS, PRODUCER, SCRATCH, Setting
from ehr_tokenize.narrative.terms import unknown_line
from ehr_tokenize.narrative.text import Record
from ehr_tracking.contracts import NARRATIVES
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import new_artifact, refuse_existing, seal

_TASK = "records"
_TOLD = ("train", "tuning")
"""Never held_out: what a model is judged on must be new to it."""
_ARROW = pa.schema(
    {
        "subject_id": pa.int64(),
        "prediction_time": pa.timestamp("us"),
        "split": pa.string(),
        "text": pa.string(),
        "piece": pa.int64(),
        "events": pa.int64(),
    }
)
_ROW = {"subject_id": pl.Int64, "text": pl.String, "piece": pl.Int64, "events": pl.Int64}


@dataclass(frozen=True, slots=True)
class Corpus:
    """What `narrate_records` wrote."""

    out: Path
    subjects: dict[str, int]
    """Of each split that is told."""
    pieces: int
    events: int
    unknown: tuple[str, ...]
    """Codes without a term, told by themselves."""

    def lines(self) -> list[str]:
        """For a terminal."""
        of = ", ".join(f"{n:,} of {split}" for split, n in self.subjects.items())
        return [
            f"{self.out}: whole records of {of} in {self.pieces:,} pieces, {self.events:,} events",
            *unknown_line(self.unknown),
        ]


def narrate_records(
    meds: PathLike,
    out: PathLike,
    config: NarrateConfig | None = None,
    *,
    tokens: PathLike | None = None,
    overwrite: bool = False,
) -> Corpus:
    """Write `narratives/1` of whole records: those of train and, to validate on, of tuning.

    Each piece is a narrative at the time of its last event, of the events that no earlier piece
    tells; see `pieces.narrate_pieces`. The result does not depend on how subjects are spread over
    files.

    Args:
        meds: MEDS 0.4 data set; about a million rows of it are in memory at a time.
        out: The artifact.
        config: Defaults where None: without a limit a record is one piece.
        tokens: A `tokens/1` data set: events become known when they do there.
        overwrite: Replace an artifact that is there.

    Raises:
        UserError: If a gap is set, the data set breaks MEDS, has nobody in train, a lookup table
            cannot be read, delays differ between config, tokens and bins, or `out` is taken.
    """
    meds, out = Path(meds), Path(out)
    tokens = None if tokens is None else Path(tokens)
    config = config or NarrateConfig()
    if config.gap_days or config.gap_months:
        raise UserError(
            "a gap lies before a prediction time, and whole records have none: give --labels"
        )
    given = [meds, *filter(None, (tokens, config.bins))]
    refuse_existing(out, NARRATIVES, overwrite=overwrite, inputs=given)
    setting = Setting.of(meds, config, tokens, everyone=True)
    told = _told(meds, setting)
    subjects = dict.fromkeys(_TOLD, 0) | Counter(told["split"])
    with new_artifact(out, NARRATIVES, overwrite=overwrite, inputs=given) as directory:
        scratch = directory / SCRATCH
        scratch.mkdir()
        (directory / _TASK).mkdir()
        path = directory / _TASK / FILE
        pieces, events = _write(path, setting, told, scratch)
        shutil.rmtree(scratch)
        seal(
            directory,
            NARRATIVES,
            producer=PRODUCER,
            config=setting.portable(),
            seed=config.seed,
            inputs=setting.inputs,
            rows={f"{_TASK}/{FILE}": pieces},
        )
    return Corpus(out, subjects, pieces, events, tuple(sorted(setting.terms.unknown)))


def _told(meds: Path, setting: Setting) -> pl.DataFrame:
    """Subject and split of those who are told, ascending."""
    everyone = pl.DataFrame() if setting.extents is None else setting.extents
    split = setting.split_of(everyone["subject_id"].to_numpy())
    told = split.filter(pl.col("split").is_in(_TOLD))
    if "train" not in told["split"]:
        raise UserError(
            f"{meds}: no subject with events is in train, so there is no corpus to train on"
        )
    return told


def _write(path: Path, setting: Setting, told: pl.DataFrame, scratch: Path) -> tuple[int, int]:
    """Number of pieces, and of events in them."""
    never = pl.lit(np.iinfo(np.int64).max).cast(pl.Datetime("us"))
    last = told.select("subject_id", last=never)
    buckets = Buckets(setting.dataset, last, scratch, setting.delays)
    setting.splits.of_everyone(buckets.everyone)
    pieces = events = 0
    with pq.ParquetWriter(path, _ARROW, compression="zstd", use_dictionary=["split"]) as file:
        each = chain.from_iterable(
            records(found, setting.terms, setting.config, setting.edges)
            for found in tqdm(buckets, "writing", disable=None)
        )
        for made in _made(each, setting.config):
            rows = made.join(told, on="subject_id", maintain_order="left").with_columns(
                prediction_time=pl.lit(None, pl.Datetime("us"))
            )
            file.write_table(rows.select(_ARROW.names).to_arrow().cast(_ARROW))
            pieces, events = pieces + rows.height, events + int(rows["events"].sum())
    return pieces, events


def _made(each: Iterator[tuple[int, Record]], config: NarrateConfig) -> Iterator[pl.DataFrame]:
    """Pieces of the records, some at a time."""
    rows: list[tuple[int, str, int, int]] = []
    for subject, record in each:
        for i, piece in enumerate(narrate_pieces(record, config)):
            rows.append((subject, piece.text, i, piece.events))
        while len(rows) >= GROUP_ROWS:
            yield pl.DataFrame(rows[:GROUP_ROWS], schema=_ROW, orient="row")
            rows = rows[GROUP_ROWS:]
    if rows:
        yield pl.DataFrame(rows, schema=_ROW, orient="row")
