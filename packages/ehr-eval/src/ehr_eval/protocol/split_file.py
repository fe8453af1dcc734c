"""Splits that a file names: EHRSHOT's `person_id_map.csv`."""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from ehr_eval.features.read import FeatureSet
from ehr_tracking.contracts import HELD_OUT, SPLITS, TRAIN, TUNING, ContractError

_NAMES = {"train": TRAIN, "val": TUNING, "test": HELD_OUT} | {name: name for name in SPLITS}
_SUBJECTS = ("omop_person_id", "subject_id", "patient_id")


def read_split_file(path: Path) -> pl.DataFrame:
    """Subject and split of each line.

    Args:
        path: CSV with `split` (train, val, test, or as MEDS says) and `omop_person_id` (or subject_id, patient_id).

    Returns:
        subject_id (int64), split (as MEDS names it).

    Raises:
        ContractError: If it cannot be read, lacks a column, names an unknown split, or a subject in two.
    """
    try:
        table = pl.read_csv(path, infer_schema=False)
    except (OSError, pl.exceptions.PolarsError) as e:
        raise ContractError(
            f"{path}: not a readable CSV file ({' '.join(str(e).split())})"
        ) from None
    name = next((n for n in _SUBJECTS if n in table.columns), None)
    if name is None or "split" not in table.columns:
        raise ContractError(
            f"{path} has {', '.join(table.columns)}; expected split and omop_person_id"
        )
    odd = table.filter(~pl.col("split").is_in(list(_NAMES)))
    if odd.height:
        raise ContractError(
            f"{path}: unknown split {odd['split'][0]!r}; expected train, val or test"
        )
    found = table.select(
        subject_id=pl.col(name).cast(pl.Int64, strict=False),
        split=pl.col("split").replace_strict(_NAMES),
    )
    if found["subject_id"].null_count():
        row = int(found["subject_id"].is_null().arg_max() or 0)
        raise ContractError(
            f"{path} line {row + 2}: {name} = {table[name][row]!r} is not a whole number"
        )
    found = found.unique()
    twice = found.filter(found["subject_id"].is_duplicated())
    if twice.height:
        raise ContractError(f"{path}: subject {twice['subject_id'].sort()[0]} is in two splits")
    return found


def split_by(
    path: Path, task: str, aligned: pl.DataFrame, features: Mapping[str, FeatureSet]
) -> pl.DataFrame:
    """The rows of a task with the splits of a file.

    Args:
        path: Of the file.
        task: For messages.
        aligned: subject_id, `split` as features have it, and more.
        features: For messages.

    Raises:
        ContractError: If a subject has no split in the file, or one from which features learnt is to be judged on.
    """
    named = read_split_file(path).rename({"split": "named"})
    joined = aligned.join(named, on="subject_id", how="left", maintain_order="left")
    missing = joined.filter(pl.col("named").is_null())
    if missing.height:
        raise ContractError(
            f"{path} names no split of {missing['subject_id'].n_unique():,} subjects of task {task}, the first "
            f"{missing['subject_id'][0]}"
        )
    order = {name: place for place, name in enumerate(SPLITS)}
    learnt, asked = (
        pl.col(n).replace_strict(order, return_dtype=pl.Int8) for n in ("split", "named")
    )
    seen = joined.filter(learnt < asked)
    if seen.height:
        raise ContractError(
            f"{path} puts subject {seen['subject_id'][0]} in {seen['named'][0]!s}, but "
            f"{next(iter(features.values())).directory} was made with it in {seen['split'][0]}: make the features "
            "with these splits (metadata/subject_splits.parquet of the MEDS data set)"
        )
    return joined.with_columns(split=pl.col("named")).drop("named")
