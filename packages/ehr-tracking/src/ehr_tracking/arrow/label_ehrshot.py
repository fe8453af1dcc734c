"""The labels of EHRSHOT as it publishes them: one folder a task with `labeled_patients.csv`."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from ehr_tracking.contracts import ContractError

FILE = "labeled_patients.csv"
_COLUMNS = {"patient_id": pa.int64(), "prediction_time": pa.timestamp("us"), "value": pa.string()}
_TRUTH = r"\A([Tt]rue|[Ff]alse)\z"


def ehrshot_files(path: Path) -> dict[str, Path]:
    """Task -> its file; empty where a path holds no labels of EHRSHOT.

    Args:
        path: `benchmark/` of its download, the folder of one task, or a file.
    """
    if path.name == FILE and path.is_file():
        return {path.absolute().parent.name: path}
    if (path / FILE).is_file():
        return {path.absolute().name: path / FILE}
    found = sorted(path.glob(f"*/{FILE}")) if path.is_dir() else []
    return {file.parent.name: file for file in found}


def read_ehrshot_file(path: Path) -> pa.Table:
    """The labels of one task: `boolean_value` where all are true or false, else `integer_value`.

    Args:
        path: A CSV file with `patient_id`, `prediction_time` and `value`; `label_type` is not needed.

    Raises:
        ContractError: If it cannot be read, a column is missing, or a value is neither true, false nor a whole
            number.
    """
    options = csv.ConvertOptions(
        column_types=_COLUMNS,
        include_columns=list(_COLUMNS),
        null_values=[""],
        strings_can_be_null=True,
    )
    try:
        table = csv.read_csv(path, convert_options=options)
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as e:
        what = " ".join(str(e).split())
        raise ContractError(
            f"{path}: no labels of EHRSHOT, which have {', '.join(_COLUMNS)} ({what})"
        ) from None
    for name in _COLUMNS:
        if table[name].null_count:
            row = int(np.argmax(table[name].is_null().to_numpy()))
            raise ContractError(f"{path} line {row + 2}: {name} is empty")
    value = table["value"].combine_chunks()
    if pc.all(pc.match_substring_regex(value, _TRUTH)).as_py():
        kind, said = "boolean_value", pc.equal(pc.utf8_lower(value), "true")
    else:
        kind, said = "integer_value", _integers(value, path)
    return pa.table(
        {
            "subject_id": table["patient_id"],
            "prediction_time": table["prediction_time"],
            kind: said,
        }
    )


def _integers(value: pa.Array, path: Path) -> pa.Array:
    try:
        return value.cast(pa.int64())
    except pa.ArrowInvalid:
        fits = pc.match_substring_regex(value, r"^-?\d+$").to_numpy(zero_copy_only=False)
        row = int(np.argmin(fits))
        raise ContractError(
            f"{path} line {row + 2}: value = {value[row].as_py()!r} is neither true, false nor a whole number"
        ) from None
