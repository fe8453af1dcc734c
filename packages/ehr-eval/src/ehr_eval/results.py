"""The tables of `results/1`: scores, comparisons with the baseline, predictions."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ehr_eval import __version__
from ehr_eval.config import EhrshotConfig
from ehr_eval.evaluate import Cell, Evaluation
from ehr_eval.metrics import interval
from ehr_tracking.contracts import COMPARISON_COLUMNS, PREDICTIONS, RESULTS
from ehr_tracking.manifest import check_file, read_manifest
from ehr_tracking.runs import RunLog

_TYPES = {
    "int64": pa.int64(),
    "double": pa.float64(),
    "float": pa.float32(),
    "string": pa.string(),
    "bool": pa.bool_(),
    "timestamp[us]": pa.timestamp("us"),
}
_SCORES = pa.schema([(column.name, _TYPES[column.dtype]) for column in RESULTS.columns])
_COMPARISONS = pa.schema([(column.name, _TYPES[column.dtype]) for column in COMPARISON_COLUMNS])
_PREDICTIONS = pa.schema([(column.name, _TYPES[column.dtype]) for column in PREDICTIONS.columns])


def write_results(
    directory: Path, evaluations: Sequence[Evaluation], config: EhrshotConfig
) -> dict[str, int]:
    """Write results.parquet, comparisons.parquet and predictions/{task}/{model}/{head}.parquet.

    Wall times go to timings.jsonl, so that all else is the same from run to run.

    Returns:
        Path -> rows, for the manifest.
    """
    scores = [row for e in evaluations for row in e.rows]
    compared = [row for e in evaluations for row in comparisons(e, config.baseline)]
    pq.write_table(pa.Table.from_pylist(scores, _SCORES), directory / "results.parquet")
    pq.write_table(pa.Table.from_pylist(compared, _COMPARISONS), directory / "comparisons.parquet")
    rows = {"results.parquet": len(scores), "comparisons.parquet": len(compared)}
    for evaluation in evaluations:
        for (model, head), table in evaluation.predictions.items():
            name = f"predictions/{evaluation.task}/{model}/{head}.parquet"
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table.to_arrow().cast(_PREDICTIONS), directory / name)
            rows[name] = table.height
    timings = RunLog(directory / "timings.jsonl")
    for evaluation in evaluations:
        for cell, seconds in evaluation.seconds.items():
            timings.append(
                {"task": evaluation.task, **cell._asdict(), "seconds": round(seconds, 4)}
            )
    return rows


def comparisons(evaluation: Evaluation, baseline: str) -> Iterator[dict[str, Any]]:
    """AUROC of each model minus that of the baseline, same task, head and k.

    The bootstrap is paired: both are judged on the same patients in each draw.
    """
    value = mean_scores(evaluation)
    for cell, draws in evaluation.draws.items():
        other = cell._replace(model=baseline)
        ours, theirs = value.get((cell, "auroc")), value.get((other, "auroc"))
        if cell.model == baseline or ours is None or theirs is None:
            continue
        bounds = interval(draws["auroc"] - evaluation.draws[other]["auroc"])
        yield {
            "task": evaluation.task,
            "model": cell.model,
            "baseline": baseline,
            "head": cell.head,
            "k": cell.k,
            "model_auroc": ours,
            "baseline_auroc": theirs,
            "difference": ours - theirs,
            **bounds._asdict(),
        }


def mean_scores(evaluation: Evaluation) -> dict[tuple[Cell, str], float | None]:
    """(cell, metric) -> the mean over replicates."""
    return {
        (Cell(row["model"], row["head"], row["k"]), row["metric"]): row["value"]
        for row in evaluation.rows
        if row["replicate"] == -1
    }


def summary(results: Path) -> list[dict[str, object]]:
    """AUROC on all training rows (or at the largest k there is): one row a task, for a terminal.

    Args:
        results: A `results/1` directory.

    Returns:
        task, held-out rows and positives, then one column a model and head.

    Raises:
        ContractError: If it is not such a directory.
    """
    manifest = read_manifest(results, RESULTS, reader=f"ehr-eval {__version__}")
    table = pl.read_parquet(check_file(results, manifest, "results.parquet"))
    ks = table["k"].unique().to_list()
    k = -1 if -1 in ks else max(ks)
    chosen = table.filter(metric="auroc", replicate=-1, k=k)
    rows: list[dict[str, object]] = []
    for (task,), part in chosen.group_by("task", maintain_order=True):
        row: dict[str, object] = {"task": task, "n": part["n"][0], "positive": part["positives"][0]}
        for score in part.iter_rows(named=True):
            row[f"{score['model']} {score['head']}"] = score["value"]
        rows.append(row)
    return rows


def macro(evaluations: Sequence[Evaluation], cell: Cell, metric: str) -> tuple[float, float] | None:
    """Unweighted mean over tasks and half its 95% interval, 1.96 sqrt(sum of variances) / tasks.

    EHRSHOT's interval for a group of tasks. Only tasks with a value count.

    Returns:
        None where no task has a value.
    """
    values, variances = [], []
    for evaluation in evaluations:
        value = mean_scores(evaluation).get((cell, metric))
        if value is not None:
            draws = evaluation.draws[cell][metric]
            defined = draws[~np.isnan(draws)]
            values.append(value)
            variances.append(float(np.var(defined, ddof=1)) if len(defined) > 1 else 0.0)
    if not values:
        return None
    return float(np.mean(values)), 1.96 * float(np.sqrt(np.sum(variances))) / len(values)
