"""The tables of `results/1`: scores, groups, models in pairs, predictions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from ehr_eval.frames import PRODUCER
from ehr_eval.judge.bootstrap import interval
from ehr_eval.judge.metrics import METRICS
from ehr_eval.protocol.draws import write_draws
from ehr_eval.protocol.evaluation import AUROC, Evaluation
from ehr_eval.protocol.grouped import by_group
from ehr_eval.protocol.pairs import Compared
from ehr_eval.protocol.tables import arrow_schema, write_rows
from ehr_tracking.contracts import (
    BEST_COLUMNS,
    COMPARISON_COLUMNS,
    GROUP_COLUMNS,
    PAIR_COLUMNS,
    PREDICTIONS,
    RESULTS,
    TUNING,
)
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import check_file, read_manifest
from ehr_tracking.runs import RunLog

PREDICTED = "predictions"
"""Folder of held-out predictions; those of tuning rows, to recalibrate by, lie beside it."""


def write_results(
    directory: Path,
    evaluations: Sequence[Evaluation],
    groups: Sequence[Mapping[str, Any]],
    compared: Compared,
) -> dict[str, int]:
    """Write the tables of `results/1`, draws/{task}.safetensors, predictions/ and tuning/{task}/{model}/{head}.parquet.

    Args:
        directory: Where.
        evaluations: One a task.
        groups: Rows of `groups.parquet`.
        compared: Models in pairs.

    Wall times go to timings.jsonl, so that all else is the same from run to run.

    Returns:
        Path -> rows, for the manifest.
    """
    scores = [row for e in evaluations for row in e.rows]
    odd = {row["metric"] for row in scores} - METRICS.keys()
    assert not odd, f"metrics {odd} are not in the table"
    tables = {
        "results.parquet": (scores, RESULTS.columns),
        "groups.parquet": (groups, GROUP_COLUMNS),
        "comparisons.parquet": (compared.tasks, COMPARISON_COLUMNS),
        "pairs.parquet": (compared.pairs, PAIR_COLUMNS),
        "best.parquet": (_best(evaluations), BEST_COLUMNS),
    }
    rows = {name: write_rows(directory / name, *given) for name, given in tables.items()}
    predictions = arrow_schema(c for c in PREDICTIONS.columns if not c.optional)
    for evaluation in evaluations:
        write_draws(directory, evaluation)
        for folder, found in ((PREDICTED, evaluation.predictions), (TUNING, evaluation.tuning)):
            for (model, head), table in found.items():
                name = f"{folder}/{evaluation.task}/{model}/{head}.parquet"
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                pq.write_table(table.cast(predictions), directory / name)
                rows[name] = len(table)
    timings = RunLog(directory / "timings.jsonl")
    for evaluation in evaluations:
        for setting, seconds in evaluation.seconds.items():
            timings.append(
                {"task": evaluation.task, **setting._asdict(), "seconds": round(seconds, 4)}
            )
    return rows


def _best(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Rows of `best.parquet`."""
    return [
        {"task": e.task, "value": e.best.value, **interval(e.best.draws)._asdict()}
        for e in evaluations
        if e.best is not None
    ]


def summary(results: PathLike) -> list[dict[str, object]]:
    """AUROC on all training rows (or at the largest k there is): one row a task, for a terminal.

    Args:
        results: A `results/1` directory.

    Returns:
        The keys of `SUMMARY_COLUMNS` in `ehr_tracking.contracts`, then one a model and head.

    Raises:
        ContractError: If it is not such a directory.
    """
    results = Path(results)
    manifest = read_manifest(results, RESULTS, reader=PRODUCER)
    table = pl.read_parquet(check_file(results, manifest, "results.parquet"))
    ks = table["k"].unique().to_list()
    k = -1 if -1 in ks else max(ks)
    chosen = table.filter(metric=AUROC, replicate=-1, k=k)
    rows: list[dict[str, object]] = []
    for (task,), part in chosen.group_by("task", maintain_order=True):
        row: dict[str, object] = {"task": task, "n": part["n"][0], "positive": part["positives"][0]}
        for score in part.iter_rows(named=True):
            row[f"{score['model']} {score['head']}"] = score["value"]
        rows.append(row)
    return rows


def group_summary(results: PathLike) -> list[dict[str, object]]:
    """AUROC by group at the most shots, for a terminal: a row a model and head, a column a group.

    Args:
        results: A `results/1` directory.

    Raises:
        ContractError: If it is not such a directory.
    """
    results = Path(results)
    manifest = read_manifest(results, RESULTS, reader=PRODUCER)
    table = pl.read_parquet(check_file(results, manifest, "groups.parquet"))
    ks = table["k"].unique().to_list()
    return by_group(table.to_dicts(), -1 if -1 in ks else max(ks), AUROC) if ks else []
