"""Counts of what a record holds: the baseline that a pretrained model has to beat.

For each (subject, prediction time) the events up to and including that time are counted, per code,
per ancestor of the code and per value bin, over several windows; with age and the static codes.
This is the strong form of the baseline: ontology expansion, value bins, how recently each thing was there
and how values go each add to it.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from ehr_eval.counts.config import CountsConfig
from ehr_eval.counts.count import column_names
from ehr_eval.counts.parts import Part, count_parts, events_of, frequent, together
from ehr_eval.counts.things import Things, fit_things
from ehr_eval.frames import PRODUCER, labelled_rows, read_subjects, tell_tasks
from ehr_eval.parts import parts_of
from ehr_eval.workers import run_key
from ehr_tracking.arrow import labels as label_reader
from ehr_tracking.arrow.delays import Delays, agreed, delays_of
from ehr_tracking.arrow.features import write_features
from ehr_tracking.arrow.label_files import label_source
from ehr_tracking.arrow.meds import data_files, read_codes
from ehr_tracking.config import to_dict
from ehr_tracking.contracts import FEATURES, MEDS, TOKENS, TRAIN, ContractError
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import (
    new_artifact,
    raw_source,
    read_manifest,
    refuse_existing,
    seal,
    source,
)


@dataclass(frozen=True, slots=True)
class CountsSummary:
    """What was written."""

    path: Path
    rows: int
    columns: int
    nonzero: int
    blind: int
    """Rows of which nothing is known: all zeros."""


def count_features(
    meds: PathLike,
    labels: PathLike,
    out: PathLike,
    config: CountsConfig | None = None,
    *,
    tokens: PathLike | None = None,
    workers: int = 1,
    overwrite: bool = False,
) -> CountsSummary:
    """Count the past of each labelled (subject, prediction time) and write `features/1` as CSR.

    Column `age` is in years; counts are named `<thing>|<window>`, with `any` for the whole record,
    and others as `CountsConfig` says: `<thing>|recency`, `<code>|last`, `<code>|mean|30d`... Bins,
    scales and columns are chosen on train rows alone. What is delayed counts from when it became
    known, in every window. A run that is killed goes on with the files that are left.

    Args:
        meds: Data set; one file of it is in memory at a time.
        labels: Anyone's MEDS labels; the rows are the union over their tasks.
        out: The artifact.
        config: What is counted.
        tokens: `tokens/1` that the delays are taken from.
        workers: Processes; files are shared among them. The features do not depend on it.
        overwrite: Replace an artifact that is there.

    Raises:
        ContractError: If an input is not what it should be, labels name unknown subjects, no
            labelled subject is in train, or no column is left.
        ConfigError: If config and tokens have different delays.
        UnfinishedError: If a file fails; those that are done are kept.
    """
    meds, labels, out = Path(meds), Path(labels), Path(out)
    tokens = None if tokens is None else Path(tokens)
    config = config or CountsConfig()
    read = [meds, labels, *([tokens] if tokens else [])]
    refuse_existing(out, FEATURES, overwrite=overwrite, inputs=read)
    inputs = {"meds": raw_source(meds, contract=MEDS), "labels": label_source(labels)}
    if tokens is not None:
        inputs["tokens"] = source(tokens)
    delays = _delays(config, tokens)
    config = replace(config, delay=dict(delays.days))
    files = data_files(meds)
    subjects = read_subjects(meds, files, seed=config.seed)
    tables = label_reader.read_labels(labels, reader=PRODUCER, columns=config.labels)
    rows = labelled_rows(tables, subjects, where=meds)
    is_train = (rows["split"] == TRAIN).to_numpy()
    if not is_train.any():
        raise ContractError(f"{labels}: no labelled subject is in the train split of {meds}")
    tell_tasks(labels, config.labels)
    with new_artifact(
        out, FEATURES, overwrite=overwrite, inputs=read, key=run_key(to_dict(config), inputs)
    ) as unfinished:
        work = parts_of(unfinished)
        train = subjects.filter(pl.col("split") == TRAIN)["subject_id"]
        things = fit_things((events_of(f, config) for f in files), train, _parents(meds), config)
        parts = _parts(files, rows, work)
        count_parts(parts, things, config, delays, workers=workers)
        names = column_names(things, config)
        kept = frequent(parts, len(names), is_train, config.min_rows)
        if not len(kept):
            raise ContractError(
                f"{labels}: no column has a count in {config.min_rows:,} or more of the "
                f"{is_train.sum():,} train rows (`min_rows`): label more rows, or lower it"
            )
        matrix = together(parts, len(names), kept, rows.height)
        blind = int((np.diff(matrix.indptr) == 0).sum())
        index = rows.select("subject_id", "prediction_time", "split").to_arrow()
        written = write_features(unfinished, matrix, index)
        _write_columns(unfinished / "columns.json", [names[i] for i in kept], things)
        shutil.rmtree(work)
        seal(
            unfinished,
            FEATURES,
            producer=PRODUCER,
            config={**to_dict(config), "rows_without_events": blind},
            seed=config.seed,
            inputs=inputs,
            rows=written,
        )
    return CountsSummary(out, rows.height, len(kept), matrix.nnz, blind)


def _delays(config: CountsConfig, tokens: Path | None) -> Delays:
    """Those of the config and of the tokens, which must agree, in their order as well."""
    found: dict[str, Delays] = {}
    if config.delay is not None:
        found["the config"] = Delays(config.delay)
    if tokens is not None:
        found[str(tokens)] = delays_of(read_manifest(tokens, TOKENS, reader=PRODUCER))
    return agreed(found)


def _parents(meds: Path) -> dict[str, list[str | None] | None]:
    codes = read_codes(meds)
    return dict(zip(*(codes[c].to_pylist() for c in ("code", "parent_codes")), strict=True))


def _parts(files: Sequence[Path], rows: pl.DataFrame, work: Path) -> list[Part]:
    """The files that have rows, and where their counts are kept until all are there."""
    work.mkdir(exist_ok=True)
    numbered = rows.with_row_index("row")
    mine = [(i, numbered.filter(pl.col("file") == i)) for i in range(len(files))]
    return [Part(files[i], work / f"{i}.safetensors", here) for i, here in mine if here.height]


def _write_columns(path: Path, names: list[str], things: Things) -> None:
    about = {"columns": names, "bin_edges": things.measures.edges}
    path.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
