"""Whether records that a model made are copies: nearest training neighbours, and rare sequences learnt by heart.

Train and held-out subjects are compared in equal numbers, so that nothing but the training sets them apart: had it not
mattered, a made record would be as near to either, and rare sequences of either would come as often.

G made records, N real ones of either kind, V sequences.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

Floats = npt.NDArray[np.float64]
_ROWS = 256
"""Made records that are compared at a time."""


class Share(NamedTuple):
    """A share, with an interval over made records."""

    value: float
    lower: float
    upper: float


def nearest(
    made: sparse.csr_matrix,
    real: sparse.csr_matrix,
    own: npt.NDArray[np.bool_] | None = None,
) -> Floats:
    """[G] distance of each made record to the closest real one: the share of its sequences that this lacks.

    Args:
        made: [G, V] of 0 and 1.
        real: [N, V]
        own: [G, N] pairs that are not compared: a record and what was drawn on from it.

    Examples:
        >>> nearest(sparse.csr_matrix([[1, 1, 0, 0]]), sparse.csr_matrix([[1, 0, 0, 1], [0, 0, 1, 1]])).tolist()
        [0.5]
    """
    size = np.asarray(made.sum(axis=1)).reshape(-1)
    found = np.ones(made.shape[0])
    for start in range(0, made.shape[0], _ROWS):
        rows = slice(start, start + _ROWS)
        shared = (made[rows] @ real.T).toarray()
        if own is not None:
            shared[own[rows]] = 0
        found[rows] = 1 - shared.max(axis=1, initial=0) / np.maximum(size[rows], 1)
    return found


def share_nearer(train: Floats, held_out: Floats, *, bootstraps: int, seed: int) -> Share:
    """Share of made records that are nearer to a train record than to any held-out one; ties count half.

    Args:
        train: [G] distances.
        held_out: [G]
        bootstraps: Resamples of made records.
        seed: Of them.

    Examples:
        >>> share_nearer(np.array([0.1, 0.5]), np.array([0.5, 0.5]), bootstraps=10, seed=0).value
        0.75
    """
    nearer = (train < held_out) + 0.5 * (train == held_out)
    drawn = np.random.default_rng(seed).integers(len(nearer), size=(bootstraps, len(nearer)))
    lower, upper = np.percentile(nearer[drawn].mean(axis=1), [2.5, 97.5])
    return Share(float(nearer.mean()), float(lower), float(upper))


class Recited(NamedTuple):
    """Of the rare sequences of some subjects, how many come in made records."""

    rare: int
    come: int

    @property
    def rate(self) -> float | None:
        """Share that come; None where there are none."""
        return self.come / self.rare if self.rare else None


def recited(
    made: sparse.csr_matrix,
    mine: sparse.csr_matrix,
    others: sparse.csr_matrix,
    *,
    rare: int,
    own: npt.NDArray[np.bool_] | None = None,
) -> Recited:
    """Rare sequences of some subjects that the others lack, and how many of them come in made records.

    Args:
        made: [G, V]
        mine: [N, V]
        others: [N, V]
        rare: At most so many of `mine` have it.
        own: [G, N] a record of `mine` and what was drawn on from it: that does not count.

    Examples:
        >>> eye = sparse.csr_matrix(np.eye(3))
        >>> recited(eye[:1], eye[:2], eye[2:], rare=1)
        Recited(rare=2, come=1)
    """
    in_mine, in_others = (np.asarray(m.sum(axis=0)).reshape(-1) for m in (mine, others))
    column = np.flatnonzero((in_mine > 0) & (in_mine <= rare) & (in_others == 0))
    come = np.asarray(made[:, column].sum(axis=0)).reshape(-1)
    if own is not None:
        by_own = sparse.csr_matrix(own.astype(np.float32)).T @ made[:, column]
        come = come - np.asarray(by_own.multiply(mine[:, column]).sum(axis=0)).reshape(-1)
    return Recited(len(column), int((come > 0).sum()))
