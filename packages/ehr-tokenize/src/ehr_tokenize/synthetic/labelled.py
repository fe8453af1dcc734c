"""How labels and the risks behind them are written, whichever world they are from."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from meds import schema as meds

from ehr_tokenize.synthetic.rows import Bools, Floats, Ints

RISKS_SCHEMA = pa.schema(
    [
        ("subject_id", pa.int64()),
        ("prediction_time", pa.timestamp("us")),
        ("boolean_value", pa.bool_()),
        ("true_risk", pa.float64()),
        ("best_risk", pa.float64()),
    ]
)
Tables = Mapping[str, tuple[pa.Table, pa.Table]]
"""Task -> labels and risks."""


def labelled(ids: Ints, minute: Ints, label: Bools, risks: Mapping[str, Floats]) -> pa.Table:
    """Rows of one task.

    Args:
        ids: [R], `subject_id`.
        minute: [R], the prediction times, minutes since 1970.
        label: [R].
        risks: Columns beside them, [R] each: those of `RISKS_SCHEMA`, or none.
    """
    columns = {
        "subject_id": pa.array(ids),
        "prediction_time": pa.array(minute * 60_000_000).cast(pa.timestamp("us")),
        "boolean_value": pa.array(label),
        **risks,
    }
    return pa.table(columns, schema=RISKS_SCHEMA) if risks else pa.table(columns)


def write_labelled(directory: Path, parts: Iterable[Tables]) -> None:
    """Write `labels/<task>/labels.parquet` and `risks/<task>.parquet` into a data set's directory.

    Args:
        directory: The data set's.
        parts: By groups of subjects, in order.
    """
    found: dict[str, tuple[list[pa.Table], list[pa.Table]]] = defaultdict(lambda: ([], []))
    for tables in parts:
        for task, part in tables.items():
            for kept, table in zip(found[task], part, strict=True):
                kept.append(table)
    for task, (labels, risks) in found.items():
        path = directory / "labels" / task / "labels.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(meds.LabelSchema.align(pa.concat_tables(labels)), path)
        path = directory / "risks" / f"{task}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.concat_tables(risks), path)
