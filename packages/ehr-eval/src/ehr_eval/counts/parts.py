"""The counts of each file of a data set, written when they are done, and put together.

n rows, d columns, of which those that are kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from safetensors.numpy import load_file, save_file
from scipy import sparse
from tqdm import tqdm

from ehr_eval.counts.config import CountsConfig
from ehr_eval.counts.count import count_rows
from ehr_eval.counts.things import Things
from ehr_eval.frames import read_events
from ehr_eval.workers import each_once
from ehr_tracking.arrow.delays import Delays

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """The rows of the subjects of one file."""

    file: Path
    out: Path
    rows: pl.DataFrame
    """row (its number among all), subject_id, prediction_time."""

    def __str__(self) -> str:
        """The file."""
        return str(self.file)


def events_of(file: Path, config: CountsConfig, delays: Delays | None = None) -> pl.DataFrame:
    """The events of one file, with units where they count."""
    return read_events(file, delays, more=["unit"] if config.units else [])


def count_parts(
    parts: Sequence[Part], things: Things, config: CountsConfig, delays: Delays, *, workers: int
) -> None:
    """Count the rows of each part that is not there yet, those with most rows first.

    Raises:
        UnfinishedError: If one fails; those that are done stay.
    """
    left = sorted((p for p in parts if not p.out.is_file()), key=lambda p: -p.rows.height)
    done = each_once(
        left,
        partial(_count, things=things, config=config, delays=delays),
        workers=workers,
        caller="count_features",
        named="files",
    )
    with tqdm(
        total=len(parts), initial=len(parts) - len(left), unit="file", desc="counts", disable=None
    ) as bar:
        for _ in done:
            bar.update()


def _count(part: Part, things: Things, config: CountsConfig, delays: Delays) -> None:
    found = count_rows(events_of(part.file, config, delays), part.rows, things, config)
    unfinished = part.out.with_suffix(".partial")
    save_file(
        {"data": found.data, "indices": found.indices, "indptr": found.indptr.astype(np.int64)},
        unfinished,
    )
    unfinished.replace(part.out)


def frequent(
    parts: Sequence[Part], width: int, is_train: npt.NDArray[np.bool_], least: int
) -> Ints:
    """The columns that are not 0 in at least so many train rows.

    Args:
        parts: Counted.
        width: d.
        is_train: [n]
        least: Rows.
    """
    seen = np.zeros(width, np.int64)
    for part in parts:
        tensors = load_file(part.out)
        mine = np.repeat(is_train[part.rows["row"].to_numpy()], np.diff(tensors["indptr"]))
        seen += np.bincount(tensors["indices"][mine], minlength=width)
    return np.flatnonzero(seen >= least)


def together(parts: Sequence[Part], width: int, kept: Ints, n: int) -> sparse.csr_matrix:
    """[n, kept] rows of all parts in the order of their numbers, one part in memory at a time."""
    number = np.full(width, -1, np.int32)
    number[kept] = np.arange(len(kept))
    stored = np.zeros(n, np.int64)
    for part in parts:
        tensors = load_file(part.out)
        before = np.concatenate([[0], np.cumsum(number[tensors["indices"]] >= 0)])
        stored[part.rows["row"].to_numpy()] = np.diff(before[tensors["indptr"]])
    indptr = np.concatenate([[0], np.cumsum(stored)])
    data, indices = np.zeros(indptr[-1], np.float32), np.zeros(indptr[-1], np.int32)
    for part in parts:
        tensors = load_file(part.out)
        column = number[tensors["indices"]]
        there = np.flatnonzero(column >= 0)
        row = part.rows["row"].to_numpy()
        length = stored[row]
        first = indptr[row] - (np.cumsum(length) - length)
        where = np.repeat(first, length) + np.arange(len(there))
        data[where], indices[where] = tensors["data"][there], column[there]
    return sparse.csr_matrix((data, indices, indptr), shape=(n, len(kept)))
