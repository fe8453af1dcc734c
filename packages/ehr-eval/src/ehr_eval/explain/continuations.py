"""Whether a model tells how training subjects went on: T1 of arXiv 2510.12950, trajectory reconstruction.

Of each future the share of its codes that come in what truly followed, up to where the future is told. It is averaged over the
futures of a subject; where train subjects have more than held-out ones, their records were learnt by heart.

N subjects.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from ehr_eval.frames import PRODUCER, read_events
from ehr_tracking.arrow.meds import data_files
from ehr_tracking.contracts import TRAJECTORIES
from ehr_tracking.manifest import check_file, read_manifest

_FUTURE = ["subject_id", "prediction_time", "sample"]


def came_true(
    trajectories: Path, meds: Path
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """How much of what was made of each subject came true.

    Args:
        trajectories: `trajectories/1`.
        meds: The data set.

    Returns:
        [N] subjects, ascending, and [N] shares from 0 to 1; those whose futures or true records hold no event are left out.

    Raises:
        ContractError: If either is not what it should be.
    """
    made = _codes(trajectories)
    until = pl.concat(_read(trajectories, "futures", [*_FUTURE, "until"]))
    asked = until.join(made.select(_FUTURE).unique(), on=_FUTURE, how="semi")
    real = pl.concat(
        read_events(path)
        .join(asked.group_by(_FUTURE[:2]).agg(pl.col("until").max()), on="subject_id")
        .filter((pl.col("time") > pl.col("prediction_time")) & (pl.col("time") <= pl.col("until")))
        .select(*_FUTURE[:2], "code", "time")
        for path in data_files(meds)
    )
    known = real.select(_FUTURE[:2]).unique()
    first = real.group_by(*_FUTURE[:2], "code").agg(pl.col("time").min())
    told = (
        made.join(asked, on=_FUTURE)
        .join(known, on=_FUTURE[:2], how="semi")
        .join(first, on=[*_FUTURE[:2], "code"], how="left")
        .with_columns(true=(pl.col("time") <= pl.col("until")).fill_null(False))
    )
    shares = told.group_by(_FUTURE).agg(pl.col("true").mean())
    mean = shares.group_by("subject_id").agg(pl.col("true").mean()).sort("subject_id")
    return mean["subject_id"].to_numpy(), mean["true"].to_numpy()


def _codes(trajectories: Path) -> pl.DataFrame:
    """The distinct codes of each future."""
    return pl.concat(_read(trajectories, "events", [*_FUTURE, "code"])).unique()


def _read(trajectories: Path, folder: str, columns: list[str]) -> list[pl.DataFrame]:
    manifest = read_manifest(trajectories, TRAJECTORIES, reader=PRODUCER)
    names = sorted(n for n in manifest.files if n.startswith(f"{folder}/"))
    return [pl.read_parquet(check_file(trajectories, manifest, n), columns=columns) for n in names]
