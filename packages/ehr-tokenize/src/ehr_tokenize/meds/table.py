"""All events of a data set as one table on disk, in which subjects can be taken in any order.

Input files may hold subjects in any order and be read by several threads; output must not depend on
either. So rows are written once, as flat columns, to a scratch directory (16 bytes an event, 24 where
visits are named), each
file at its own place, and subjects are then gathered in the order of their ids: memory holds one
batch a thread, whatever the size of the data set.
"""

import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from tqdm import tqdm

from ehr_tokenize.meds.dataset import NOTHING, Batch, Dataset, Extra, batches, runs
from ehr_tokenize.meds.events import Events, gather_index, ranges
from ehr_tokenize.meds.faults import row_problems
from ehr_tracking.arrow.meds import mends, spread
from ehr_tracking.errors import UserError

_Scratch = tuple[Path, Mapping[str, type[np.generic]]]
"""Where columns are written, and which."""
Stretch = Callable[[], Events]
"""The events of some whole subjects, read when they are asked for."""
_COLUMNS: dict[str, type[np.generic]] = {"time": np.int64, "code": np.uint32, "value": np.float32}
_IDS: dict[str, type[np.generic]] = {"visit_id": np.int64}


class CodeBook:
    """Numbers codes in the order in which they are met; shared by threads."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._lock = threading.Lock()

    def ids(self, codes: list[str]) -> npt.NDArray[np.uint32]:
        """The number of each code, new ones included."""
        with self._lock:
            known = self._ids
            found = list(map(known.get, codes))  # nearly always known: this runs once a batch
            if None in found:
                found = [known.setdefault(c, len(known)) for c in codes]
            return np.array(found, np.uint32)

    @property
    def codes(self) -> list[str]:
        """All codes in the order of their numbers."""
        return list(self._ids)


@dataclass(frozen=True, slots=True, eq=False)
class _Runs:
    """Where each subject of one file begins."""

    subject_id: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    """In the file."""
    rows: int
    """Of the file."""


@dataclass(frozen=True, slots=True, eq=False)
class EventTable:
    """N subjects in ascending order of their ids."""

    scratch: Path
    codes: list[str]
    """Which `Events.code` indexes; all codes of the data set, with units and texts if asked for."""
    subject_id: npt.NDArray[np.int64]
    """[N]"""
    start: npt.NDArray[np.int64]
    """[N] first row"""
    length: npt.NDArray[np.int64]
    """[N] events"""
    columns: Mapping[str, type[np.generic]]
    """Of `Events`, as they lie in `scratch`."""

    @classmethod
    def ingest(
        cls, dataset: Dataset, scratch: Path, *, workers: int = 1, extra: Extra = NOTHING
    ) -> Self:
        """Read every file once, check its order, and write its rows to `scratch`.

        Args:
            dataset: Opened.
            scratch: Empty directory.
            workers: Threads; reading and writing hold no lock on the interpreter.
            extra: Further columns that tell codes apart.

        Raises:
            UserError: Naming file and row of a null code or subject, of rows out of order, and of a
                subject that is spread over a file or over files.
        """
        files = [pq.read_metadata(path) for path in dataset.files]
        rows = [file.num_rows for file in files]
        first = np.concatenate([[0], np.cumsum(rows)])
        names_visits = any(not set(extra.ids).isdisjoint(file.schema.names) for file in files)
        columns = _COLUMNS | (_IDS if names_visits else {})
        book = CodeBook()

        def read(i: int) -> _Runs:
            return _ingest_file(dataset.files[i], int(first[i]), (scratch, columns), book, extra)

        with ThreadPoolExecutor(workers) as pool:
            found = list(tqdm(pool.map(read, range(len(rows))), "reading", len(rows), disable=None))
        for path, expected, got in zip(dataset.files, rows, found, strict=True):
            if got.rows != expected:
                raise UserError(f"{path} changed while it was read")
        subject = np.concatenate([r.subject_id for r in found])
        start = np.concatenate([r.row + f for r, f in zip(found, first[:-1], strict=True)])
        file = np.repeat(np.arange(len(found)), [len(r.subject_id) for r in found])
        length = np.diff(np.append(start, first[-1]))
        order = np.argsort(subject, kind="stable")
        twice = np.flatnonzero(np.diff(subject[order]) == 0)
        if len(twice):
            a, b = order[twice[0]], order[twice[0] + 1]
            one, two = dataset.files[file[a]], dataset.files[file[b]]
            raise UserError(spread(subject[b], one, two, int(start[b] - first[file[b]])))
        return cls(scratch, book.codes, subject[order], start[order], length[order], columns)

    def gather(self, which: npt.NDArray[np.int64]) -> Events:
        """The events of some subjects.

        Args:
            which: Rows of `subject_id`.
        """
        length = self.length[which]
        index = gather_index(self.start[which], length)
        column = {
            name: np.memmap(self.scratch / name, dtype, mode="r")[index]
            for name, dtype in self.columns.items()
        }
        offsets = np.concatenate([[0], np.cumsum(length)])
        return Events(self.subject_id[which], offsets, **column)

    def stretches(self, which: npt.NDArray[np.int64], max_events: int) -> list[Stretch]:
        """Some subjects, so many events at a time.

        Args:
            which: Rows of `subject_id`.
            max_events: Of a stretch, which holds one subject at least.
        """
        cuts = ranges(self.length[which], len(which), max_events)
        return [partial(self.gather, which[a:b]) for a, b in cuts]

    def code_counts(self) -> npt.NDArray[np.int64]:
        """[C] events of each code."""
        code = np.memmap(self.scratch / "code", _COLUMNS["code"], mode="r")
        counts = np.zeros(len(self.codes), np.int64)
        for start in range(0, len(code), 1 << 22):
            counts += np.bincount(code[start : start + (1 << 22)], minlength=len(counts))
        return counts


def _ingest_file(path: Path, first: int, to: _Scratch, book: CodeBook, extra: Extra) -> _Runs:
    subjects, rows, before, n = [], [], None, 0
    for batch in batches(path, extra):
        for problem in row_problems(batch, before):
            raise UserError(f"{problem}{mends(problem.what)}")
        if not len(batch.time):
            continue
        at = runs(batch)
        if before is not None and before[0] == batch.subject_id[0]:
            at = at[1:]
        subjects.append(batch.subject_id[at])
        rows.append(at + batch.row)
        _write(to, first + batch.row, batch, book.ids(batch.codes)[batch.code])
        before = int(batch.subject_id[-1]), int(batch.time[-1])
        n = batch.row + len(batch.time)
    none = np.zeros(0, np.int64)
    return _Runs(np.concatenate([none, *subjects]), np.concatenate([none, *rows]), n)


def _write(to: _Scratch, row: int, batch: Batch, code: npt.NDArray[np.uint32]) -> None:
    # plain writes: a full disk is an error here, where a memory map would kill the process
    none = np.zeros(len(batch.time), np.int64)
    visit_id = none if batch.visit_id is None else batch.visit_id
    values = {"time": batch.time, "code": code, "value": batch.value, "visit_id": visit_id}
    scratch, columns = to
    for name, dtype in columns.items():
        data = np.ascontiguousarray(values[name], dtype).data.cast("B")
        file = os.open(scratch / name, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            at = row * np.dtype(dtype).itemsize
            while data:
                written = os.pwrite(file, data, at)
                data, at = data[written:], at + written
        finally:
            os.close(file)
