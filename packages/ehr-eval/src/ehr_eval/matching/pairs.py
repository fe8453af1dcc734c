"""Which control gets the index date of which case. C cases, N candidates; times in microseconds."""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from ehr_eval.matching.config import MatchConfig

DAY_US = 86_400_000_000
_YEAR_US = 365.25 * DAY_US


def match(cases: pl.DataFrame, people: pl.DataFrame, config: MatchConfig) -> pl.DataFrame:
    """Draw controls for each case, in rounds, so that none gets a second one before all had a first.

    Candidates stand in the order of a hash, and a case takes the next one that fits from a place on that
    its own hash says: no order of rows changes the draw, and a subject is hashed once.

    Args:
        cases: subject_id and `index`, an integer; a row a case.
        people: subject_id, `block` (text, what has to be equal), `birth`, `first`, `last` (integers,
            birth null where unknown) of everyone, cases included.
        config: Who fits.

    Returns:
        `case`, `control` and `index` of each pair, by case and control.
    """
    candidates = people.join(cases, on="subject_id", how="anti")
    known = cases.join(people, on="subject_id", how="inner")
    found = [
        pair
        for (block,), of_block in known.group_by("block", maintain_order=True)
        for pair in _of_block(of_block, candidates.filter(pl.col("block") == block), config)
    ]
    schema = {"case": pl.Int64, "control": pl.Int64, "index": pl.Int64}
    return pl.DataFrame(found, schema=schema, orient="row").sort("case", "control")


def _of_block(
    cases: pl.DataFrame, candidates: pl.DataFrame, config: MatchConfig
) -> Iterator[tuple[int, int, int]]:
    def number(row: dict[str, Any]) -> int:
        return _number(config.seed, row["subject_id"])

    by_hash = pl.Series([number(row) for row in candidates.iter_rows(named=True)], dtype=pl.UInt64)
    candidates = candidates[by_hash.arg_sort()]
    subject, first, last = (candidates[c].to_numpy() for c in ("subject_id", "first", "last"))
    birth = candidates["birth"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    free = np.ones(len(subject), np.bool_)
    waiting = sorted(cases.iter_rows(named=True), key=number)
    for _ in range(config.controls):
        left = []
        for case in waiting:
            at = np.flatnonzero(free & _fits(case, birth, first, last, config))
            if not len(at):
                continue  # who finds none now finds none later
            chosen = at[np.searchsorted(at, number(case) % len(subject)) % len(at)]
            free[chosen] = False
            left.append(case)
            yield case["subject_id"], int(subject[chosen]), case["index"]
        waiting = left


def _fits(
    case: dict[str, Any],
    birth: npt.NDArray[np.float64],
    first: npt.NDArray[np.int64],
    last: npt.NDArray[np.int64],
    config: MatchConfig,
) -> npt.NDArray[np.bool_]:
    """[N] who is there at the index date, as old, and known for about as long."""
    index, history = case["index"], case["index"] - case["first"]
    room = max(config.history_days * DAY_US, config.history * history)
    fits: npt.NDArray[np.bool_] = (first <= index) & (index <= last)
    fits &= np.abs((index - first) - history) <= room
    if case["birth"] is None:
        fits &= np.isnan(birth)
    else:
        fits &= np.abs(birth - case["birth"]) <= config.age_years * _YEAR_US
    return fits


def _number(seed: int, subject: int) -> int:
    text = f"{seed}:{subject}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
