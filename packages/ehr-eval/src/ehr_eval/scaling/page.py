"""What a study says: its tables, and the page that a person reads."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ehr_eval.compare.shown import scores_table
from ehr_eval.protocol.shown import lineage
from ehr_eval.scaling.config import ScalingConfig
from ehr_eval.scaling.fits import Fit
from ehr_eval.scaling.law import FLATTEST, STEEPEST
from ehr_eval.scaling.plots import AXES, draw, name_of
from ehr_eval.scaling.points import LOSS
from ehr_tracking.manifest import Source
from ehr_tracking.report import figure, html_page, markdown_table, table

_LEGEND = (
    "Points are runs, lines the law E + A / N^alpha + B / D^beta of N parameters and D tokens (Hoffmann et al. 2022), fitted "
    "to the loss, and to what the share lacks to 1, by Huber's loss of differences of logarithms. Losses are of the tuning split, "
    "in nats a target, the least of a run: those of next tokens (clm) are of the same tokens for every kind, those of masked "
    "tokens (mlm) of others, which tell nothing beside them. A share is that of the way from chance (0) to the best possible "
    "(1) by AUROC on the held-out split, a mean over tasks."
)
_CARE = (
    "Brackets are 95% intervals of a bootstrap over residuals: how far the noise of single runs moves a law, were it the true "
    "one. They do not cover the choice of patients, of learning rates, nor whether the law is the right one; an exponent whose "
    f"interval reaches {FLATTEST:g} or {STEEPEST:g}, where exponents are held, is not told by these runs. Tokens of a second "
    "pass over the data count again."
)
_EXPLAINED = (
    "E, alpha and beta of a share are of what it lacks to 1. twice the parameters, twice the tokens: by how much the figure changes from the middle of the study (geometric means) to "
    "twice that. growth: at the least loss for a given compute (6ND), parameters grow as its power of that. misfit: root mean "
    "square of the logarithms of points over law."
)
_NUMBERS = {
    "E": "E",
    "alpha": "alpha",
    "beta": "beta",
    "growth": "growth",
    "twice_parameters": "twice the parameters",
    "twice_tokens": "twice the tokens",
    "misfit": "misfit",
}
"""Of a law, those that a table has, and what they are called there; A and B stand in fits.csv."""
_TWICE = ("twice_parameters", "twice_tokens")


def law_rows(fits: Sequence[Fit]) -> list[dict[str, object]]:
    """A row a family and figure: its law, or why there is none."""
    return [
        {"family": one.series.family, "figure": name_of(one.series), "runs": len(one.series.value)}
        | {heading: _number(one, name) for name, heading in _NUMBERS.items()}
        | {"why not": one.reason}
        for one in fits
    ]


def run_rows(points: Sequence[Mapping[str, Any]], fits: Sequence[Fit]) -> list[dict[str, object]]:
    """A row a run, by family, parameters and tokens; a column a figure."""
    order = list(dict.fromkeys(row["family"] for row in points))
    points = sorted(
        points, key=lambda row: (order.index(row["family"]), row["parameters"], row["tokens"])
    )
    names = [name_of(one.series) for one in fits]
    of = {_key(one.series._asdict()): name_of(one.series) for one in fits}
    found: dict[str, dict[str, object]] = {}
    for row in points:
        about = {"family": row["family"], "model": row["model"]}
        about |= {"parameters": row["parameters"], "tokens": row["tokens"]}
        line = found.setdefault(row["model"], about | dict.fromkeys(names))
        line[of[_key(row)]] = f"{row['value']:.3f}"
    return list(found.values())


def write_tables(path: Path, points: Sequence[Mapping[str, Any]], fits: Sequence[Fit]) -> None:
    """Write tables.md: the laws, then every run."""
    parts = ["# Scaling", "## Laws", markdown_table(_known(law_rows(fits))), _EXPLAINED, _CARE]
    parts += ["## Runs", markdown_table(run_rows(points, fits)), _LEGEND]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def write_page(
    directory: Path,
    points: Sequence[Mapping[str, Any]],
    fits: Sequence[Fit],
    config: ScalingConfig,
    inputs: Mapping[str, Source],
) -> None:
    """Write page.html and plots/.

    Args:
        directory: Of the artifact.
        points: Of the runs.
        fits: One a family and figure.
        config: Which head the shares are of.
        inputs: What was read.
    """
    body = [
        f"<p>{escape(_LEGEND)} Head: {escape(config.head)}.</p>",
        *_figures(directory / "plots", fits),
        "<h2>Laws</h2>",
        scores_table(_known(law_rows(fits))),
        f"<p>{escape(_EXPLAINED)}</p>",
        f'<p class="note">{escape(_CARE)}</p>',
        "<h2>Runs</h2>",
        table(run_rows(points, fits)),
        "<p>The same as tables: points.csv, fits.csv (with A and B), tables.md.</p>",
        "<h2>Lineage</h2>",
        lineage(inputs),
    ]
    (directory / "page.html").write_text(html_page("Scaling", body), encoding="utf-8")


def _figures(directory: Path, fits: Sequence[Fit]) -> Iterator[str]:
    for name, axis in AXES.items():
        path = directory / f"{name}.png"
        draw(path, fits, axis)
        yield figure(path, f"Against {axis.x}, by {axis.by}")


def _number(one: Fit, name: str) -> str | None:
    if name not in one.numbers:
        return None
    value, *bounds = one.numbers[name]
    # of the share, not of what it lacks
    sign = -1 if name in _TWICE and one.series.figure != LOSS else 1
    numbers = [sign * value, *sorted(sign * each for each in bounds if each is not None)]
    digits = "+.3f" if name in _TWICE else ".3f"
    shown = [f"{round(each, 3) + 0.0:{digits}}" for each in numbers]  # no minus before 0
    return shown[0] if len(shown) == 1 else f"{shown[0]} ({shown[1]}, {shown[2]})"


def _known(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Without the column of reasons where there are none."""
    if any(row["why not"] for row in rows):
        return rows
    return [{k: v for k, v in row.items() if k != "why not"} for row in rows]


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("results", "figure", "k"))
