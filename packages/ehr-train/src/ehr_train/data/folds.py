"""Which fold a subject is of. E examples."""

import numpy as np
import numpy.typing as npt

from ehr_train.data import draws
from ehr_train.data.examples import Examples

_DRAWN = 41  # so that two uses of one seed draw differently


def fold_of(subject_id: npt.NDArray[np.int64], folds: int, seed: int) -> npt.NDArray[np.int64]:
    """The fold of each subject, from 1: a hash of seed and subject, so whoever else there is.

    Examples:
        >>> np.bincount(fold_of(np.arange(10_000), 4, seed=0)).tolist()
        [0, 2582, 2468, 2480, 2470]
    """
    return draws.below(folds, seed, _DRAWN, subject_id) + 1


def in_fold(examples: Examples, folds: int, number: int, seed: int) -> npt.NDArray[np.bool_]:
    """[E] whether each is of a subject of that fold."""
    subject = examples.tokens.subject_id[examples.subject]
    mine: npt.NDArray[np.bool_] = fold_of(subject, folds, seed) == number
    return mine
