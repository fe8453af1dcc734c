"""The page of `shap/1`: importance, and plots whose spots stand for several subjects each. n rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.stats import rankdata

from ehr_eval.explain.config import ShapConfig
from ehr_tracking.report import html_page, table

Floats = npt.NDArray[np.float64]
_BINS = 40
_WIDE, _HIGH = 420, 20
_STYLE = """<style>
.spots{display:grid;grid-template-columns:minmax(0,22em) minmax(0,34em);gap:.1em 1em;align-items:center;font-size:.9em}
.spots div{text-align:right;overflow-wrap:anywhere}
@media(max-width:600px){.spots{grid-template-columns:minmax(0,1fr)}.spots div{text-align:left;margin-top:.5em}}
</style>"""


@dataclass(frozen=True, slots=True)
class Spots:
    """Rows of one feature by what it adds, put together in bins."""

    feature: str
    at: Floats
    """What it adds, the middle of each bin."""
    rows: npt.NDArray[np.int64]
    """In each."""
    high: Floats
    """Mean rank of the feature's value there, 0 low to 1 high."""
    hidden: int
    """Rows in bins of too few subjects."""

    @classmethod
    def of(
        cls, feature: str, added: Floats, value: Floats, who: npt.NDArray[np.int64], least: int
    ) -> Self:
        """Bin rows; a bin of fewer than `least` subjects is hidden.

        Args:
            feature: Its name.
            added: [n]
            value: [n] of the feature.
            who: [n] subjects.
            least: Subjects of a bin that is shown.

        Examples:
            >>> added = np.array([0.0, 0.0, 0.0, 1.0])
            >>> spots = Spots.of("age", added, added, np.array([1, 2, 3, 4]), 2)
            >>> spots.rows.tolist(), spots.hidden
            ([3], 1)
        """
        low, top = float(added.min()), float(added.max())
        edges = np.linspace(low, top if top > low else low + 1, _BINS + 1)
        place = np.clip(np.searchsorted(edges, added, side="right") - 1, 0, _BINS - 1)
        rank = (rankdata(value) - 1) / max(1, len(value) - 1)
        shown = [b for b in range(_BINS) if len(np.unique(who[place == b])) >= least]
        rows = np.array([(place == b).sum() for b in shown], np.int64)
        high = np.array([rank[place == b].mean() for b in shown], np.float64)
        middle = (edges[:-1] + edges[1:]) / 2
        return cls(feature, middle[shown], rows, high, int(len(added) - rows.sum()))


class Told(NamedTuple):
    """What one head goes by."""

    head: str
    selected: dict[str, float]
    importance: pl.DataFrame
    """feature, mean_absolute, mean, direction, rows; by the first, falling."""
    spots: list[Spots]
    """Of the features that are shown."""
    subjects: pl.DataFrame
    """subject_id, prediction_time, feature, value, shap of who was asked for."""


def write_shap_page(
    path: Path, task: str, features: str, told: Sequence[Told], config: ShapConfig
) -> None:
    """Write the page.

    Args:
        path: Where.
        task: Its name.
        features: Their name.
        told: Of each head.
        config: What is shown.
    """
    body = [
        f"<p>What each of the features {escape(features)} adds to the log-odds that a head gives held-out rows of "
        f"{escape(task)}: SHAP values (Lundberg and Lee, 2017), exact. They say what the head goes by, not what causes "
        f"what.</p><p>A spot stands for {config.least} subjects or more: the wider, the more rows; orange where the "
        "feature is high, blue where it is low.</p>"
    ]
    for each in told:
        point = ", ".join(f"{name} = {value:g}" for name, value in each.selected.items())
        hidden = sum(spots.hidden for spots in each.spots)
        body.append(f"<h2>{escape(each.head)} ({escape(point)})</h2>")
        body.append(_plot(each.spots))
        if hidden:
            body.append(f"<p>{hidden:,} rows are in spots of fewer subjects, and not drawn.</p>")
        body.append(table(each.importance.head(config.shown).to_dicts()))
        for (subject, time), part in each.subjects.group_by(
            "subject_id", "prediction_time", maintain_order=True
        ):
            body.append(f"<h3>Subject {subject} at {time}</h3>")
            body.append(table(part.select("feature", "value", "shap").to_dicts()))
    path.write_text(html_page(f"What heads go by: {task}", body), encoding="utf-8")


def _plot(spots: Sequence[Spots]) -> str:
    """A row a feature: its name, and its spots on one scale."""
    if not any(len(s.at) for s in spots):
        return "<p>Too few subjects to draw.</p>"
    reach = max(float(np.abs(s.at).max()) for s in spots if len(s.at)) or 1.0
    most = max(int(s.rows.max()) for s in spots if len(s.at))
    rows = [_row(escape(s.feature), "".join(_circles(s, reach, most))) for s in spots]
    ends = (("start", 0, -reach), ("middle", _WIDE / 2, 0.0), ("end", _WIDE, reach))
    scale = "".join(
        f'<text x="{x:g}" y="14" text-anchor="{anchor}" font-size="12" fill="#566">{value:+.3g}</text>'
        for anchor, x, value in ends
    )
    return f'{_STYLE}<div class="spots">{"".join(rows)}{_row("added to the log-odds", scale)}</div>'


def _row(name: str, inside: str) -> str:
    middle = f'<path d="M{_WIDE / 2:g} 0V{_HIGH}" stroke="#aab6c2"/>' if "<circle" in inside else ""
    return f'<div>{name}</div><svg viewBox="0 0 {_WIDE} {_HIGH}">{middle}{inside}</svg>'


def _circles(each: Spots, reach: float, most: int) -> Iterator[str]:
    for at, rows, high in zip(each.at, each.rows, each.high, strict=True):
        radius = 2 + 7 * float(np.sqrt(rows / most))
        x = _WIDE / 2 + at / reach * (_WIDE / 2 - 10)
        yield (
            f'<circle cx="{x:.1f}" cy="{_HIGH / 2:g}" r="{radius:.1f}" fill="{_colour(float(high))}" '
            f'fill-opacity=".75"><title>{rows:,} rows at {at:+.3g}</title></circle>'
        )


def _colour(high: float) -> str:
    """From blue (0) to orange (1).

    Examples:
        >>> _colour(0.0), _colour(1.0)
        ('#1f6feb', '#d9480f')
    """
    low, top = (0x1F, 0x6F, 0xEB), (0xD9, 0x48, 0x0F)
    return "#" + "".join(f"{round(a + (b - a) * high):02x}" for a, b in zip(low, top, strict=True))
