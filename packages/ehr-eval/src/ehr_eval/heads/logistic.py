"""The minimum of the penalised logistic loss.

n rows, d features; C is the inverse strength of the penalty. The loss is a mean over rows:

    mean(log(1 + exp(-s z))) + |w|^2 / (2 C n),  z = X w + b,  s = +1 or -1

so its gradient shrinks with n and 1 / C, and how small is small enough depends on both: a fixed
tolerance ends a weakly penalised fit long before its minimum.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import linalg, sparse
from scipy.optimize import minimize
from scipy.special import expit

from ehr_eval.features.mapped import Matrix
from ehr_eval.heads.grid import Labels
from ehr_eval.judge.metrics.ranked import Floats

_FEW = 1000
"""Unknowns up to which the Hessian is factored: a handful of steps. Above, L-BFGS is faster."""
_MEMORY = 100
"""Steps that L-BFGS remembers: with 10, as is common, it takes three times as many."""
_BLOCK = 4096
"""Rows of a sparse matrix that are made dense at once."""


class Minimum(NamedTuple):
    """Where a fit ended."""

    weight: Floats
    """[d]"""
    bias: float
    gradient: float
    """Largest magnitude of the gradient there."""
    converged: bool
    """Whether that is small enough for the fit to be the minimum."""


@dataclass(frozen=True, slots=True)
class Logistic:
    """The loss of one set of rows at one strength; unknowns [d + 1], the bias last."""

    x: Matrix
    y: Labels
    c: float

    @property
    def penalty(self) -> float:
        """1 / (C n)."""
        return 1 / (self.c * len(self.y))

    @property
    def tolerance(self) -> float:
        """A gradient at which weights are exact to about 1e-4 of themselves in the flattest direction."""
        return float(np.clip(1e-4 * self.penalty, 1e-12, 1e-9))

    def loss(self, at: Floats) -> float:
        """The loss itself."""
        z = self.x @ at[:-1] + at[-1]
        mean = np.logaddexp(0, np.where(self.y, -z, z)).mean()
        return float(mean + self.penalty / 2 * (at[:-1] @ at[:-1]))

    def gradient(self, at: Floats) -> Floats:
        """[d + 1]."""
        off = (expit(self.x @ at[:-1] + at[-1]) - self.y) / len(self.y)
        return np.append(self.x.T @ off + self.penalty * at[:-1], off.sum())

    def hessian(self, at: Floats) -> Floats:
        """[d + 1, d + 1]."""
        p = expit(self.x @ at[:-1] + at[-1])
        curve = p * (1 - p) / len(p)
        d = self.x.shape[1]
        found = np.zeros((d + 1, d + 1))
        for begin in range(0, len(p), _BLOCK):
            part: Any = self.x[begin : begin + _BLOCK]
            rows = part.toarray() if sparse.issparse(part) else part
            weighted = rows * curve[begin : begin + _BLOCK, None]
            found[:d, :d] += weighted.T @ rows
            found[:d, d] += weighted.sum(axis=0)
        found[d, :d] = found[:d, d]
        found[d, d] = curve.sum()
        found[np.arange(d), np.arange(d)] += self.penalty
        return found


def fit(loss: Logistic, start: Floats, *, max_iter: int) -> Minimum:
    """Go from a start to the minimum: by Newton's method where unknowns are few, else by L-BFGS.

    Args:
        loss: Of rows with both classes.
        start: [d + 1] weights and bias; those of a neighbouring strength save most of the steps.
        max_iter: Most steps.

    Examples:
        >>> x, y = np.array([[0.0], [1.0], [1.0]]), np.array([False, True, False])
        >>> found = fit(Logistic(x, y, c=1.0), np.zeros(2), max_iter=50)
        >>> found.converged, found.gradient < 1e-9
        (True, True)
        >>> fit(Logistic(x, y, c=1.0), np.zeros(2), max_iter=1).converged
        False
    """
    solve: Callable[[Logistic, Floats, int], Floats] = _newton if len(start) <= _FEW else _lbfgs
    end = solve(loss, start, max_iter)
    gradient = float(np.abs(loss.gradient(end)).max())
    # the last digits of the loss may end L-BFGS a little before the tolerance
    return Minimum(end[:-1], float(end[-1]), gradient, gradient <= 10 * loss.tolerance)


def _newton(loss: Logistic, at: Floats, max_iter: int) -> Floats:
    value, gradient = loss.loss(at), loss.gradient(at)
    for _ in range(max_iter):
        if np.abs(gradient).max() <= loss.tolerance / 100:  # quadratic: the last step is cheap
            break
        step = _step(loss.hessian(at), gradient)
        length, slope = 1.0, float(step @ gradient)
        # half as far until the loss falls; close to the minimum its last digits may not
        while (ahead := loss.loss(at + length * step)) > value + 1e-4 * length * slope:
            if length < 1e-10 or -slope < 1e-13 * max(1.0, value):
                break
            length /= 2
        new = at + length * step
        steepness = loss.gradient(new)
        if ahead >= value and np.abs(steepness).max() >= np.abs(gradient).max():
            break  # as close as the digits go
        at, value, gradient = new, ahead, steepness
    return at


def _step(hessian: Floats, gradient: Floats) -> Floats:
    """Newton's step. All-saturated probabilities leave the bias without curvature: a trace is added."""
    trace = np.finfo(np.float64).eps * float(np.trace(hessian))
    while True:
        try:
            factor = linalg.cho_factor(hessian, check_finite=False)
            return np.asarray(-linalg.cho_solve(factor, gradient, check_finite=False))
        except linalg.LinAlgError:
            hessian = hessian + trace * np.eye(len(hessian))
            trace *= 10


def _lbfgs(loss: Logistic, start: Floats, max_iter: int) -> Floats:
    def value_and_gradient(at: Floats) -> tuple[float, Floats]:
        z = loss.x @ at[:-1] + at[-1]
        mean = np.logaddexp(0, np.where(loss.y, -z, z)).mean()
        off = (expit(z) - loss.y) / len(loss.y)
        gradient = np.append(columns @ off + loss.penalty * at[:-1], off.sum())
        return mean + loss.penalty / 2 * (at[:-1] @ at[:-1]), gradient

    columns: Any = sparse.csr_matrix(loss.x.T) if sparse.issparse(loss.x) else loss.x.T
    found = minimize(
        value_and_gradient,
        start,
        jac=True,
        method="L-BFGS-B",
        options={
            "maxcor": _MEMORY,
            "ftol": 0,
            "gtol": loss.tolerance,
            "maxiter": max_iter,
            "maxfun": 4 * max_iter,
        },
    )
    return np.asarray(found.x)
