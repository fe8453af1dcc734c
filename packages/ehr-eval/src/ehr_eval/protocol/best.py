"""The best possible: risks that a simulated data set knows, and how far towards them a model gets.

n held-out rows of a task.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from ehr_eval.frames import KEY, in_order_of
from ehr_eval.judge.metrics.ranked import Floats
from ehr_tracking.arrow.columns import microseconds, no_nulls, whole_numbers
from ehr_tracking.arrow.parquet import read_table
from ehr_tracking.contracts import ContractError

RISK = "best_risk"
CHANCE = 0.5
"""AUROC of a coin."""


def read_risks(directory: Path, held_out: Mapping[str, pl.DataFrame]) -> dict[str, Floats]:
    """The best possible risk of each held-out row.

    Args:
        directory: `<task>.parquet` with subject_id, prediction_time and best_risk, as
            `ehr-tokenize synth --risks` writes it. Rows that are no held-out label are passed over:
            labels may have been thinned.
        held_out: Task -> its held-out labels.

    Returns:
        Task -> [n] risks in the order of its labels; tasks without a file are left out.

    Raises:
        ContractError: If no task has a file; or one cannot be read, lacks a column, names a row twice,
            holds what is no probability, or lacks a held-out label.
    """
    paths = {task: directory / f"{task}.parquet" for task in held_out}
    found = {
        task: _of_task(task, path, held_out[task]) for task, path in paths.items() if path.is_file()
    }
    if not found:
        raise ContractError(
            f"{directory} holds no risks of {', '.join(sorted(held_out))}: expected <task>.parquet, as "
            "`ehr-tokenize synth --risks` writes them below risks/ of the data set"
        )
    return found


def _of_task(task: str, path: Path, labels: pl.DataFrame) -> Floats:
    table = read_table(path, [*KEY, RISK])
    for name in (*KEY, RISK):
        if name not in table.column_names:
            raise ContractError(f"{path} has no column {name}: not what `synth --risks` writes")
        no_nulls(table[name], name, path)
    if not pa.types.is_floating(table[RISK].type):
        raise ContractError(f"{path}: column {RISK} is {table[RISK].type} (expected double)")
    columns = {
        "subject_id": whole_numbers(table["subject_id"], "subject_id", path),
        "prediction_time": microseconds(table["prediction_time"], "prediction_time", path),
        RISK: table[RISK].cast(pa.float64()),
    }
    risks = pl.DataFrame(pl.from_arrow(pa.table(columns)))
    wrong = risks.filter(~pl.col(RISK).is_between(0, 1))
    if wrong.height:
        raise ContractError(f"{path}: {RISK} = {wrong[RISK][0]:g} is no probability in [0, 1]")
    twice = risks.filter(pl.struct(KEY).is_duplicated())
    if twice.height:
        raise ContractError(
            f"{path}: subject {twice[KEY[0]][0]} at {twice[KEY[1]][0]} is there twice"
        )
    joined = in_order_of(
        labels.select(KEY),
        risks,
        where=path,
        what=f"held-out labels of task {task}",
        mend="give the risks of the data set that was labelled",
    )
    return joined[RISK].to_numpy()


def share(auroc: float, best: float) -> float | None:
    """How far from chance to the best possible: 0 is a coin, 1 the best.

    Returns:
        None where the best is no better than a coin.

    Examples:
        >>> share(0.7, 0.9), share(0.45, 0.75), share(0.6, 0.5)
        (0.4999..., -0.1999..., None)
    """
    return (auroc - CHANCE) / (best - CHANCE) if best > CHANCE else None


def mean_share(pairs: Iterable[tuple[float, float]]) -> float | None:
    """Unweighted mean over tasks of (AUROC, best possible AUROC); None over no task.

    Examples:
        >>> mean_share([(0.7, 0.9), (0.75, 0.75), (0.9, 0.5)])
        0.75
        >>> mean_share([]) is None
        True
    """
    shares = [each for pair in pairs if (each := share(*pair)) is not None]
    return float(np.mean(shares)) if shares else None
