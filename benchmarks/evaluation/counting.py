"""Counts of codes over windows, beside a plain pivot of the same columns in polars.

The plain way joins events to prediction times, keeps those of each window, groups by row and code, and pivots. It is given its
events in memory, as ours is; both count the same codes over 1, 30 and 365 days and the whole record. A last row shows what all
that ours counts by default (ancestors, value bins, recency, trends) costs beside that pivot of codes alone.
"""

import time
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl

from ehr_eval.counts.config import CountsConfig
from ehr_eval.counts.count import column_names, count_rows
from ehr_eval.counts.things import fit_things

CODES, TIMES = 500, 10
PLAIN = {"ontology": False, "bins": 0, "recency": False, "trends": (), "units": False}


def measure(*, quick: bool) -> list[dict[str, Any]]:
    """A row a number of subjects, and one with all that is counted."""
    sizes = (500,) if quick else (500, 2000)
    return [*(row(n, CountsConfig(**PLAIN)) for n in sizes), row(sizes[-1], CountsConfig())]


def row(subjects: int, config: CountsConfig) -> dict[str, Any]:
    """One comparison."""
    events, rows = made(subjects)
    parents: dict[str, list[str | None] | None] = {f"C{i}": [f"G{i % 25}"] for i in range(CODES)}
    everyone = rows["subject_id"].unique()
    began = time.process_time()
    things = fit_things([events], everyone, parents, config)
    ours = count_rows(events, rows, things, config)
    middle = time.process_time()
    theirs = pivot(events, rows, config.windows_days)
    ended = time.process_time()
    names = column_names(things, config)
    where = {name: i for i, name in enumerate(names)}
    same = [where[name] for name in theirs.columns]
    equal = bool((ours[:, same].toarray() == theirs.to_numpy()).all())
    return {
        "case": f"{events.height:,} events, {rows.height:,} rows, {len(names):,} columns",
        "ours": round(middle - began, 3),
        "theirs": round(ended - middle, 3),
        "ratio": round((ended - middle) / (middle - began), 2),
        "target": None,
        "equal": equal,
    }


def made(subjects: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Events of 20 to 500 a subject over ten years, half of them with values, and ten prediction times."""
    rng = np.random.default_rng(0)
    size = np.exp(rng.uniform(np.log(20), np.log(500), subjects)).astype(np.int64)
    n = int(size.sum())
    code = np.minimum(rng.zipf(1.3, n) - 1, CODES - 1)
    start = datetime(2010, 1, 1)  # noqa: DTZ001 -- MEDS times have no zone
    at = pl.Series(rng.integers(0, 3650 * 86_400, n)) * 1_000_000
    events = pl.DataFrame(
        {
            "subject_id": np.repeat(np.arange(subjects), size),
            "time": at.cast(pl.Duration("us")) + start,
            "code": [f"C{c}" for c in code],
            "numeric_value": np.where(code % 2, rng.normal(size=n), np.nan).astype(np.float32),
        }
    )
    asked = pl.Series(rng.integers(0, 3650 * 86_400, subjects * TIMES)) * 1_000_000
    rows = pl.DataFrame(
        {
            "subject_id": np.repeat(np.arange(subjects), TIMES),
            "prediction_time": asked.cast(pl.Duration("us")) + start,
        }
    ).unique()
    return events.sort("subject_id", "time"), rows.sort("subject_id", "prediction_time")


def pivot(events: pl.DataFrame, rows: pl.DataFrame, days: tuple[float, ...]) -> pl.DataFrame:
    """[rows, codes and windows] counts, as one would write it."""
    numbered = rows.with_row_index("row")
    past = numbered.join(events, on="subject_id").filter(
        pl.col("time") <= pl.col("prediction_time")
    )
    parts = [numbered.select("row")]
    for name, since in [*((f"{d:g}d", pl.duration(days=d)) for d in days), ("any", None)]:
        inside = (
            past
            if since is None
            else past.filter(pl.col("time") > pl.col("prediction_time") - since)
        )
        wide = inside.group_by("row", "code").len().pivot("code", index="row", values="len")
        parts.append(wide.rename({c: f"{c}|{name}" for c in wide.columns if c != "row"}))
    found = parts[0]
    for part in parts[1:]:
        found = found.join(part, on="row", how="left")
    return found.sort("row").drop("row").fill_null(0)
