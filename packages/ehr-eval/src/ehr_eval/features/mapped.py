"""Tensors of safetensors files as memory maps: open at once, and shared by all processes that do.

n rows, d features.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from scipy import sparse

from ehr_tracking.contracts import ContractError

Matrix: TypeAlias = "npt.NDArray[np.floating[Any]] | sparse.csr_matrix"
"""[n, d], dense or CSR."""

_DTYPES = {
    "BOOL": "?",
    **{f"{kind}{8 * size}": f"<{kind.lower()}{size}" for kind in "FIU" for size in (1, 2, 4, 8)},
}
"""Of safetensors -> of NumPy; there is no F8 in either."""
_CHUNK = 1 << 22
"""Values looked at together."""


def map_tensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The tensors of a file, read-only; a page is read from disk when it is first touched.

    Raises:
        ContractError: If the file is damaged or holds a type that NumPy does not have.
    """
    try:
        with safe_open(path, framework="numpy"):  # checks the header against the file's size
            pass
    except SafetensorError as e:
        raise ContractError(f"{path} is damaged: {e}") from None
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    content = np.memmap(path, mode="r")[8 + length :].view(np.ndarray)
    tensors = {}
    for name, about in header.items():
        if name == "__metadata__":
            continue
        dtype = _DTYPES.get(about["dtype"])
        if dtype is None:
            raise ContractError(f"{path}: tensor {name} is {about['dtype']} (expected F32)")
        begin, end = about["data_offsets"]
        tensors[name] = content[begin:end].view(dtype).reshape(about["shape"])
    return tensors


@dataclass(frozen=True, slots=True, eq=False)
class MappedMatrix:
    """[n, d] features on disk, dense or CSR."""

    shape: tuple[int, int]
    tensors: Mapping[str, npt.NDArray[Any]]
    """`features`, or `data`, `indices`, `indptr` of a CSR matrix."""

    def take(self, rows: npt.NDArray[np.int64]) -> Matrix:
        """Some rows, in memory.

        Args:
            rows: [m], in any order and as often as wanted.

        Returns:
            [m, d], dense or CSR as on disk.
        """
        if "features" in self.tensors:
            return self.tensors["features"][rows]
        indptr = self.tensors["indptr"]
        first, stored = indptr[rows], indptr[rows + 1] - indptr[rows]
        ends = np.cumsum(stored)
        # not through scipy's matrix of all rows, which may copy it to make the types of both indices one
        where = np.arange(ends[-1] if len(ends) else 0) + np.repeat(first - (ends - stored), stored)
        return sparse.csr_matrix(
            (
                self.tensors["data"][where],
                self.tensors["indices"][where],
                np.concatenate([[0], ends]),
            ),
            shape=(len(rows), self.shape[1]),
        )

    def broken(self) -> npt.NDArray[np.int64]:
        """The rows that hold a value which is NaN or infinite."""
        values = self.tensors.get("features", self.tensors.get("data"))
        assert values is not None
        flat = values.reshape(-1)
        parts = [
            i + np.flatnonzero(~np.isfinite(flat[i : i + _CHUNK]))
            for i in range(0, len(flat), _CHUNK)
        ]
        where = np.concatenate([np.zeros(0, np.int64), *parts])
        if "features" in self.tensors:
            return np.unique(where // max(1, self.shape[1]))
        return np.unique(np.searchsorted(self.tensors["indptr"], where, side="right") - 1)


def map_matrix(path: Path) -> MappedMatrix:
    """Open the `features.safetensors` of `features/1`.

    Raises:
        ContractError: If it is damaged or holds no matrix.
    """
    tensors = map_tensors(path)
    if "features" in tensors and tensors["features"].ndim == 2:
        n, d = tensors["features"].shape
        return MappedMatrix((n, d), {"features": tensors["features"]})
    if not {"data", "indices", "indptr", "shape"} <= tensors.keys():
        raise ContractError(f"{path} holds neither `features` [n, d] nor a CSR matrix")
    n, d = (int(size) for size in tensors.pop("shape"))
    if len(tensors["indptr"]) != n + 1:
        raise ContractError(f"{path}: indptr names {len(tensors['indptr']) - 1} rows, shape {n}")
    return MappedMatrix((n, d), tensors)
