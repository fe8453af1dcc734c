"""Columns of a MEDS table in the types of MEDS, where that loses nothing."""

from collections import Counter
from pathlib import Path

import polars as pl

from ehr_tracking.errors import UserError

_INTEGER = r"^(0|-?[1-9][0-9]*)$"  # as Python writes it: "007" and "7" are two names


def mended_events(frame: pl.DataFrame, path: Path, mended: Counter[str]) -> pl.DataFrame:
    """Events with both a subject and a code, in the types of MEDS; further columns as they are.

    Args:
        frame: Rows of a file below `data`.
        path: It.
        mended: Is added to.

    Raises:
        UserError: If a column is missing, or of a type that does not tell what MEDS needs.
    """
    for name in ("subject_id", "time", "code"):
        if name not in frame.columns:
            raise UserError(f"{path}: not MEDS, column {name} is missing")
    columns = [
        _subjects(frame["subject_id"], path),
        _times(frame["time"], path),
        _texts(frame["code"], path, "a code that is a number has lost its leading zeros"),
    ]
    if "numeric_value" in frame.columns:
        columns.append(_values(frame["numeric_value"], path, mended))
    if "text_value" in frame.columns:
        columns.append(frame["text_value"].cast(pl.String))
    made = frame.with_columns(columns)
    for name in ("subject_id", "code"):
        whole = made.filter(pl.col(name).is_not_null())
        if len(whole) < len(made):
            mended[f"rows without {name} were left out"] += len(made) - len(whole)
        made = whole
    return made


def mended_codes(frame: pl.DataFrame, path: Path, mended: Counter[str]) -> pl.DataFrame:
    """`codes.parquet`, each code once.

    Raises:
        UserError: If a column does not hold what MEDS has there.
    """
    if "code" not in frame.columns:
        raise UserError(f"{path}: column code is missing")
    made = frame.with_columns(_texts(frame["code"], path, "codes are text"))
    for name, dtype in (("description", pl.String()), ("parent_codes", pl.List(pl.String))):
        found = made[name].dtype if name in made.columns else pl.Null()
        if found == pl.Null or found == pl.List(pl.Null):
            column = pl.lit(None, dtype)
        elif isinstance(found, pl.Categorical | pl.Enum) or found == dtype:
            column = pl.col(name).cast(dtype)
        else:
            raise UserError(f"{path}: column {name} is {found}, MEDS has {dtype}")
        made = made.with_columns(column.alias(name))
    once = made.filter(pl.col("code").is_not_null()).unique(
        "code", keep="first", maintain_order=True
    )
    if len(once) < len(frame):
        mended[
            "rows of codes.parquet without a code, or with one that is above, were left out"
        ] += len(frame) - len(once)
    return once


def mended_splits(frame: pl.DataFrame, path: Path, mended: Counter[str]) -> pl.DataFrame:
    """`subject_splits.parquet`, with its two columns.

    Raises:
        UserError: If one of them is missing or is of another kind.
    """
    for name in ("subject_id", "split"):
        if name not in frame.columns:
            raise UserError(f"{path}: column {name} is missing")
    more = sorted(set(frame.columns) - {"subject_id", "split"})
    if more:
        mended[f"column {', '.join(more)} of subject_splits.parquet was left out"] += 1
    made = frame.select(
        _subjects(frame["subject_id"], path), _texts(frame["split"], path, "MEDS has names")
    ).drop_nulls()
    once = made.unique(maintain_order=True)
    if len(once) < len(frame):
        mended["rows of subject_splits.parquet with a null, or that repeat one, were left out"] += (
            len(frame) - len(once)
        )
    return once


def _subjects(column: pl.Series, path: Path) -> pl.Series:
    """Whole numbers, however they are stored."""
    if column.dtype.is_float():
        made = column.cast(pl.Int64, strict=False)
        lost = (made.cast(pl.Float64) != column.cast(pl.Float64)) | (made.abs() > 2**53)
    elif column.dtype.is_integer():
        made, lost = column.cast(pl.Int64, strict=False), None
    elif column.dtype in (pl.String, pl.Categorical, pl.Enum):
        text = column.cast(pl.String)
        made, lost = text.cast(pl.Int64, strict=False), ~text.str.contains(_INTEGER)
    else:
        raise UserError(f"{path}: column subject_id is {column.dtype}, MEDS has int64")
    bad = column.is_not_null() & (made.is_null() | (False if lost is None else lost))
    if bad.any():
        row = bad.arg_max() or 0
        raise UserError(
            f"{path} row {row}: subject_id {column[row]!r} is no whole number of 64 bits; "
            "ehr-tokenize from events makes ids of names"
        )
    return made


def _times(column: pl.Series, path: Path) -> pl.Series:
    if column.dtype == pl.Null:
        return column.cast(pl.Datetime("us"))
    if not isinstance(column.dtype, pl.Datetime):
        raise UserError(
            f"{path}: column time is {column.dtype}, MEDS has timestamp[us]; ehr-tokenize from events "
            "reads days and text, and says where in its day an event goes"
        )
    if column.dtype.time_zone is not None:
        column = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return column.cast(pl.Datetime("us"))


def _texts(column: pl.Series, path: Path, why: str) -> pl.Series:
    if column.dtype not in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        raise UserError(f"{path}: column {column.name} is {column.dtype}, MEDS has string; {why}")
    return column.cast(pl.String)


def _values(column: pl.Series, path: Path, mended: Counter[str]) -> pl.Series:
    """32-bit numbers; null for NaN, and for what they cannot hold."""
    if not (column.dtype.is_numeric() or column.dtype == pl.Null):
        raise UserError(f"{path}: column numeric_value is {column.dtype}, MEDS has float")
    wide = column.cast(pl.Float64)
    made = wide.cast(pl.Float32)
    beyond = (made.is_infinite() & wide.is_finite()).fill_null(False)
    for what, where in (
        ("values that float32 cannot hold were left out", beyond),
        ("values that are NaN are null now", made.is_nan().fill_null(False)),
    ):
        if where.any():
            mended[what] += int(where.sum())
        made = made.set(where, None)
    return made
