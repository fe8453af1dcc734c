"""Features of several models side by side, as those of one: e.g. a representation and counts.

n rows, d features of all together.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import sparse

from ehr_eval.features.mapped import Matrix
from ehr_eval.features.read import FeatureSet, read_features, refuse_other_delays
from ehr_eval.frames import KEY, PRODUCER
from ehr_tracking.arrow.features import write_features
from ehr_tracking.contracts import FEATURES, ContractError
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import new_artifact, refuse_existing, seal, source


def join_features(parts: Sequence[PathLike], out: PathLike, *, overwrite: bool = False) -> Path:
    """Write `features/1` whose rows are those of each of several, one after the other.

    Sparse where one of them is. Rows are in the order of the first.

    Args:
        parts: Two `features/1` or more, of the same (subject, prediction time), splits and delay.
        out: Where the features shall be.
        overwrite: Replace features that are there.

    Raises:
        ContractError: If one is not what it should be, or they are of other rows or splits.
        UserError: If there are not at least two, their delays differ, or `out` exists.
    """
    paths, out = [Path(part) for part in parts], Path(out)
    if len(paths) < 2:
        raise UserError("one set of features has nothing to be joined with; give --features twice")
    refuse_existing(out, FEATURES, overwrite=overwrite, inputs=paths)
    sets = [read_features(path) for path in paths]
    refuse_other_delays({str(n): found for n, found in enumerate(sets, start=1)})
    first = sets[0]
    matrices = [_in_order_of(first, other) for other in sets]
    delay = first.manifest.config.get("delay") or {}
    config = {"delay": delay, "widths": [matrix.shape[1] for matrix in matrices]}
    with new_artifact(out, FEATURES, overwrite=overwrite, inputs=paths) as partial:
        index = first.index.select(*KEY, "split").to_arrow()
        seal(
            partial,
            FEATURES,
            producer=PRODUCER,
            config=config,
            seed=None,
            inputs={f"features.{n}": source(path) for n, path in enumerate(paths)},
            rows=write_features(partial, side_by_side(matrices), index),
        )
    return out


def side_by_side(matrices: Sequence[Matrix]) -> Matrix:
    """Matrices [n, d_i] as one [n, d]; CSR where one of them is.

    Examples:
        >>> side_by_side([np.ones((2, 1)), sparse.csr_matrix([[0.0, 3.0], [0.0, 0.0]])]).toarray()
        array([[1., 0., 3.],
               [1., 0., 0.]])
    """
    if any(sparse.issparse(matrix) for matrix in matrices):
        return sparse.csr_matrix(sparse.hstack([sparse.csr_matrix(m) for m in matrices]))
    return np.concatenate(matrices, axis=1)


def _in_order_of(first: FeatureSet, other: FeatureSet) -> Matrix:
    """[n, d_i] rows of a set as the first has them.

    Raises:
        ContractError: If it has other rows, or another split of one.
    """
    where = f"{other.directory} and {first.directory}"
    joined = first.index.select(*KEY, "split").join(
        other.index, on=KEY, how="full", suffix=".other", coalesce=True, maintain_order="left"
    )
    odd = joined.filter(joined["split"].ne_missing(joined["split.other"]))
    if odd.height:
        row = odd.row(0, named=True)
        raise ContractError(
            f"{where} differ in {odd.height:,} rows or their splits, the first subject "
            f"{row['subject_id']} at {row['prediction_time']}; make both for the same labels"
        )
    return other.mapped.take(joined["row"].to_numpy())
