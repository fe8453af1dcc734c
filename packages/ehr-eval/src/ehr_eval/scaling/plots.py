"""The figures of a study: loss and shares against tokens, and against parameters, with the laws."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ehr_eval.protocol.shown import shown_k
from ehr_eval.scaling.fits import Fit, Series
from ehr_eval.scaling.law import Floats, Law, levels
from ehr_eval.scaling.points import LOSS
from ehr_tracking.report import COLOURS, MARKERS, new_figure, save_figure

_FINE = 60
"""Points of a drawn law."""


class _Axis(NamedTuple):
    """What a figure is against, and what tells its lines apart."""

    x: str
    of: Callable[[Series], Floats]
    by: str
    lines: Callable[[Series], Floats]


_TOKENS = _Axis("tokens seen", lambda s: s.tokens, "parameters", lambda s: s.parameters)
_PARAMETERS = _Axis("parameters", lambda s: s.parameters, "tokens", lambda s: s.tokens)
AXES: Mapping[str, _Axis] = {"tokens": _TOKENS, "parameters": _PARAMETERS}
"""File -> what it is against."""


def draw(path: Path, fits: Sequence[Fit], axis: _Axis) -> None:
    """Save a figure: a column a family, a row a figure; points are runs, lines their law.

    Args:
        path: Of the PNG.
        fits: One a family and figure.
        axis: One of `AXES`.
    """
    columns = list(dict.fromkeys(one.series.family for one in fits))
    rows = list(dict.fromkeys(name_of(one.series) for one in fits))
    picture, first = new_figure((0.6 + 3.1 * len(columns), 0.7 + 2.3 * len(rows)))
    first.remove()
    places = picture.subplots(len(rows), len(columns), squeeze=False, sharex=True)
    lines = levels(np.concatenate([axis.lines(one.series) for one in fits]))
    for one in fits:
        at = places[rows.index(name_of(one.series)), columns.index(one.series.family)]
        _draw_one(at, one, axis, lines)
    for row, name in zip(places, rows, strict=True):
        row[0].set_ylabel(name)
        _share_heights([at for at in row if at.lines], of_loss=name == LOSS)
    for at, name in zip(places[0], columns, strict=True):
        at.set_title(name, fontsize=11)
    for at in places[-1]:
        at.set_xlabel(axis.x)
    named = {label: line for at in places.flat for line, label in _legend(at)}
    ordered = sorted(named, key=lambda label: float(label.replace(",", "")))
    picture.legend(
        *([named[label] for label in ordered], ordered),
        title=axis.by,
        loc="outside right upper",
        frameon=False,
    )
    save_figure(picture, path)


def name_of(series: Series) -> str:
    """What a series tells, for a row of a figure or table."""
    if series.k is None:
        return series.figure
    return f"{series.figure} of {series.results}, k = {shown_k(series.k)}"


def _draw_one(at: Any, one: Fit, axis: _Axis, lines: Sequence[float]) -> None:  # noqa: ANN401 -- matplotlib's
    s, x = one.series, axis.of(one.series)
    for i, level in enumerate(lines):
        here = np.isclose(axis.lines(s), level, rtol=0.1)
        if not here.any():
            continue
        colour, order = COLOURS[i % len(COLOURS)], np.argsort(x[here])
        style = {"color": colour, "marker": MARKERS[i % len(MARKERS)], "markersize": 4.5}
        at.plot(
            *(x[here][order], s.value[here][order]),
            **style,
            linestyle="none" if one.law else ":",
            linewidth=1,
            label=f"{np.median(axis.lines(s)[here]):,.0f}",
        )
        if one.law is not None:
            fine = np.geomspace(x.min(), x.max(), _FINE)
            at.plot(fine, s.shown(_along(one.law, axis, fine, level)), color=colour, lw=1.2)
    at.set_xscale("log")
    at.grid(visible=True, alpha=0.25)


def _along(law: Law, axis: _Axis, x: Floats, level: float) -> Floats:
    return law.at(level, x) if axis is _TOKENS else law.at(x, level)


def _share_heights(row: Sequence[Any], *, of_loss: bool) -> None:
    """Shares have one scale over families; losses of different objectives are of different things."""
    if of_loss or not row:
        return
    low, high = (f(at.get_ylim()[i] for at in row) for i, f in enumerate((min, max)))
    for at in row:
        at.set_ylim(low, high)


def _legend(at: Any) -> list[tuple[Any, str]]:  # noqa: ANN401 -- matplotlib's
    return list(zip(*at.get_legend_handles_labels(), strict=True))
