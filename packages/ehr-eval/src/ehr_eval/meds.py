"""The part of a MEDS data set that labels and counts need."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow.parquet as pq

from ehr_tracking.contracts import Column, Contract, ContractError

MEDS = Contract(
    "meds",
    0,
    "`data/**/*.parquet`",
    (
        Column("subject_id", "int64", "Subject."),
        Column("time", "timestamp[us]", "Null for what is always known."),
        Column("code", "string | large_string", "What happened."),
        Column("numeric_value", "float | double", "Value.", optional=True),
    ),
)
RAW = "meds/0.4"
"""How a MEDS data set is named in the lineage of what is made from it."""
SPLITS = ("train", "tuning", "held_out")
COLUMNS = ("subject_id", "time", "code", "numeric_value")


def data_files(meds: Path) -> list[Path]:
    """The files of events of a data set, sorted.

    Raises:
        ContractError: If there are none.
    """
    if not meds.is_dir():
        raise ContractError(f"{meds}: no such directory")
    files = sorted((meds / "data").rglob("*.parquet"))
    if not files:
        raise ContractError(f"{meds} has no data/**/*.parquet: not a MEDS data set")
    return files


def read_events(path: Path) -> pl.DataFrame:
    """The events of one file: `COLUMNS`, in the file's order, `numeric_value` as float32.

    Raises:
        ContractError: If the file is damaged, or its columns are not those of MEDS.
    """
    try:
        schema = pq.read_schema(path)
        MEDS.check({f.name: str(f.type) for f in schema}, where=str(path))
        frame = pl.read_parquet(path, columns=[c for c in COLUMNS if c in schema.names])
    except (OSError, pl.exceptions.PolarsError) as e:  # pyarrow's errors on bytes are OSError too
        raise ContractError(f"{path} cannot be read as Parquet: {_line(e)}") from None
    except ValueError as e:
        if isinstance(e, ContractError):
            raise
        raise ContractError(f"{path} cannot be read as Parquet: {_line(e)}") from None
    if "numeric_value" not in frame.columns:
        frame = frame.with_columns(numeric_value=pl.lit(None, pl.Float32))
    for column in ("subject_id", "code"):
        nulls = frame[column].is_null()
        if nulls.any():
            raise ContractError(f"{path}: row {nulls.arg_true()[0]} has no {column}")
    return frame.select(COLUMNS).with_columns(pl.col("numeric_value").cast(pl.Float32))


def read_codes(meds: Path) -> pl.DataFrame:
    """`code` and `parent_codes` (list, null for none) of `metadata/codes.parquet`; empty without it.

    Raises:
        ContractError: If the file is damaged.
    """
    path = meds / "metadata" / "codes.parquet"
    empty = pl.DataFrame(schema={"code": pl.String, "parent_codes": pl.List(pl.String)})
    if not path.is_file():
        return empty
    try:
        frame = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as e:
        raise ContractError(f"{path} cannot be read as Parquet: {_line(e)}") from None
    if not {"code", "parent_codes"} <= set(frame.columns):
        return empty
    return frame.select(
        pl.col("code").cast(pl.String), pl.col("parent_codes").cast(empty.schema["parent_codes"])
    )


def read_splits(meds: Path, subjects: Iterable[int], *, seed: int = 0) -> pl.DataFrame:
    """`subject_id` and `split` of each given subject.

    Args:
        meds: Its `metadata/subject_splits.parquet` decides, where there is one.
        subjects: Whom to place.
        seed: Of the split by hash, where the data set names no splits.

    Raises:
        ContractError: If the data set's splits leave a subject out, or name one twice.
    """
    wanted = pl.DataFrame({"subject_id": sorted(set(subjects))}, schema={"subject_id": pl.Int64})
    path = meds / "metadata" / "subject_splits.parquet"
    if not path.is_file():
        places = splits_by_hash(wanted["subject_id"].to_numpy(), seed)
        names = [SPLITS[i] for i in places.tolist()]
        return wanted.with_columns(pl.Series("split", names, pl.String))
    try:
        table = pl.read_parquet(path, columns=["subject_id", "split"])
    except (OSError, pl.exceptions.PolarsError) as e:
        raise ContractError(f"{path} cannot be read: {_line(e)}") from None
    twice = table.filter(table["subject_id"].is_duplicated())["subject_id"]
    if len(twice):
        raise ContractError(f"{path} names subject {twice[0]} twice")
    placed = wanted.join(table, on="subject_id", how="left", maintain_order="left")
    missing = placed.filter(pl.col("split").is_null())["subject_id"]
    if len(missing):
        raise ContractError(
            f"{path} gives no split for {len(missing)} subjects, the first {missing[0]}"
        )
    return placed.with_columns(pl.col("split").cast(pl.String))


def splits_by_hash(subject_id: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    """[N] index into `SPLITS`: 80/10/10 by SplitMix64 (Steele et al. 2014) of subject and seed.

    The rule by which ehr-tokenize splits a data set that names no splits, so that both agree.

    Examples:
        >>> np.bincount(splits_by_hash(np.arange(10_000), seed=0)).tolist()
        [8012, 982, 1006]
    """
    gamma = 0x9E3779B97F4A7C15
    x = subject_id.astype(np.uint64) + np.uint64((seed + 1) * gamma % 2**64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    share = (x ^ (x >> np.uint64(31))) >> np.uint64(11)
    return np.searchsorted(np.array([0.8, 0.9]) * 2.0**53, share.astype(np.float64), side="right")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
