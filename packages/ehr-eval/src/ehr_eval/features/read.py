"""Read `features/1`: one row a (subject, prediction time), dense or CSR.

n rows, d features.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from ehr_eval.features.mapped import MappedMatrix, Matrix, map_matrix
from ehr_eval.frames import PRODUCER, in_order_of
from ehr_tracking.arrow.features import read_index
from ehr_tracking.contracts import FEATURES, ContractError
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import Manifest, check_file, read_manifest


@dataclass(frozen=True, slots=True, eq=False)
class FeatureSet:
    """The features of one model."""

    directory: Path
    manifest: Manifest
    mapped: MappedMatrix
    """[n, d] on disk."""
    index: pl.DataFrame
    """subject_id, prediction_time, row, split."""
    broken: npt.NDArray[np.int64]
    """Rows of the matrix that hold NaN or infinite values."""

    @property
    def told_broken(self) -> str:
        """That there are such."""
        return f"{self.directory / 'features.safetensors'} holds NaN or infinite values"

    @property
    def matrix(self) -> Matrix:
        """All rows, read into memory."""
        return self.mapped.take(np.arange(self.mapped.shape[0]))


def read_features(directory: PathLike, *, broken: bool = False) -> FeatureSet:
    """Open the features of one model.

    Args:
        directory: `features/1`.
        broken: Take rows with NaN or infinite values as well; `align` refuses labels at them.

    Raises:
        ContractError: If they are unfinished, changed, of another contract, contradict themselves, name
            a subject and time twice, or hold a value that is no finite number.
    """
    directory = Path(directory)
    manifest = read_manifest(directory, FEATURES, reader=PRODUCER)
    mapped = map_matrix(check_file(directory, manifest, "features.safetensors"))
    path = check_file(directory, manifest, "index.parquet")
    index = pl.DataFrame(pl.from_arrow(read_index(path, rows=mapped.shape[0])))
    found = FeatureSet(
        directory=directory, manifest=manifest, mapped=mapped, index=index, broken=mapped.broken()
    )
    if len(found.broken) and not broken:
        raise ContractError(f"{found.told_broken}; did the model diverge?")
    return found


def align(features: FeatureSet, labels: pl.DataFrame, *, task: str) -> pl.DataFrame:
    """Find the row and the split of each label.

    Args:
        features: Must hold every (subject, prediction time) of the labels.
        labels: subject_id, prediction_time and more.
        task: For the message.

    Returns:
        The labels in their order, with `row` and `split`.

    Raises:
        ContractError: Naming the first label without features, or if a label's are NaN or infinite.
    """
    found = in_order_of(
        labels,
        features.index,
        where=features.directory,
        what=f"labels of task {task}",
        mend="extract features for these labels",
    )
    unusable = int(np.isin(found["row"].to_numpy(), features.broken).sum())
    if unusable:
        raise ContractError(
            f"{features.told_broken} in {unusable:,} of {found.height:,} rows of task {task}; did the "
            "model diverge?"
        )
    return found


def align_all(task: str, labels: pl.DataFrame, sets: Mapping[str, FeatureSet]) -> pl.DataFrame:
    """Find the rows of several models, which agree on the split of each label.

    Args:
        task: For the message.
        labels: subject_id, prediction_time and more.
        sets: Model -> its features, one at least.

    Returns:
        The labels in their order, with `split` and of each model `row.<model>`.

    Raises:
        ContractError: Naming the first label without features, or in another split of other features.
    """
    rows = {model: align(found, labels, task=task) for model, found in sets.items()}
    first, *others = rows
    split = rows[first]["split"]
    for model in others:
        differs = rows[model]["split"] != split
        if differs.any():
            raise ContractError(
                f"{sets[model].directory} puts subject {labels.filter(differs)['subject_id'][0]} in "
                f"another split than {sets[first].directory}; make both from one data set"
            )
    return labels.with_columns(split, *(t["row"].alias(f"row.{m}") for m, t in rows.items()))


def refuse_other_delays(sets: Mapping[str, FeatureSet]) -> None:
    """Refuse to compare models of which one knows an event earlier than another.

    Raises:
        UserError: With both delays.
    """
    delays = {name: _delay(found) for name, found in sets.items()}
    first = next(iter(delays))
    for name, delay in delays.items():
        if delay != delays[first]:
            raise UserError(
                f"features {first} ({sets[first].directory}) were made with delay {_told(delays[first])}, "
                f"features {name} ({sets[name].directory}) with delay {_told(delay)}: one knows events "
                "earlier than the other; make both with the same"
            )


def _delay(features: FeatureSet) -> list[tuple[str, float]]:
    """Patterns and days in their order: of those that fit a code the first counts."""
    delay: Mapping[str, float] = features.manifest.config.get("delay") or {}
    return list(delay.items()) if any(delay.values()) else []


def _told(delay: Iterable[tuple[str, float]]) -> str:
    return "{" + ", ".join(f"{pattern}: {days}" for pattern, days in delay) + "}"
