"""Which rows are the k shots: EHRSHOT's draws, nested over k, the same for every model."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


class Shots(NamedTuple):
    """Rows to fit on and to choose hyperparameters on, as positions in their splits."""

    train: Rows
    tuning: Rows


def sample(label: npt.NDArray[np.bool_], k: int, *, replicate: int, max_k: int = 128) -> Rows:
    """Draw k rows of each class.

    For each class NumPy's legacy generator is seeded with the replicate; `max_k` rows are drawn
    without replacement (what a class lacks is drawn again with replacement), and the first k of
    them are taken. So the shots of a smaller k are among those of a larger one.

    Args:
        label: [n] of one split; must hold both classes.
        k: Shots per class; -1 takes every row once, in order.
        replicate: Seed.
        max_k: Rows drawn per class; k may not exceed it.

    Returns:
        [2k] positions, negatives first; [n] for k = -1.

    Examples:
        >>> sample(np.array([True, False, False, True]), 2, replicate=0).tolist()
        [2, 1, 3, 0]
        >>> sample(np.array([True, False, False, True]), -1, replicate=0).tolist()
        [0, 1, 2, 3]
    """
    if k == -1:
        return np.arange(len(label))
    if not 1 <= k <= max_k:
        raise ValueError(f"k = {k}: must be -1 or in 1..{max_k}")
    drawn = []
    for value in (False, True):
        rows = np.flatnonzero(label == value)
        legacy = np.random.RandomState(replicate)
        first = legacy.choice(rows, size=min(len(rows), max_k), replace=False)
        again = legacy.choice(rows, size=max_k - len(first), replace=True)
        drawn.append(np.concatenate([first, again])[:k])
    return np.concatenate(drawn)


def shots(
    train: npt.NDArray[np.bool_],
    tuning: npt.NDArray[np.bool_],
    k: int,
    *,
    replicate: int,
    max_k: int = 128,
) -> Shots:
    """The shots of both splits; those for training shuffled with the replicate as seed."""
    rows = sample(train, k, replicate=replicate, max_k=max_k)
    order = np.random.RandomState(replicate).permutation(len(rows))
    return Shots(rows[order], sample(tuning, k, replicate=replicate, max_k=max_k))
