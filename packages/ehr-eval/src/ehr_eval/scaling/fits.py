"""The laws of a study: one for each family and figure, with what the bootstrap says of them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ehr_eval.scaling.config import ScalingConfig
from ehr_eval.scaling.law import Floats, Law, bootstrap, fit_law, told, too_few
from ehr_eval.scaling.points import LOSS

_BOUNDS = (2.5, 97.5)


class Series(NamedTuple):
    """The runs of a family, by one figure."""

    family: str
    results: str | None
    figure: str
    k: int | None
    parameters: Floats
    tokens: Floats
    value: Floats

    @property
    def lost(self) -> Floats:
        """What a law is fitted to, of which less is better: a loss, or what a share lacks to 1."""
        return self.value if self.figure == LOSS else 1 - self.value

    def shown(self, lost: Floats) -> Floats:
        """The inverse of `lost`."""
        return lost if self.figure == LOSS else 1 - lost


class Number(NamedTuple):
    """One that a law is told by, with its interval where draws were asked for."""

    value: float
    lower: float | None = None
    upper: float | None = None


class Fit(NamedTuple):
    """One series with its law."""

    series: Series
    law: Law | None
    numbers: dict[str, Number]
    reason: str | None
    """Why there is no law."""


def series_of(points: Sequence[dict[str, Any]]) -> list[Series]:
    """Points by family, results, figure and k, in the order in which they come."""
    found: dict[tuple[str, str | None, str, int | None], list[dict[str, Any]]] = {}
    for row in points:
        key = row["family"], row["results"], row["figure"], row["k"]
        found.setdefault(key, []).append(row)
    return [
        Series(*key, *(_column(rows, name) for name in ("parameters", "tokens", "value")))
        for key, rows in found.items()
    ]


def _column(rows: Sequence[dict[str, Any]], name: str) -> Floats:
    return np.array([row[name] for row in rows], np.float64)


def fit(series: Series, config: ScalingConfig) -> Fit:
    """The law of a series, where it has enough runs."""
    n, d, lost = series.parameters, series.tokens, series.lost
    reason = too_few(n, d)
    if reason is None and lost.min() <= 0:
        reason = "a run is at the best possible or beyond, of which the law knows nothing"
    if reason is not None:
        return Fit(series, None, {}, reason)
    law = fit_law(n, d, lost, huber=config.huber)
    drawn = bootstrap(law, n, d, lost, huber=config.huber, draws=config.draws, seed=config.seed)
    others = [dict(told(each, n, d)) for each in drawn]
    numbers = {
        name: Number(value, *_interval([of[name] for of in others]))
        for name, value in told(law, n, d)
    }
    misfit = np.log(lost / law.at(n, d))
    numbers["misfit"] = Number(float(np.sqrt(np.mean(misfit**2))))
    return Fit(series, law, numbers, None)


def _interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    if not values:
        return None, None
    low, high = np.percentile(values, _BOUNDS).tolist()
    return low, high


def fit_rows(fits: Sequence[Fit]) -> list[dict[str, Any]]:
    """In the columns of `fits.csv`: a row a number of a law, or one that says why there is none."""
    rows: list[dict[str, Any]] = []
    for s, law, numbers, reason in fits:
        about = {"family": s.family, "results": s.results, "figure": s.figure, "k": s.k}
        about |= {"runs": len(s.value)}
        for name, number in numbers.items():
            rows.append({**about, "number": name, **number._asdict(), "reason": None})
        if law is None:
            none = dict.fromkeys(("number", *Number._fields))
            rows.append({**about, **none, "reason": reason})
    return rows
