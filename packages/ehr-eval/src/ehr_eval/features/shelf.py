"""Rows that were read, kept in files of a folder: of an unfinished artifact, or of a store that outlives it.

n rows, d features. A file is written whole, under a name that its rows give: several processes may add at once.
"""

import hashlib
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from safetensors.numpy import save_file

from ehr_eval.features.mapped import map_tensors
from ehr_eval.frames import KEY
from ehr_tracking.files import sync

Floats = npt.NDArray[np.float32]


class Shelf:
    """A folder of `<name>.safetensors`: subject_id, prediction_time (microseconds), features."""

    def __init__(self, directory: Path) -> None:
        """Make the folder, where it is not there."""
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def add(self, rows: pl.DataFrame, features: Floats) -> None:
        """Keep what was read of some rows.

        Args:
            rows: [n] subject_id, prediction_time.
            features: [n, d]
        """
        subject, time = _numbers(rows)
        name = hashlib.sha256(subject.tobytes() + time.tobytes()).hexdigest()[:24]
        partial = self.directory / f".{name}.{uuid.uuid4().hex}.partial"
        save_file({"subject_id": subject, "prediction_time": time, "features": features}, partial)
        sync(partial)
        partial.replace(self.directory / f"{name}.safetensors")

    def missing(self, rows: pl.DataFrame) -> npt.NDArray[np.bool_]:
        """[n] which rows are not there."""
        return _places(rows, self._files())["at"].is_null().to_numpy()

    def take(self, rows: pl.DataFrame, width: int) -> Floats:
        """[n, width] of rows that are there.

        Raises:
            ContractError: If a file is damaged.
        """
        files = (
            self._files()
        )  # once: where another process adds one, the next list counts otherwise
        places = _places(rows, files).with_row_index("row")
        found = np.zeros((rows.height, width), np.float32)
        for (file,), mine in places.group_by("file"):
            features = map_tensors(files[int(str(file))])["features"]
            found[mine["row"].to_numpy()] = features[mine["at"].to_numpy()]
        return found

    def _files(self) -> list[Path]:
        return sorted(self.directory.glob("*.safetensors"))


def _places(rows: pl.DataFrame, files: Sequence[Path]) -> pl.DataFrame:
    """File (its number) and at (a row of it) of each of some rows, null where it is not there."""
    schema = {
        "subject_id": pl.Int64,
        "prediction_time": pl.Int64,
        "file": pl.Int64,
        "at": pl.Int64,
    }
    parts = [pl.DataFrame(schema=schema)]
    for number, path in enumerate(files):
        tensors = map_tensors(path)
        n = len(tensors["subject_id"])
        parts.append(
            pl.DataFrame(
                {
                    "subject_id": tensors["subject_id"],
                    "prediction_time": tensors["prediction_time"],
                    "file": np.full(n, number),
                    "at": np.arange(n),
                },
                schema,
            )
        )
    there = pl.concat(parts).unique(KEY, keep="first", maintain_order=True)
    subject, time = _numbers(rows)
    asked = pl.DataFrame({"subject_id": subject, "prediction_time": time})
    return asked.join(there, on=KEY, how="left", maintain_order="left").select("file", "at")


def _numbers(rows: pl.DataFrame) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    return rows["subject_id"].to_numpy(), rows["prediction_time"].dt.epoch("us").to_numpy()
