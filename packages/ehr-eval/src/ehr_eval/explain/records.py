"""Records as sequences of codes: real ones by split, and those that a model made.

N records, V distinct sequences of codes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse

from ehr_eval.frames import PRODUCER, read_events, read_subjects
from ehr_tracking.arrow.meds import data_files
from ehr_tracking.contracts import TRAJECTORIES
from ehr_tracking.manifest import MANIFEST, check_file, read_manifest

_KEYS = ("subject_id", "prediction_time", "sample")


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """Which sequences of codes each record holds."""

    subject: npt.NDArray[np.int64]
    """[N] whose it is, or from whose record it was drawn on."""
    grams: pl.DataFrame
    """record (its number), gram (text of a sequence): each pair once."""

    def __len__(self) -> int:
        """Number of records."""
        return len(self.subject)

    def take(self, index: npt.NDArray[np.int64]) -> "Records":
        """Those records, in that order."""
        place = pl.DataFrame(
            {"record": index, "now": np.arange(len(index))}, schema_overrides={"record": pl.UInt32}
        )
        found = self.grams.join(place, on="record").select(
            record=pl.col("now").cast(pl.UInt32), gram="gram"
        )
        return Records(self.subject[index], found)


def read_generated(path: Path, size: int) -> tuple[Records, bool]:
    """Records that a model made: `trajectories/1`, or a MEDS data set.

    Args:
        path: Either.
        size: Codes of a sequence.

    Returns:
        The records, and whether they go on from those of real subjects.

    Raises:
        ContractError: If it is neither.
    """
    if not (path / MANIFEST).is_file():
        return _records(_events(path), ["subject_id"], size), False
    manifest = read_manifest(path, TRAJECTORIES, reader=PRODUCER)
    names = sorted(n for n in manifest.files if n.startswith("events/"))
    columns = [*_KEYS, "time", "code"]
    parts = [pl.read_parquet(check_file(path, manifest, n), columns=columns) for n in names]
    return _records(pl.concat(parts), list(_KEYS), size), True


def read_real(meds: Path, size: int, *, seed: int) -> tuple[Records, npt.NDArray[np.str_]]:
    """The records of a data set, and the split of each.

    Raises:
        ContractError: If it is none.
    """
    found = _records(_events(meds), ["subject_id"], size)
    subjects = read_subjects(meds, data_files(meds), seed=seed)
    split = dict(subjects.select("subject_id", "split").iter_rows())
    return found, np.array([split[i] for i in found.subject.tolist()])


def _events(meds: Path) -> pl.DataFrame:
    parts = [read_events(f).select("subject_id", "time", "code") for f in data_files(meds)]
    return pl.concat(parts).filter(pl.col("time").is_not_null())


def _records(events: pl.DataFrame, keys: list[str], size: int) -> Records:
    """Sequences of `size` codes that follow each other in a record; at one time in the order of their letters."""
    events = events.sort(*keys, "time", "code").with_columns(
        record=pl.struct(keys).rle_id(), code=pl.col("code").cast(pl.String)
    )
    whose = events.unique("record", keep="first", maintain_order=True)["subject_id"]
    behind = [pl.col("code").shift(-i).over("record") for i in range(size)]
    grams = (
        events.select("record", gram=pl.concat_str(behind, separator="\x1f")).drop_nulls().unique()
    )
    return Records(whose.to_numpy().astype(np.int64), grams)


def matrices(*records: Records) -> list[sparse.csr_matrix]:
    """[N, V] of each, 1 where a record holds a sequence; columns mean the same in all."""
    grams = (
        pl.concat([r.grams.select("gram") for r in records])
        .unique()
        .sort("gram")
        .with_row_index("column")
    )
    found = []
    for r in records:
        placed = r.grams.join(grams, on="gram")
        at = (placed["record"].to_numpy(), placed["column"].to_numpy())
        shape = (len(r), grams.height)
        found.append(sparse.csr_matrix((np.ones(placed.height, np.float32), at), shape=shape))
    return found
