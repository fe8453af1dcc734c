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
    for one in fits:
        row, column = rows.index(name_of(one.series)), columns.index(one.series.family)
        _draw_one(places[row, column], one, axis)
        if not row:
            places[row, column].legend(title=axis.by, fontsize=8, title_fontsize=8, framealpha=0.6)
    for row, name in zip(places, rows, strict=True):
        row[0].set_ylabel(name)
        if name != LOSS:  # losses of different objectives are of different things
            _level(row)
    for at, name in zip(places[0], columns, strict=True):
        at.set_title(name, fontsize=11)
    ticks = levels(np.concatenate([axis.of(one.series) for one in fits]))
    for at in places.flat:
        at.set_xscale("log")
        at.set_xticks(_apart(ticks), [short(x) for x in _apart(ticks)])
        at.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    for at in places[-1]:
        at.set_xlabel(axis.x)
    save_figure(picture, path)


def short(number: float) -> str:
    """A large number in two digits.

    Examples:
        >>> short(61_234), short(248_720), short(2_233_116)
        ('61k', '250k', '2.2M')
    """
    rounded = float(f"{number:.2g}")
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if rounded >= unit:
            return f"{rounded / unit:g}{name}"
    return f"{rounded:g}"


def name_of(series: Series) -> str:
    """What a series tells, for a row of a figure or table."""
    if series.k is None:
        return series.figure
    return f"{series.figure} of {series.results}, k = {shown_k(series.k)}"


def _draw_one(at: Any, one: Fit, axis: _Axis) -> None:  # noqa: ANN401 -- matplotlib's
    s, x = one.series, axis.of(one.series)
    for i, level in enumerate(levels(axis.lines(s))):
        here = np.isclose(axis.lines(s), level, rtol=0.1)
        colour, order = COLOURS[i % len(COLOURS)], np.argsort(x[here])
        at.plot(
            *(x[here][order], s.value[here][order]),
            color=colour,
            marker=MARKERS[i % len(MARKERS)],
            markersize=4.5,
            linestyle="none" if one.law else ":",
            linewidth=1,
            label=short(float(np.median(axis.lines(s)[here]))),
        )
        if one.law is not None:
            fine = np.geomspace(x.min(), x.max(), _FINE)
            at.plot(fine, s.shown(_along(one.law, axis, fine, level)), color=colour, lw=1.2)
    at.grid(visible=True, alpha=0.25)


def _along(law: Law, axis: _Axis, x: Floats, level: float) -> Floats:
    return law.at(level, x) if axis is _TOKENS else law.at(x, level)


def _level(row: Sequence[Any]) -> None:
    """One scale for the axes of a row, of those that hold anything."""
    heights = [at.get_ylim() for at in row if at.lines]
    for at in row:
        at.set_ylim(min(low for low, _ in heights), max(high for _, high in heights))


def _apart(ticks: Sequence[float]) -> list[float]:
    """Those that have room: families have sizes of their own."""
    found: list[float] = []
    for tick in ticks:
        if not found or tick > 1.8 * found[-1]:
            found.append(tick)
    return found
