"""How a figure falls with parameters and tokens, fitted to runs.

n runs, B draws; N parameters, D tokens of a run.
"""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares, nnls
from scipy.special import ndtri, stdtrit

Floats = npt.NDArray[np.float64]

LEAST = 6
"""Runs that a fit needs: one more than the law has numbers."""
LEVELS = 3
"""Different sizes, and different budgets of tokens, that tell a power from a constant."""
STEEPEST, FLATTEST = 5.0, 0.01
"""Of an exponent; an interval that ends there says that the runs do not tell it."""
_STARTS = (0.05, 0.15, 0.4, 1.0, 2.0)
"""Exponents that a fit begins with."""
_POLISHED = 3
"""Of the starts, the best ones are followed to their end."""
_LOW = np.array([0.0, 0.0, FLATTEST, 0.0, FLATTEST])
_HIGH = np.array([np.inf, np.inf, STEEPEST, np.inf, STEEPEST])


class Law(NamedTuple):
    """L(N, D) = E + A / N^alpha + B / D^beta, a figure of which less is better.

    Source:
        Hoffmann et al., Training Compute-Optimal Large Language Models, 2022, 3.3.
    """

    floor: float
    """E: what no size and no tokens take away."""
    a: float
    alpha: float
    b: float
    beta: float

    def at(self, parameters: npt.ArrayLike, tokens: npt.ArrayLike) -> Floats:
        """What it says of models.

        Args:
            parameters: [...] N.
            tokens: [...] D.

        Examples:
            >>> Law(1.0, 8.0, 0.5, 9.0, 1.0).at([16, 64], 3).tolist()
            [6.0, 5.0]
        """
        n, d = np.asarray(parameters, np.float64), np.asarray(tokens, np.float64)
        return np.asarray(self.floor + self.a * n**-self.alpha + self.b * d**-self.beta)

    @property
    def growth(self) -> float:
        """As what power of compute (6ND) N grows at the least loss for it: beta / (alpha + beta).

        Examples:
            >>> Law(0.0, 1.0, 0.3, 1.0, 0.1).growth
            0.25
        """
        return self.beta / (self.alpha + self.beta)


def too_few(parameters: Floats, tokens: Floats) -> str | None:
    """Why a law cannot be fitted to runs; None where it can.

    Args:
        parameters: [n] N.
        tokens: [n] D.

    Examples:
        >>> too_few(np.array([1e5, 1e6]), np.array([1e6, 1e6]))
        'too few runs: 2 of 2 sizes and 1 budget of tokens; a fit needs 6 of 3 and 3'
    """
    sizes, budgets = len(levels(parameters)), len(levels(tokens))
    if len(parameters) >= LEAST and sizes >= LEVELS and budgets >= LEVELS:
        return None
    return (
        f"too few runs: {len(parameters)} of {sizes} size{'s' * (sizes != 1)} and {budgets} "
        f"budget{'s' * (budgets != 1)} of tokens; a fit needs {LEAST} of {LEVELS} and {LEVELS}"
    )


def levels(values: npt.ArrayLike) -> list[float]:
    """Values that are more than a tenth apart, each as the least of its like: runs end with whole steps.

    Examples:
        >>> levels([100.0, 104.0, 400.0, 98.0])
        [98.0, 400.0]
    """
    found: list[float] = []
    for value in np.unique(np.asarray(values, np.float64)).tolist():
        if not found or value > 1.1 * found[-1]:
            found.append(value)
    return found


def fit_law(parameters: Floats, tokens: Floats, figure: Floats, *, huber: float) -> Law:
    """The law that is nearest to runs: the least sum of Huber's loss of differences of logarithms.

    Args:
        parameters: [n] N.
        tokens: [n] D.
        figure: [n] above 0.
        huber: Where that loss begins to grow linearly.

    Source:
        Hoffmann et al. 2022, approach 3; the exponents are held to [0.01, 5].
    """
    units = _Units(parameters, tokens, figure)
    return units.law(units.fit(figure, units.starts(figure), huber))


def bootstrap(
    law: Law,
    parameters: Floats,
    tokens: Floats,
    figure: Floats,
    *,
    huber: float,
    draws: int,
    seed: int,
) -> list[Law]:
    """The laws of runs that could have been: what the law says, times residuals drawn anew.

    Sizes and budgets are chosen, not drawn, so they stay. A fit with five numbers comes nearer to n runs
    than the law is: residuals are widened by sqrt(n / (n - 5)), and as Student's t is wider than the normal
    at 95% with n - 5 degrees of freedom.

    Args:
        law: As it was fitted.
        parameters: [n] N.
        tokens: [n] D.
        figure: [n]
        huber: As in the fit.
        draws: How many.
        seed: Of them.

    Returns:
        [B]
    """
    units, said = _Units(parameters, tokens, figure), law.at(parameters, tokens)
    n, free = len(figure), len(figure) - len(law)
    residual = np.log(figure / said) * np.sqrt(n / free) * stdtrit(free, 0.975) / ndtri(0.975)
    residual -= residual.mean()
    rng, start = np.random.default_rng(seed), units.scaled(law)
    drawn = (said * np.exp(residual[rng.integers(0, n, n)]) for _ in range(draws))
    return [units.law(units.fit(each, [start], huber)) for each in drawn]


class _Units:
    """Runs in units of their geometric means, in which a fit is well conditioned."""

    def __init__(self, parameters: Floats, tokens: Floats, figure: Floats) -> None:
        self.n, self.d, self.figure = map(middle, (parameters, tokens, figure))
        self.log_n, self.log_d = np.log(parameters / self.n), np.log(tokens / self.d)

    def starts(self, figure: Floats) -> list[Floats]:
        """The best of those in which the exponents are given: what is left is linear."""
        found: list[tuple[float, Floats]] = []
        for alpha, beta in product(_STARTS, _STARTS):
            terms = np.stack(self._powers(alpha, beta), 1) * self.figure / figure[:, None]
            (e, a, b), rest = nnls(terms, np.ones_like(figure))
            found.append((rest, np.array([e, a, alpha, b, beta])))
        return [theta for _, theta in sorted(found, key=lambda one: one[0])[:_POLISHED]]

    def fit(self, figure: Floats, starts: list[Floats], huber: float) -> Floats:
        """[5] E, A, alpha, B, beta: the best of what the starts lead to."""
        target = np.log(figure / self.figure)

        def residual(theta: Floats) -> Floats:
            e, a, alpha, b, beta = theta
            one, by_n, by_d = self._powers(alpha, beta)
            return np.asarray(np.log(e * one + a * by_n + b * by_d) - target)

        def slope(theta: Floats) -> Floats:
            e, a, alpha, b, beta = theta
            one, by_n, by_d = self._powers(alpha, beta)
            sides = [one, by_n, -a * by_n * self.log_n, by_d, -b * by_d * self.log_d]
            return np.asarray(np.stack(sides, 1) / (e * one + a * by_n + b * by_d)[:, None])

        found = [
            least_squares(
                residual,
                np.clip(start, _LOW + 1e-6, _HIGH - 1e-6),
                jac=slope,
                bounds=(_LOW, _HIGH),
                loss="huber",
                f_scale=huber,
                xtol=1e-10,
                ftol=1e-10,
                gtol=1e-10,
            )
            for start in starts
        ]
        return np.asarray(min(found, key=lambda one: float(one.cost)).x)

    def _powers(self, alpha: float, beta: float) -> tuple[Floats, Floats, Floats]:
        by_n = np.exp(-alpha * self.log_n)
        return np.ones_like(by_n), by_n, np.exp(-beta * self.log_d)

    def law(self, theta: Floats) -> Law:
        """With parameters and tokens counted one by one."""
        e, a, alpha, b, beta = theta.tolist()
        a, b = a * self.n**alpha, b * self.d**beta
        return Law(self.figure * e, self.figure * a, alpha, self.figure * b, beta)

    def scaled(self, law: Law) -> Floats:
        """The inverse of `law`."""
        a, b = law.a * self.n**-law.alpha, law.b * self.d**-law.beta
        return np.array(
            [law.floor / self.figure, a / self.figure, law.alpha, b / self.figure, law.beta]
        )


def middle(values: npt.ArrayLike) -> float:
    """The geometric mean.

    Examples:
        >>> round(middle([1.0, 100.0]), 6)
        10.0
    """
    return float(np.exp(np.mean(np.log(np.asarray(values, np.float64)))))


def told(law: Law, parameters: Floats, tokens: Floats) -> Iterator[tuple[str, float]]:
    """The numbers that a law is told by.

    Args:
        law: Fitted, or of a draw.
        parameters: [n] N of the runs.
        tokens: [n] D of them.
    """
    n, d = middle(parameters), middle(tokens)
    here = float(law.at(n, d))
    yield from zip(("E", "A", "alpha", "B", "beta"), law, strict=True)
    yield "growth", law.growth
    yield "twice_parameters", float(law.at(2 * n, d)) - here
    yield "twice_tokens", float(law.at(n, 2 * d)) - here
