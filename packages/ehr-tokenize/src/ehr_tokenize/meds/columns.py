"""Arrow columns as the arrays of numbers that kernels work on. R rows."""

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
    return np.where(valid(column), data, dtype(null)) if column.null_count else data


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
