"""Arrow columns as the arrays of numbers that kernels work on. R rows."""

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ehr_tokenize.codes.keys import SEPARATOR, Key, clean
from ehr_tracking.arrow.meds import STATIC
from ehr_tracking.arrow.parquet import is_text, texts
from ehr_tracking.errors import UserError

NO_CODES = {
    -1: "code is null",
    -2: "code is empty",
    -3: "code is not UTF-8",
    -4: "code holds the character U+001F, which no code may have; remove it",
}
"""What stands for a code in `Batch.code` -> what is wrong with it."""


_EXACT = 2.0**53
"""Below it a float64 holds whole numbers as they are."""


def code_numbers(
    index: npt.NDArray[np.int64], codes: list[str | None]
) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Which code each row has, and the codes.

    Args:
        index: [R] which of `codes`, -1 for null.
        codes: Distinct; None for what is not UTF-8.

    Returns:
        [R] which of the codes, a number of `NO_CODES` where there is no valid one; the codes.

    Examples:
        >>> code_numbers(np.array([0, 1, -1, 2, 3]), ["A", "", None, "B"])
        (array([ 0, -2, -1, -3,  3]), ['A', '', '', 'B'])
    """
    known = [c for c in codes if c]
    if len(known) == len(codes) and SEPARATOR not in "".join(known):  # nearly always
        return index, known
    fault = [-3 if c is None else -4 if SEPARATOR in c else 0 if c else -2 for c in codes]
    numbers = np.array([*(f or i for i, f in enumerate(fault)), -1], np.int64)
    return numbers[index], [c or "" for c in codes]


def times(column: pa.Array) -> npt.NDArray[np.int64]:
    """[R] microseconds since 1970, `STATIC` for null."""
    time = filled(column, STATIC)
    if np.count_nonzero(time == STATIC) > column.null_count:  # a time, if a senseless one
        null = ~valid(column) if column.null_count else np.zeros(len(time), bool)
        time = np.where(null, STATIC, np.maximum(time, STATIC + 1))
    return time


def filled(column: pa.Array, null: float) -> npt.NDArray[Any]:
    """The numbers of a column, times as microseconds, `null` in place of nulls.

    `pyarrow.compute` does the same, but loading it takes longer than reading a small data set.
    """
    dtype = np.int64 if pa.types.is_timestamp(column.type) else column.type.to_pandas_dtype()
    if not len(column):
        return np.zeros(0, dtype)
    stop = column.offset + len(column)
    data = np.frombuffer(column.buffers()[1], dtype, stop)[column.offset :]
    if not column.null_count:
        return data
    if null < 0 and np.issubdtype(dtype, np.unsignedinteger):  # indices, as polars writes them
        data = data.astype(np.int64)
    return np.where(valid(column), data, data.dtype.type(null))


def valid(column: pa.Array) -> npt.NDArray[np.bool_]:
    """[R] whether there is a value, in a column that has a null."""
    bits = np.frombuffer(column.buffers()[0], np.uint8)
    stop = column.offset + len(column)
    return np.unpackbits(bits, count=stop, bitorder="little")[column.offset :].view(np.bool_)


def key_numbers(
    record: pa.RecordBatch,
    code: npt.NDArray[np.int64],
    codes: list[str],
    value: npt.NDArray[np.float32],
    names: tuple[str | None, str | None],
    where: tuple[Path, int],
) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Numbers of the distinct (code, unit, text), and these; a text counts where no number is.

    Args:
        record: R rows.
        code: [R]
        codes: Which `code` indexes.
        value: [R] NaN for null
        names: Columns of units and of texts.
        where: File and first row, for messages.

    Raises:
        UserError: If a unit or text is not UTF-8.
    """
    number = ~np.isnan(value)
    unit, units = _text_numbers(record, names[0], number, where)
    text, found = _text_numbers(record, names[1], ~number, where)
    wide = (code * len(units) + unit) * len(found) + text
    wide[code < 0] = -1
    distinct, index = np.unique(wide, return_inverse=True)
    rest, t = np.divmod(distinct, len(found))
    c, u = np.divmod(rest, len(units))
    triples = zip(c.tolist(), u.tolist(), t.tolist(), strict=True)
    keys = [str(Key(codes[i], units[j], found[k])) for i, j, k in triples if i >= 0]
    nulls = int(len(distinct) > 0 and distinct[0] < 0)
    return np.where(code < 0, code, index.reshape(-1) - nulls), keys


def id_numbers(record: pa.RecordBatch, names: Sequence[str]) -> npt.NDArray[np.int64] | None:
    """[R] a number that is the same for equal ids of one column, 0 for none; None without columns.

    Args:
        record: R rows.
        names: Columns of numbers or texts, of which a row has the id of the first that is filled.
            A text without characters is none, and so is a column of another type.

    Examples:
        >>> record = pa.record_batch({"a": [7, None, None], "b": ["", "", "x"]})
        >>> a, b, c = id_numbers(record, ["a", "b"])
        >>> bool(a), bool(b), bool(c), id_numbers(record, ["c"])
        (True, False, True, None)
    """
    found = None
    for place, name in enumerate(names, 1):
        column = record.column(name) if name in record.schema.names else None
        number = None if column is None else _id_numbers(column)
        if number is None:
            continue
        value, there = number
        value = np.where(there, value * 64 + place, 0)  # so that no two columns share one
        found = value if found is None else np.where(found == 0, value, found)
    return found


def _id_numbers(column: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]] | None:
    """[R] numbers that are equal where ids are, [R] whether there is one; None for other types."""
    if pa.types.is_integer(column.type):
        there = valid(column) if column.null_count else np.ones(len(column), bool)
        return filled(column, 0).astype(np.int64), there
    if pa.types.is_floating(column.type):  # as pandas has whole numbers, some of which are missing
        value = filled(column, np.nan).astype(np.float64)
        whole = (np.abs(value) < _EXACT) & (value == np.floor(value))
        return np.where(whole, value, 0).astype(np.int64), whole
    if not is_text(column.type):
        return None
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    found = [t or "" for t in texts(column.dictionary)]
    hashed = [int.from_bytes(blake2b(t.encode(), digest_size=7).digest()) for t in found]
    index = filled(column.indices, -1).astype(np.int64)
    return np.array([*hashed, 0], np.int64)[index], np.array([*map(bool, found), False])[index]


def _text_numbers(
    record: pa.RecordBatch,
    name: str | None,
    counts: npt.NDArray[np.bool_],
    where: tuple[Path, int],
) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Per row the number of its cleaned text, 0 for none; and the texts."""
    none = np.zeros(len(record), np.int64)
    column = record.column(name) if name in record.schema.names else None
    if column is None or not is_text(column.type):
        return none, [""]
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    index, found = filled(column.indices, -1), texts(column.dictionary)
    if None in found and (bad := np.isin(index, found.index(None))).any():
        path, row = where
        raise UserError(f"{path} row {row + int(bad.argmax())}: {name} is not UTF-8")
    cleaned = [clean(s) for s in found]
    number = {s: i for i, s in enumerate(dict.fromkeys(["", *cleaned]))}
    lookup = np.array([*(number[s] for s in cleaned), 0], np.int64)
    return np.where(counts, lookup[index], 0), list(number)
