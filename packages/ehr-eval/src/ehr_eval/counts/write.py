"""Counts of what a record holds: the baseline that a pretrained model has to beat.

For each (subject, prediction time) the events up to and including that time are counted, per code,
per ancestor of the code and per value bin, over several windows; with age and the static codes.
This is the strong form of the baseline: ontology expansion and value bins each add to it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file
from scipy import sparse
from tqdm import tqdm

from ehr_eval import __version__
from ehr_eval.counts.config import CountsConfig
from ehr_eval.counts.count import column_names, count_rows
from ehr_eval.counts.things import Vocabulary, fit_vocabulary
from ehr_eval.labels import KEY, read_labels, require_known
from ehr_eval.meds import RAW, data_files, read_codes, read_events, read_splits
from ehr_tracking.arrow.labels import label_source
from ehr_tracking.config import to_dict
from ehr_tracking.contracts import FEATURES, ContractError
from ehr_tracking.manifest import new_artifact, raw_source, refuse_existing, seal

INDEX = pa.schema(
    [
        pa.field("subject_id", pa.int64(), nullable=False),
        pa.field("prediction_time", pa.timestamp("us"), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Summary:
    """What was written."""

    path: Path
    rows: int
    columns: int
    nonzero: int


def count_features(
    meds: Path,
    labels: Path,
    out: Path,
    config: CountsConfig | None = None,
    *,
    overwrite: bool = False,
) -> Summary:
    """Count the past of each labelled (subject, prediction time) and write `features/1` as CSR.

    Column `age` is in years; every other one is a count and is named `<thing>|<window>`, with
    `any` for the whole record. Bins and columns are chosen on train rows alone.

    Args:
        meds: Data set; one file of it is in memory at a time.
        labels: Anything that `read_labels` reads; the rows are the union over its tasks.
        out: The artifact.
        config: What is counted.
        overwrite: Replace an artifact that is there.

    Raises:
        ContractError: If an input is not what it should be, labels name unknown subjects, or no
            labelled subject is in train.
    """
    config = config or CountsConfig()
    refuse_existing(out, overwrite=overwrite)
    files = data_files(meds)
    tasks = read_labels(labels)
    subjects = _subjects(meds, files, config)
    require_known(tasks, subjects["subject_id"])
    rows = _rows(tasks, subjects)
    is_train = (rows["split"] == "train").to_numpy()
    if not is_train.any():
        raise ContractError(f"{labels}: no labelled subject is in the train split of {meds}")
    train = subjects.filter(pl.col("split") == "train")["subject_id"]
    vocabulary = fit_vocabulary(files, train, read_codes(meds), config)
    matrix = _count_files(files, rows, vocabulary, config)
    names = column_names(vocabulary.names, config)
    kept = np.flatnonzero(matrix[is_train].getnnz(axis=0) >= config.min_rows)
    matrix = matrix[:, kept]
    with new_artifact(out, overwrite=overwrite) as partial:
        _write(partial, matrix, rows, [names[i] for i in kept], vocabulary)
        seal(
            partial,
            FEATURES,
            producer=f"ehr-eval {__version__}",
            config=to_dict(config),
            seed=config.seed,
            inputs={
                "meds": raw_source(meds, contract=RAW),
                "labels": label_source(labels),
            },
            rows={"index.parquet": rows.height},
        )
    return Summary(out, rows.height, len(kept), matrix.nnz)


def _subjects(meds: Path, files: list[Path], config: CountsConfig) -> pl.DataFrame:
    """subject_id, file (its number), split of every subject of the data set."""
    parts = [
        read_events(path).select("subject_id").unique().with_columns(file=pl.lit(i))
        for i, path in enumerate(files)
    ]
    found = pl.concat(parts)
    twice = found.filter(found["subject_id"].is_duplicated())["subject_id"]
    if len(twice):
        raise ContractError(f"{meds}: subject {twice.sort()[0]} is in more than one file")
    splits = read_splits(meds, found["subject_id"].to_list(), seed=config.seed)
    return found.join(splits, on="subject_id", how="left")


def _rows(tasks: Mapping[str, pl.DataFrame], subjects: pl.DataFrame) -> pl.DataFrame:
    """The union over tasks: subject_id, prediction_time, file, split; sorted by the first two."""
    keys = pl.concat([task.select(KEY) for task in tasks.values()]).unique()
    return keys.join(subjects, on="subject_id", how="left").sort(KEY)


def _count_files(
    files: list[Path], rows: pl.DataFrame, vocabulary: Vocabulary, config: CountsConfig
) -> sparse.csr_matrix:
    """[R, columns] in the order of `rows`."""
    numbered = rows.with_row_index("row")
    parts, order = [], []
    for i, path in enumerate(tqdm(files, desc="counts", unit="file", disable=None)):
        here = numbered.filter(pl.col("file") == i)
        if here.height:
            parts.append(count_rows(read_events(path), here, vocabulary, config))
            order.append(here["row"].to_numpy())
    return sparse.vstack(parts, format="csr")[np.argsort(np.concatenate(order))]


def _write(
    directory: Path,
    matrix: sparse.csr_matrix,
    rows: pl.DataFrame,
    names: list[str],
    vocabulary: Vocabulary,
) -> None:
    matrix.sort_indices()
    tensors = {
        "data": matrix.data.astype(np.float32),
        "indices": matrix.indices.astype(np.int32),
        "indptr": matrix.indptr.astype(np.int64),
        "shape": np.array(matrix.shape, np.int64),
    }
    save_file(tensors, directory / "features.safetensors")
    index = rows.with_row_index("row").select(*KEY, pl.col("row").cast(pl.Int64), "split")
    pq.write_table(index.to_arrow().cast(INDEX), directory / "index.parquet")
    about = {"columns": names, "bin_edges": vocabulary.edges}
    (directory / "columns.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
