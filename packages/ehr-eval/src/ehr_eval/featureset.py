"""Read and write `features/1`: one row a (subject, prediction time), dense or CSR.

n rows, d features.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy import sparse

from ehr_eval import __version__
from ehr_eval.labels import KEY
from ehr_tracking.contracts import FEATURES, ContractError
from ehr_tracking.manifest import Manifest, check_file, read_manifest

Matrix: TypeAlias = "npt.NDArray[np.floating[Any]] | sparse.csr_matrix"
"""[n, d], dense or CSR."""

_INDEX = pa.schema(
    {
        "subject_id": pa.int64(),
        "prediction_time": pa.timestamp("us"),
        "row": pa.int64(),
        "split": pa.string(),
    }
)


@dataclass(frozen=True, slots=True, eq=False)
class FeatureSet:
    """The features of one model."""

    directory: Path
    manifest: Manifest
    matrix: Matrix
    """[n, d]"""
    index: pl.DataFrame
    """subject_id, prediction_time, row, split."""


def write_features(
    directory: Path, matrix: npt.NDArray[np.float32], index: pl.DataFrame
) -> dict[str, int]:
    """Write a dense matrix and its index; the caller seals.

    Args:
        directory: Exists.
        matrix: [n, d].
        index: subject_id, prediction_time, split in the order of the rows.

    Returns:
        Path -> rows, for the manifest.
    """
    features = np.ascontiguousarray(matrix, np.float32)
    save_file({"features": features}, directory / "features.safetensors")
    rows = pl.int_range(index.height, dtype=pl.Int64, eager=True).alias("row")
    table = index.with_columns(rows).select(*KEY, "row", "split").to_arrow()
    pq.write_table(table.cast(_INDEX), directory / "index.parquet")
    return {"index.parquet": index.height}


def read_features(directory: Path) -> FeatureSet:
    """Open the features of one model.

    Raises:
        ContractError: If they are unfinished, changed, of another contract, contradict themselves, or
            hold a value that is no finite number.
    """
    manifest = read_manifest(directory, FEATURES, reader=f"ehr-eval {__version__}")
    path = check_file(directory, manifest, "index.parquet")
    table = pq.read_table(path)
    FEATURES.check({f.name: str(f.type) for f in table.schema}, where=str(path))
    index = pl.DataFrame(pl.from_arrow(table))
    matrix = _read_matrix(check_file(directory, manifest, "features.safetensors"))
    if matrix.shape[0] != index.height or index["row"].sort().to_list() != list(
        range(index.height)
    ):
        raise ContractError(
            f"{path} names {index.height} rows, which are not rows 0..{matrix.shape[0] - 1} of "
            "features.safetensors one by one"
        )
    stored = matrix.data if sparse.issparse(matrix) else matrix
    if not np.isfinite(stored).all():
        raise ContractError(
            f"{directory / 'features.safetensors'} holds NaN or infinite values; did the model diverge?"
        )
    return FeatureSet(directory=directory, manifest=manifest, matrix=matrix, index=index)


def align(features: FeatureSet, labels: pl.DataFrame, *, task: str) -> pl.DataFrame:
    """Find the row and the split of each label.

    Args:
        features: Must hold every (subject, prediction time) of the labels.
        labels: subject_id, prediction_time and more.
        task: For the message.

    Returns:
        The labels in their order, with `row` and `split`.

    Raises:
        ContractError: Naming the first label without features.
    """
    found = labels.join(features.index, on=KEY, how="left", maintain_order="left")
    missing = found.filter(pl.col("row").is_null())
    if missing.height:
        subject, time = missing.select(KEY).row(0)
        raise ContractError(
            f"{features.directory} has no features for {missing.height} of {labels.height} labels "
            f"of task {task}, the first subject {subject} at {time}; extract them for these labels"
        )
    return found


def _read_matrix(path: Path) -> Matrix:
    try:
        tensors = load_file(path)
    except SafetensorError as e:
        raise ContractError(f"{path} is damaged: {e}") from None
    if "features" in tensors:
        return tensors["features"]
    if not {"data", "indices", "indptr", "shape"} <= tensors.keys():
        raise ContractError(f"{path} holds neither `features` nor a CSR matrix")
    return sparse.csr_matrix(
        (tensors["data"], tensors["indices"], tensors["indptr"]),
        shape=tuple(int(n) for n in tensors["shape"]),
    )
