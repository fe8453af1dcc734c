"""What training and evaluating cost: as runs and results measured it, and as a costs file says."""

from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import polars as pl

from ehr_eval.compare.opened import Given
from ehr_tracking.contracts import ContractError
from ehr_tracking.runs import read_log

COLUMNS = {"stage": pl.String, "name": pl.String, "seconds": pl.Float64, "memory_mb": pl.Float64}
"""Of a costs file."""


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
        found.append(Cost("train", name, round(seconds, 1), memory, "run"))
    for results in given.results.values():
        spent: dict[str, float] = defaultdict(float)
        for line in read_log(results.file("timings.jsonl")):
            spent[line["model"]] += line["seconds"]
        found += [Cost("evaluate", name, round(s, 1), None, "results") for name, s in spent.items()]
    return found + ([] if path is None else _read(path))


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
