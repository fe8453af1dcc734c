"""Counts of what a record holds: the baseline that a pretrained model has to beat.

For each (subject, prediction time) the events up to and including that time are counted, per code,
per ancestor of the code and per value bin, over several windows; with age and the static codes.
This is the strong form of the baseline: ontology expansion and value bins each add to it.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from scipy import sparse
from tqdm import tqdm

from ehr_eval.counts.config import CountsConfig
from ehr_eval.counts.count import column_names, count_rows
from ehr_eval.counts.things import Things, fit_things
from ehr_eval.frames import PRODUCER, labelled_rows, read_events, read_subjects, tell_tasks
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


def count_features(
    meds: PathLike,
    labels: PathLike,
    out: PathLike,
    config: CountsConfig | None = None,
    *,
    tokens: PathLike | None = None,
    overwrite: bool = False,
) -> CountsSummary:
    """Count the past of each labelled (subject, prediction time) and write `features/1` as CSR.

    Column `age` is in years; every other one is a count and is named `<thing>|<window>`, with
    `any` for the whole record. Bins and columns are chosen on train rows alone. What is delayed
    counts from when it became known, in every window.

    Args:
        meds: Data set; one file of it is in memory at a time.
        labels: Anyone's MEDS labels; the rows are the union over their tasks.
        out: The artifact.
        config: What is counted.
        tokens: `tokens/1` that the delays are taken from.
        overwrite: Replace an artifact that is there.

    Raises:
        ContractError: If an input is not what it should be, labels name unknown subjects, no
            labelled subject is in train, or no column is left.
        ConfigError: If config and tokens have different delays.
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
    train = subjects.filter(pl.col("split") == TRAIN)["subject_id"]
    codes = read_codes(meds)
    parents = dict(zip(*(codes[c].to_pylist() for c in ("code", "parent_codes")), strict=True))
    things = fit_things((read_events(f) for f in files), train, parents, config)
    matrix = _count_files(files, rows, things, config, delays)
    names = column_names(things.names, config)
    kept = np.flatnonzero(matrix[is_train].getnnz(axis=0) >= config.min_rows)
    if not len(kept):
        raise ContractError(
            f"{labels}: no column has a count in {config.min_rows:,} or more of the {is_train.sum():,} "
            "train rows (`min_rows`): label more rows, or lower it"
        )
    matrix = matrix[:, kept]
    matrix.sort_indices()
    index = rows.select("subject_id", "prediction_time", "split").to_arrow()
    with new_artifact(out, FEATURES, overwrite=overwrite, inputs=read) as partial:
        written = write_features(partial, matrix, index)
        _write_columns(partial / "columns.json", [names[i] for i in kept], things)
        seal(
            partial,
            FEATURES,
            producer=PRODUCER,
            config=to_dict(config),
            seed=config.seed,
            inputs=inputs,
            rows=written,
        )
    return CountsSummary(out, rows.height, len(kept), matrix.nnz)


def _delays(config: CountsConfig, tokens: Path | None) -> Delays:
    """Those of the config and of the tokens, which must agree, in their order as well."""
    found: dict[str, Delays] = {}
    if config.delay is not None:
        found["the config"] = Delays(config.delay)
    if tokens is not None:
        found[str(tokens)] = delays_of(read_manifest(tokens, TOKENS, reader=PRODUCER))
    return agreed(found)


def _count_files(
    files: list[Path],
    rows: pl.DataFrame,
    things: Things,
    config: CountsConfig,
    delays: Delays,
) -> sparse.csr_matrix:
    """[R, columns] in the order of `rows`."""
    numbered = rows.with_row_index("row")
    parts, order = [], []
    for i, path in enumerate(tqdm(files, desc="counts", unit="file", disable=None)):
        here = numbered.filter(pl.col("file") == i)
        if here.height:
            parts.append(count_rows(read_events(path, delays), here, things, config))
            order.append(here["row"].to_numpy())
    return sparse.vstack(parts, format="csr")[np.argsort(np.concatenate(order))]


def _write_columns(path: Path, names: list[str], things: Things) -> None:
    about = {"columns": names, "bin_edges": things.edges}
    path.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
