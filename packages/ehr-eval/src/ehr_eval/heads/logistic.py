"""The minimum of the penalised logistic loss.

n rows, d features; C is the inverse strength of the penalty. The loss is a mean over rows:

    mean(log(1 + exp(-s z))) + |w|^2 / (2 C n),  z = X w + b,  s = +1 or -1

so its gradient shrinks with n and 1 / C, and how small is small enough depends on both: a fixed
tolerance ends a weakly penalised fit long before its minimum.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import linalg, sparse
from scipy.linalg import blas
from scipy.optimize import minimize
from scipy.special import expit

from ehr_eval.features.mapped import Matrix
from ehr_eval.heads.grid import Labels
from ehr_eval.judge.metrics.ranked import Floats

_FEW = 1000
"""Unknowns up to which the Hessian is factored: a handful of steps. Above, L-BFGS is faster, mostly."""
_MANY = 5000
"""Unknowns up to which the Hessian can be factored, where L-BFGS does not end."""
_LONG = 300
"""Steps of L-BFGS that cost about as much as those by factored Hessians of `_FEW` to `_MANY` unknowns."""
_MEMORY = 100
"""Steps that L-BFGS remembers: with 10, as is common, it takes three times as many."""
_DIRECT = 200
"""Unknowns up to which every step factors a Hessian of its own: it costs no more than its products."""
_PRODUCTS = 10
"""Most products with a Hessian for one step: more cost as much as to make and factor it."""
_CLOSE = 0.1
"""How much of the gradient a step by conjugate gradients may leave."""
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

    def curvature(self, at: Floats) -> Floats:
        """[n] second derivative of the mean along each row's z."""
        p = expit(self.x @ at[:-1] + at[-1])
        return np.asarray(p * (1 - p) / len(p))

    def product(self, curvature: Floats, direction: Floats) -> Floats:
        """[d + 1] the Hessian times a direction, without the Hessian."""
        along = curvature * (self.x @ direction[:-1] + direction[-1])
        return np.append(self.x.T @ along + self.penalty * direction[:-1], along.sum())

    def diagonal(self, curvature: Floats) -> Floats:
        """[d + 1] of the Hessian."""
        x: Any = self.x
        if sparse.issparse(x):
            squares = x.multiply(x).T @ curvature
        else:
            squares = np.einsum("i,ij,ij->j", curvature, x, x)
        found = np.append(squares + self.penalty, curvature.sum())
        return np.asarray(np.maximum(found, np.finfo(np.float64).tiny))

    def hessian(self, at: Floats) -> Floats:
        """[d + 1, d + 1]; of it the upper triangle, which is all that a factor needs, and no more."""
        curvature = self.curvature(at)
        d = self.x.shape[1]
        found = np.zeros((d + 1, d + 1), order="F")
        for begin in range(0, len(curvature), _BLOCK):
            part: Any = self.x[begin : begin + _BLOCK]
            rows = part.toarray() if sparse.issparse(part) else part
            scaled = rows * np.sqrt(curvature[begin : begin + _BLOCK, None])
            found[:d, :d] += blas.dsyrk(1.0, scaled.T)
            found[:d, d] += curvature[begin : begin + _BLOCK] @ rows
        found[d, d] = curvature.sum()
        found[np.arange(d), np.arange(d)] += self.penalty
        return found


def fit(loss: Logistic, start: Floats, *, max_iter: int) -> Minimum:
    """Go from a start to the minimum: by Newton's method where unknowns are few or steps many, else by L-BFGS.

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
    if len(start) <= _FEW:
        return _ended(loss, _newton(loss, start, max_iter))
    if len(start) > _MANY:
        return _ended(loss, _lbfgs(loss, start, max_iter))
    found = _ended(loss, _lbfgs(loss, start, min(max_iter, _LONG)))
    if found.converged or max_iter <= _LONG:
        return found
    return _ended(loss, _newton(loss, np.append(found.weight, found.bias), max_iter - _LONG))


def _ended(loss: Logistic, at: Floats) -> Minimum:
    gradient = float(np.abs(loss.gradient(at)).max())
    # the last digits of the loss may end L-BFGS a little before the tolerance
    return Minimum(at[:-1], float(at[-1]), gradient, gradient <= 10 * loss.tolerance)


def _newton(loss: Logistic, at: Floats, max_iter: int) -> Floats:
    value, gradient = loss.loss(at), loss.gradient(at)
    factor = None  # of the Hessian at an earlier point
    for _ in range(max_iter):
        if np.abs(gradient).max() <= loss.tolerance / 100:  # quadratic: the last step is cheap
            break
        step = _by_conjugate_gradients(loss, at, gradient, factor) if len(at) > _DIRECT else None
        if step is None:
            factor = _factor(loss.hessian(at))
            step = -linalg.cho_solve(factor, gradient, check_finite=False)
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


def _factor(hessian: Floats) -> tuple[Floats, bool]:
    """By Cholesky. All-saturated probabilities leave the bias without curvature: a trace is added."""
    trace = np.finfo(np.float64).eps * float(np.trace(hessian))
    while True:
        try:
            factor: tuple[Floats, bool] = linalg.cho_factor(hessian, check_finite=False)
        except linalg.LinAlgError:
            hessian = hessian + trace * np.eye(len(hessian))
            trace *= 10
        else:
            return factor


def _by_conjugate_gradients(
    loss: Logistic, at: Floats, gradient: Floats, factor: tuple[Floats, bool] | None
) -> Floats | None:
    """Newton's step without a Hessian of this point: conjugate gradients, preconditioned by another's.

    A product with the Hessian is two with the rows, tens of times cheaper than to make and factor it;
    close to the point of the factor a handful is enough.

    Returns:
        [d + 1] close to the step; None where too many products would be needed.
    """
    curve = loss.curvature(at)
    if factor is None:
        diagonal = loss.diagonal(curve)
    x = (
        -gradient / diagonal
        if factor is None
        else -linalg.cho_solve(factor, gradient, check_finite=False)
    )
    residual = -gradient - loss.product(curve, x)
    enough = _CLOSE * float(np.linalg.norm(gradient))
    direction, before = None, 0.0
    for _ in range(_PRODUCTS):
        if np.linalg.norm(residual) <= enough:
            return x
        ahead = (
            residual / diagonal
            if factor is None
            else linalg.cho_solve(factor, residual, check_finite=False)
        )
        now = float(residual @ ahead)
        direction = ahead if direction is None else ahead + now / before * direction
        along = loss.product(curve, direction)
        size = now / float(direction @ along)
        x, residual, before = x + size * direction, residual - size * along, now
    return None


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
