"""ClinVec directories: `ClinVec_<vocabulary>.csv` beside `ClinGraph_nodes.csv`.

Source: ClinVec, Harvard Dataverse doi:10.7910/DVN/Z6H1A8 (MIT). About 153,000 vectors in nine
vocabularies. Those of `lnc` are parts of LOINC, not codes of laboratory tests.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ehr_models.codes.delimited import header, read_delimited, to_matrix
from ehr_models.codes.vectors import Key, Vectors, checked, joined, refuse_repeated
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike

WIDTH = 128
NODES = "ClinGraph_nodes.csv"
NTYPES = {
    "atc": "ATC",
    "cpt": "CPT",
    "icd10cm": "ICD10CM",
    "icd9cm": "ICD9CM",
    "lnc": "LNC",
    "phecode": "PHECODE",
    "rxnorm": "RXNORM",
    "snomedct": "SNOMEDCT_US",
    "umls": "UMLS_CUI",
}
"""Vocabulary, as files name it -> `ntype` of its nodes."""
_INDEX = "node_index"


@dataclass(frozen=True, slots=True, eq=False)
class _Nodes:
    """Rows of the nodes file, by rising index."""

    index: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    """From 0 in the file."""
    id: list[str]
    """In the order of the file."""
    ntype: list[str]
    path: Path


def read_clinvec(directory: PathLike, vocabularies: Sequence[str] | None = None) -> Vectors:
    """The vectors of a directory, keyed by vocabulary and code.

    Args:
        directory: As published.
        vocabularies: Keys of `NTYPES`; by default all of which there is a file.

    Raises:
        UserError: Naming file, row and column, if a file is missing, a vocabulary is unknown, a row
            has no node or one of another vocabulary, a code or an index is there twice, the width is
            not 128, or a number is not finite.
    """
    directory = Path(directory)
    unknown = [v for v in vocabularies or () if v not in NTYPES]
    if unknown:
        raise UserError(f"no vocabulary {unknown[0]} in ClinVec; it has {', '.join(NTYPES)}")
    found = [v for v in NTYPES if _file(directory, v).is_file()]
    chosen = list(dict.fromkeys(vocabularies or found))
    if not chosen:
        raise UserError(f"{directory} holds no ClinVec_<vocabulary>.csv: not a ClinVec directory")
    for vocabulary in chosen:
        if vocabulary not in found:
            raise UserError(
                f"{_file(directory, vocabulary)}: no such file; there is {', '.join(found) or 'none'}"
            )
    nodes = _read_nodes(directory / NODES)
    return joined([_read(_file(directory, v), v, nodes) for v in chosen])


def _file(directory: Path, vocabulary: str) -> Path:
    return directory / f"ClinVec_{vocabulary}.csv"


def _read_nodes(path: Path) -> _Nodes:
    import pyarrow as pa

    names, delimiter = header(path, "\t"), "\t"
    wanted = ("node_id", "ntype", _INDEX)
    missing = [n for n in wanted if n not in names]
    if missing:
        raise UserError(f"{path}: column {missing[0]} is missing (tab-separated, with a header)")
    kinds = {n: pa.string() for n in names} | {_INDEX: pa.int64()}
    table = read_delimited(path, names, kinds, delimiter=delimiter, wanted=wanted)
    index = table[_INDEX].to_numpy()
    if not len(index):
        raise UserError(f"{path} holds no node")
    row = np.argsort(index, kind="stable")
    if len(np.unique(index)) < len(index):
        refuse_repeated(path, index.tolist(), _INDEX)
    return _Nodes(index[row], row, table["node_id"].to_pylist(), table["ntype"].to_pylist(), path)


def _read(path: Path, vocabulary: str, nodes: _Nodes) -> Vectors:
    import pyarrow as pa

    columns = [str(i) for i in range(WIDTH)]
    _require_columns(path, columns)
    table = read_delimited(path, [_INDEX, *columns], {_INDEX: pa.int64()})
    index = table[_INDEX].to_numpy()
    if len(np.unique(index)) < len(index):
        refuse_repeated(path, index.tolist(), _INDEX)
    place = np.searchsorted(nodes.index, index).clip(max=len(nodes.index) - 1)
    absent = nodes.index[place] != index
    if absent.any():
        at = int(absent.argmax())
        raise UserError(
            f"{path} row {at + 1}, column {_INDEX}: node {index[at]} is not in {nodes.path}"
        )
    keys = [_key(nodes, row, vocabulary) for row in nodes.row[place].tolist()]
    return checked(path, keys, to_matrix(table, columns))


def _require_columns(path: Path, columns: list[str]) -> None:
    """The first column has no name and holds indices of nodes; the others are numbered from 0."""
    found = header(path)
    if found[0].strip() or len(found) != len(columns) + 1:
        first = f"first column {found[0]!r}" if found[0].strip() else f"width {len(found) - 1}"
        raise UserError(
            f"{path}: {first} (expected an unnamed column of node indices, then {WIDTH} columns)"
        )
    wrong = next((c for c, f in zip(columns, found[1:], strict=True) if f != c), None)
    if wrong is not None:
        raise UserError(f"{path}: column {wrong} is called {found[int(wrong) + 1]!r}")


def _key(nodes: _Nodes, row: int, vocabulary: str) -> Key:
    """The code of a node: its id before the last colon, as text.

    Raises:
        UserError: If the node is of another vocabulary or its id has no colon.
    """
    code, colon, _ = nodes.id[row].rpartition(":")
    if not colon or not code:
        raise UserError(
            f"{nodes.path} row {row + 1}, column node_id: {nodes.id[row]!r} is not CODE:vocabulary"
        )
    if nodes.ntype[row].upper() != NTYPES[vocabulary]:
        raise UserError(
            f"{nodes.path} row {row + 1}, column ntype: {nodes.ntype[row]} (expected "
            f"{NTYPES[vocabulary]}, since ClinVec_{vocabulary}.csv has this node)"
        )
    return Key(vocabulary, code)
