"""MEDS labels as examples: what of a subject was visible at each prediction time."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ehr_models.tokens import Tokens, TokenSet
from ehr_tracking.arrow.labels import label_files
from ehr_tracking.contracts import LABELS, ContractError
from ehr_train import __version__
from ehr_train.data.sampler import Examples


def read_labels(directory: Path) -> pa.Table:
    """Read the binary labels of one task.

    Args:
        directory: Holds Parquet files in the schema of MEDS labels at any depth; columns of other
            values than booleans are left out.

    Returns:
        `subject_id`, `prediction_time` (microseconds), `boolean_value`; without nulls.

    Raises:
        ContractError: Naming the file and what is wrong with it, or that a sealed one was changed.
    """
    files = label_files(directory, reader=f"ehr-train {__version__}")
    if not files:
        raise ContractError(f"{directory} holds no label file (*.parquet)")
    return pa.concat_tables(_read(path) for path in files)


def _read(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path, partitioning=None)
    except (pa.ArrowInvalid, OSError) as e:
        raise ContractError(f"{path} cannot be read as Parquet: {str(e).splitlines()[0]}") from None
    # tools write the value columns they do not use as all null, of whatever type
    unused = [n for n in table.column_names if table[n].null_count == len(table) > 0]
    table = table.drop_columns(unused)
    LABELS.check({f.name: str(f.type) for f in table.schema}, where=str(path))
    if "boolean_value" not in table.column_names:
        raise ContractError(f"{path} has no boolean_value: fine-tuning here is binary")
    table = table.select(["subject_id", "prediction_time", "boolean_value"])
    for name in table.column_names:
        if table[name].null_count:
            row = table[name].is_null().to_pylist().index(True)
            raise ContractError(f"{path}, row {row}: {name} is null")
    return table


def refuse_unknown(labels: pa.Table, tokens: TokenSet, *, where: Path) -> None:
    """Raise where a label speaks of a subject that the tokens do not hold, in any split.

    Raises:
        ContractError: Naming how many such subjects there are, and the first.
    """
    shards = [p for p in tokens.manifest.files if "/" in p and p.endswith(".parquet")]
    columns = [pq.read_table(tokens.directory / p, columns=["subject_id"]) for p in shards]
    known = pa.concat_tables(columns)["subject_id"].to_numpy() if columns else np.zeros(0, np.int64)
    unknown = np.setdiff1d(labels["subject_id"].to_numpy(), known)
    if len(unknown):
        raise ContractError(
            f"{where}: {len(unknown)} labelled subjects are not in {tokens.directory}, "
            f"the first is {unknown[0]}; use the tokens of the same data set"
        )


def label_examples(labels: pa.Table, tokens: Tokens) -> Examples:
    """The labels of the subjects of one split; a prediction time itself is visible.

    Raises:
        ContractError: If nothing at all is known of a subject at its prediction time.
    """
    order = np.argsort(tokens.subject_id, kind="stable")
    subject_id = labels["subject_id"].to_numpy()
    at = np.searchsorted(tokens.subject_id, subject_id, sorter=order)
    row = order[np.minimum(at, len(order) - 1)] if len(order) else np.zeros(0, np.int64)
    mine = np.flatnonzero(tokens.subject_id[row] == subject_id) if len(order) else row
    row = row[mine]
    time = labels["prediction_time"].cast(pa.int64()).to_numpy()[mine]
    visible = _visible(tokens, row, time)
    if (visible == 0).any():
        raise ContractError(
            f"subject {tokens.subject_id[row[np.argmin(visible)]]} has no token up to its prediction time"
        )
    value = labels["boolean_value"].to_numpy()[mine].astype(np.float32)
    return Examples(tokens, row, visible, value)


def _visible(
    tokens: Tokens, row: npt.NDArray[np.int64], time: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """How many tokens of each subject are known at a time, that time included."""
    return np.array(
        [
            np.searchsorted(tokens.time[tokens.offsets[r] : tokens.offsets[r + 1]], t, side="right")
            for r, t in zip(row, time, strict=True)
        ],
        np.int64,
    )
