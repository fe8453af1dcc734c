"""What training and evaluating cost: as runs and results measured it, and as a costs file says."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from ehr_eval.compare.models import model_rows
from ehr_eval.compare.opened import Given
from ehr_eval.compare.seeds import model_of
from ehr_tracking.contracts import ContractError
from ehr_tracking.runs import read_log

COLUMNS = {"stage": pl.String, "name": pl.String, "seconds": pl.Float64, "memory_mb": pl.Float64}
"""Of a costs file."""


TRAIN, EVALUATE = "train", "evaluate"
"""Stages that runs and results tell."""


class Cost(NamedTuple):
    """A row of `costs.csv`."""

    stage: str
    name: str
    seconds: float | None
    memory_mb: float | None
    source: str


def read_costs(given: Given, path: Path | None) -> list[Cost]:
    """Of each run, of each evaluated model, and what a file adds.

    Args:
        given: Runs and results.
        path: CSV with the columns `COLUMNS`; seconds and memory_mb may be empty.

    Raises:
        ContractError: If the file has other columns, or a number is none.
    """
    found = []
    for name, run in given.runs.items():
        laps = read_log(run.file("timings.jsonl"))
        seconds = sum(lap["seconds"] for lap in laps)
        memory = max((lap["memory_mb"] for lap in laps), default=None)
        found.append(Cost(TRAIN, name, round(seconds, 1), memory, "run"))
    for results in given.results.values():
        spent: dict[str, float] = defaultdict(float)
        for line in read_log(results.file("timings.jsonl")):
            spent[line["model"]] += line["seconds"]
        found += [Cost(EVALUATE, name, round(s, 1), None, "results") for name, s in spent.items()]
    return found + ([] if path is None else _read(path))


def by_model(given: Given, costs: Sequence[Cost]) -> list[dict[str, object]]:
    """A row a model: what it holds and saw, what training it and fitting heads took; means over its seeds.

    Args:
        given: Runs and results.
        costs: From `read_costs`.
    """
    known = {row["model"]: row for row in model_rows(given)}
    found = []
    for model in given.models:
        seeds = [name for name in given.seeds if model_of(name) == model]
        spent = {
            stage: [
                c for c in costs if c.stage == stage and c.name in seeds and c.source != "costs"
            ]
            for stage in (TRAIN, EVALUATE)
        }
        found.append(
            {
                "model": model,
                "seeds": len(seeds),
                "parameters": _mean([known[name]["parameters"] for name in seeds if name in known]),
                "tokens seen": _mean(
                    [known[name]["tokens seen"] for name in seeds if name in known]
                ),
                "seconds of training": _mean([c.seconds for c in spent[TRAIN]], 1),
                "most memory, MB": _mean([c.memory_mb for c in spent[TRAIN]]),
                "seconds of fitting heads": _mean([c.seconds for c in spent[EVALUATE]], 1),
            }
        )
    return found


def _mean(values: Sequence[Any], digits: int | None = None) -> float | None:
    there = [value for value in values if value is not None]
    return round(sum(there) / len(there), digits) if there else None


def write_costs(path: Path, costs: list[Cost]) -> int:
    """Write `costs.csv`.

    Returns:
        Its rows.
    """
    schema = {**COLUMNS, "from": pl.String}
    pl.DataFrame([tuple(cost) for cost in costs], schema, orient="row").write_csv(path)
    return len(costs)


def _read(path: Path) -> list[Cost]:
    try:
        table = pl.read_csv(path, schema_overrides=COLUMNS)
    except FileNotFoundError:
        raise ContractError(f"{path}: no such file") from None
    except (pl.exceptions.PolarsError, OSError) as e:
        raise ContractError(f"{path} is no table of costs: {str(e).splitlines()[0]}") from None
    if missing := COLUMNS.keys() - set(table.columns):
        raise ContractError(
            f"{path} has no column {min(missing)}; a costs file has {', '.join(COLUMNS)}"
        )
    return [
        Cost(row["stage"], row["name"], row["seconds"], row["memory_mb"], "costs")
        for row in table.iter_rows(named=True)
    ]
