"""Write `features/1`, and read its index: one row a (subject, prediction time), dense or CSR.

n rows, d features.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ehr_tracking.arrow.columns import decoded, microseconds, no_nulls, strings, whole_numbers
from ehr_tracking.arrow.parquet import is_text, read_table
from ehr_tracking.contracts import FEATURES, SPLITS, ContractError
from ehr_tracking.files import PathLike

INDEX = pa.schema(
    [
        pa.field("subject_id", pa.int64(), nullable=False),
        pa.field("prediction_time", pa.timestamp("us"), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
    ]
)
SPLIT_NAMES = (
    f"MEDS has {', '.join(SPLITS)}: rename a development or validation split to {SPLITS[1]} and a test "
    f"split to {SPLITS[2]} in metadata/subject_splits.parquet (ehr-tokenize check MEDS --repair OUT "
    f"--split NAME={SPLITS[1]} does)"
)
"""What to do about other names."""
_DTYPES = {"<i8": "I64", "<f8": "F64", "<f4": "F32", "<i4": "I32"}
"""NumPy's name -> that of safetensors, in the order in which a file has them."""


class Csr(Protocol):
    """A sparse matrix in rows, such as `scipy.sparse.csr_matrix`."""

    data: npt.NDArray[Any]
    indices: npt.NDArray[Any]
    indptr: npt.NDArray[Any]
    shape: tuple[int, ...]


Matrix: TypeAlias = "npt.NDArray[Any] | Csr"


def write_features(directory: PathLike, matrix: Matrix, index: pa.Table) -> dict[str, int]:
    """Write a matrix and its index; the caller seals.

    Args:
        directory: Exists.
        matrix: [n, d], written as float32; a sparse one with the indices of each row ascending.
        index: `subject_id`, `prediction_time`, `split` in the order of the rows.

    Returns:
        Path -> rows, for the manifest.

    Raises:
        ContractError: If the index names a subject and time twice.
    """
    directory = Path(directory)
    table = index.append_column("row", pa.array(np.arange(len(index)))).select(INDEX.names)
    _refuse_twice(table, directory / "index.parquet")
    write_tensors(directory / "features.safetensors", _tensors(matrix))
    pq.write_table(table.cast(INDEX), directory / "index.parquet")
    return {"index.parquet": len(index)}


def read_index(path: PathLike, *, rows: int) -> pa.Table:
    """Read which row of a matrix is whose, in the order of the file.

    Args:
        path: `index.parquet` of a `features/1` artifact.
        rows: Of the matrix.

    Returns:
        The columns of `INDEX`.

    Raises:
        ContractError: If it is damaged, names a subject and time twice, or other rows than the
            matrix has.
    """
    path = Path(path)
    found = read_table(path, INDEX.names)
    FEATURES.check(_kinds(found), where=str(path))
    columns = {}
    for name, kind in zip(INDEX.names, INDEX.types, strict=True):
        no_nulls(found[name], name, path)
        typed = {pa.int64(): whole_numbers, pa.timestamp("us"): microseconds}.get(kind, strings)
        columns[name] = typed(found[name], name, path)
    table = pa.table(columns).cast(INDEX)
    _refuse_splits(table["split"], path)
    _refuse_twice(table, path)
    if not np.array_equal(np.sort(table["row"].to_numpy()), np.arange(rows)):
        raise ContractError(
            f"{path} names {len(table):,} rows, which are not rows 0..{rows - 1} of "
            "features.safetensors one by one"
        )
    return table


def write_tensors(path: Path, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays as safetensors does, byte for byte, without holding a copy of them.

    Args:
        path: The file.
        tensors: Name -> array of a dtype in `_DTYPES`.
    """
    kinds = list(_DTYPES)
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    order = sorted(arrays, key=lambda name: (kinds.index(arrays[name].dtype.str), name))
    header, start = {}, 0
    for name in order:
        stop = start + arrays[name].nbytes
        header[name] = {
            "dtype": _DTYPES[arrays[name].dtype.str],
            "shape": list(arrays[name].shape),
            "data_offsets": [start, stop],
        }
        start = stop
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(arrays[name].reshape(-1).data)


def _tensors(matrix: Matrix) -> dict[str, npt.NDArray[Any]]:
    if isinstance(matrix, np.ndarray):
        return {"features": np.asarray(matrix, np.float32)}
    return {
        "data": np.asarray(matrix.data, np.float32),
        "indices": np.asarray(matrix.indices, np.int32),
        "indptr": np.asarray(matrix.indptr, np.int64),
        "shape": np.array(matrix.shape, np.int64),
    }


def _kinds(found: pa.Table) -> dict[str, str]:
    """Column -> its type, any that is read as the contract's as that."""
    readable = {pa.int64(): pa.types.is_integer, pa.string(): is_text}
    readable[pa.timestamp("us")] = lambda kind: (
        pa.types.is_timestamp(kind) or pa.types.is_date(kind)
    )
    kinds = {name: decoded(found[name]).type for name in found.column_names}
    return {
        name: str(INDEX.field(name).type if readable[INDEX.field(name).type](kind) else kind)
        for name, kind in kinds.items()
    }


def _refuse_splits(split: pa.ChunkedArray, path: Path) -> None:
    for row, name in enumerate(split.to_pylist()):
        if name not in SPLITS:
            raise ContractError(f"{path} row {row}: split is {name!r}. {SPLIT_NAMES}")


def _refuse_twice(table: pa.Table, path: Path) -> None:
    subject = table["subject_id"].to_numpy()
    time = table["prediction_time"].cast(pa.int64()).to_numpy()
    order = np.lexsort((time, subject))
    again = (np.diff(subject[order]) == 0) & (np.diff(time[order]) == 0)
    if again.any():
        row = int(order[1:][again].min())
        moment = str(np.datetime64(int(time[row]), "us").astype("M8[s]")).replace("T", " ")
        raise ContractError(
            f"{path} row {row}: subject {subject[row]} at {moment} is there twice "
            f"({int(again.sum()):,} such rows); each subject and time has one row"
        )
