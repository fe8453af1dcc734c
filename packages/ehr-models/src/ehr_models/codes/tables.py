"""Tables of vectors in the forms in which people have them; no file is run.

N vectors of width D.
"""

import json
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from pickle import UnpicklingError  # what torch raises; nothing here can unpickle
from typing import TYPE_CHECKING, Any

import numpy as np

from ehr_models.codes.clinvec import read_clinvec
from ehr_models.codes.delimited import header, read_delimited, to_matrix
from ehr_models.codes.vectors import Floats, Key, Vectors, checked
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike

if TYPE_CHECKING:
    from torch import Tensor

Named = tuple[Sequence[Key], Floats]
CODE, VOCABULARY = ("code", "description"), "vocabulary"
"""Columns of a CSV that are no numbers: its names go by either of the first, and may have the second."""
NAMES, MATRIX = "codes", "embeddings"
"""What files of tensors call the two halves of a table."""
_GIVEN = re.compile(r"(\w+)=(.+)")


def read_vectors(given: PathLike, vocabularies: Sequence[str] | None = None) -> Vectors:
    """What a user named: a ClinVec directory, or a table by the ending of its name.

    Args:
        given: A path, or `VOCABULARY=PATH` for a table of bare codes of one vocabulary.
        vocabularies: Of a directory, those to read.

    Raises:
        UserError: If it is not there, of no known form, or holds what no vector may be; naming file,
            row and column.
    """
    vocabulary, path = path_of(given)
    if path.is_dir():
        return read_clinvec(path, vocabularies)
    if not path.is_file():
        raise UserError(f"{path}: no such file or directory")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(
            f"{path}: a table of vectors ends in {', '.join(READERS)}, or is a ClinVec directory"
        )
    keys, matrix = reader(path)
    if vocabulary:
        keys = [key if key.vocabulary else Key(vocabulary, key.code) for key in keys]
    return checked(path, keys, matrix)


def path_of(given: PathLike) -> tuple[str, Path]:
    """Vocabulary, or nothing, and path of what a user named.

    Examples:
        >>> vocabulary, path = path_of("ICD10CM=med2vec.csv")
        >>> vocabulary, path.name, path_of("med2vec.csv")[0]
        ('icd10cm', 'med2vec.csv', '')
    """
    path = Path(given)
    found = None if path.exists() else _GIVEN.fullmatch(str(given))
    return (found[1].lower(), Path(found[2])) if found else ("", path)


def _csv(path: Path) -> Named:
    """`code` (or `description`), `vocabulary` where there is one, and numbers in all other columns."""
    import pyarrow as pa

    names = header(path)
    code = next((n for n in CODE if n in names), None)
    if code is None:
        raise UserError(
            f"{path}: column code is missing (a header names it, vocabulary where there is one, and "
            "a column for each number)"
        )
    texts = {code: pa.string()} | ({VOCABULARY: pa.string()} if VOCABULARY in names else {})
    numbers = [n for n in names if n not in texts]
    if not numbers or len(set(names)) < len(names):
        raise UserError(f"{path}: the header names no numbers, or a column twice")
    table = read_delimited(path, names, texts)
    codes = table[code].to_pylist()
    of = table[VOCABULARY].to_pylist() if VOCABULARY in texts else [""] * len(codes)
    keys = [Key(v.lower(), c) for v, c in zip(of, codes, strict=True)]
    return keys, to_matrix(table, numbers)


def _word2vec(path: Path) -> Named:
    """A line each: name, then D numbers, between blanks; N and D in a first line, or no such line.

    A name may hold blanks where D is told.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text") from None
    told = re.fullmatch(r"\s*(\d+)\s+(\d+)\s*", lines[0]) if lines else None
    lines = [line for line in lines[1 if told else 0 :] if line.strip()]
    if told and int(told[1]) != len(lines):
        raise UserError(f"{path}: {len(lines)} vectors, but its first line says {told[1]}")
    width = int(told[2]) if told else len(lines[0].split()) - 1 if lines else 0
    keys, matrix = [], np.empty((len(lines), width), np.float32)
    for row, line in enumerate(lines):
        name, *numbers = line.rstrip().rsplit(None, width) if told else line.split()
        if len(numbers) != width or not width:
            raise UserError(f"{path} row {row + 1}: {len(numbers)} numbers (expected {width})")
        try:
            matrix[row] = [float(x) for x in numbers]
        except ValueError:
            column = next(i for i, x in enumerate(numbers) if not _is_number(x))
            raise UserError(
                f"{path} row {row + 1}, column {column}: {numbers[column]!r} is not a number"
            ) from None
        keys.append(Key("", name.strip()))
    return keys, matrix


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _safetensors(path: Path) -> Named:
    """A tensor `embeddings` [N, D] and its codes, or a tensor [D] for each code.

    The codes are `codes` in the metadata, a JSON list, or the lines of `<name>.codes.txt` beside it.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- no dict
    except SafetensorError as e:
        raise UserError(f"{path} is no safetensors file: {e}") from None
    beside = path.with_name(f"{path.stem}.codes.txt")
    if NAMES in metadata:
        tensors[NAMES] = _list(path, metadata[NAMES])
    elif beside.is_file():
        tensors[NAMES] = beside.read_text(encoding="utf-8").splitlines()
    return _of_tensors(path, tensors)


def _list(path: Path, text: str) -> Any:  # noqa: ANN401 -- what JSON holds
    try:
        return json.loads(text)
    except ValueError:
        raise UserError(f"{path}: metadata {NAMES} is no JSON list") from None


def _torch(path: Path) -> Named:
    """A dict code -> tensor [D], or `{"codes": [...], "embeddings": tensor}`.

    Other objects are refused before anything of them is made.
    """
    import torch

    try:
        with warnings.catch_warnings(action="ignore"):  # of what is refused right away
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as e:
        said = " ".join(str(e).split())[:120]
        raise UserError(
            f"{path} was not loaded: only tensors, lists and dicts are read, and nothing is run "
            f"({said}); save the table as safetensors"
        ) from None
    if not isinstance(found, dict):
        raise UserError(
            f"{path} holds a {type(found).__name__}, not a dict from codes to tensors, or one of "
            f"{NAMES} and {MATRIX}"
        )
    return _of_tensors(path, found)


def _of_tensors(path: Path, found: dict[Any, Any]) -> Named:
    """From a dict of either form."""
    import torch

    if NAMES in found:
        names, matrix = found[NAMES], found.get(MATRIX)
        if not isinstance(matrix, torch.Tensor) or matrix.ndim != 2:
            raise UserError(f"{path}: {MATRIX} is not a tensor [codes, width] beside {NAMES}")
        if not isinstance(names, list) or len(names) != len(matrix):
            raise UserError(f"{path}: {NAMES} is not a list of {len(matrix)} names")
        return _keys(path, names), _numbers(matrix)
    if MATRIX in found:
        raise UserError(f"{path} does not say which code each row of {MATRIX} is of")
    width = next((len(t) for t in found.values() if _is_vector(t)), 0)
    for name, tensor in found.items():
        if not _is_vector(tensor) or len(tensor) != width:
            shape = (
                list(tensor.shape) if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            )
            raise UserError(
                f"{path}: {name} is {shape} (expected a tensor [{width}] for each code)"
            )
    keys = _keys(path, list(found))
    return keys, _numbers(torch.stack(list(found.values()))) if found else np.empty(
        (0, 0), np.float32
    )


def _keys(path: Path, names: list[Any]) -> list[Key]:
    wrong = next((n for n in names if not isinstance(n, str)), None)
    if wrong is not None:
        raise UserError(f"{path}: {wrong!r} is no code: codes are text")
    return [Key("", name) for name in names]


def _is_vector(value: Any) -> bool:  # noqa: ANN401 -- anything
    return getattr(value, "ndim", None) == 1


def _numbers(tensor: "Tensor") -> Floats:
    return np.asarray(tensor.detach().float().contiguous().numpy())


READERS: dict[str, Callable[[Path], Named]] = {
    ".csv": _csv,
    ".txt": _word2vec,
    ".vec": _word2vec,
    ".safetensors": _safetensors,
    ".pt": _torch,
    ".pth": _torch,
}
"""Ending -> reader. Where a file says of no vocabulary, its names are taken as they stand."""
