"""Runs beside each other: a table, what their settings differ in, plots, one page."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ehr_tracking.comparison.records import Points, Record, read_records
from ehr_tracking.errors import UserError
from ehr_tracking.experiments.directions import best, direction
from ehr_tracking.files import PathLike, write_whole
from ehr_tracking.report import figure, html_page, line_plot, table

_MOST = 300
"""Points of a drawn line; each is a mean over its stretch."""


def compare(records: Sequence[Record]) -> list[dict[str, Any]]:
    """A row a run: what is known of it, and its best value of each metric."""
    facts = dict.fromkeys(k for r in records for k, v in r.facts.items() if v is not None)
    return [
        {
            "run": r.name,
            **{k: r.facts.get(k) for k in facts},
            **{m: r.best(m) for m in _judged(records)},
        }
        for r in records
    ]


def differences(records: Sequence[Record]) -> list[dict[str, Any]]:
    """A row for each setting that is not the same in all runs; None where a run has no such setting."""
    keys = dict.fromkeys(k for r in records for k in r.settings)
    values = {key: [r.settings.get(key) for r in records] for key in keys}
    return [
        {"setting": key, **dict(zip([r.name for r in records], row, strict=True))}
        for key, row in values.items()
        if any(value != row[0] for value in row)
    ]


def best_runs(records: Sequence[Record]) -> list[dict[str, Any]]:
    """A row for each metric of which it is known which way is better: the best run, and its value."""
    rows = []
    for metric in _judged(records):
        way = direction(metric)
        if way and (top := best([(r.name, r.best(metric)) for r in records], way)):
            better = "less" if way == "min" else "more"
            rows.append(
                {"metric": metric, "run": ", ".join(top[0]), "value": top[1], "better": better}
            )
    return rows


def plot(records: Sequence[Record], metric: str, path: Path) -> None:
    """Draw a metric of several runs as PNG.

    Raises:
        UserError: If no run has it.
    """
    series = {r.name: _smooth(r.curves[metric]) for r in records if r.curves.get(metric)}
    if not series:
        known = ", ".join(_metrics(records)) or "none"
        raise UserError(f"no run has {metric}; there are: {known}")
    x = "step" if any(r.x == "step" for r in records) else "epoch"
    line_plot(path, series, title=f"{metric} by {x}", x=x, y=metric)


def write_page(runs: Sequence[PathLike], out: PathLike, *, overwrite: bool = False) -> Path:
    """Write one self-contained HTML page of several runs.

    Args:
        runs: Their directories.
        out: The file.
        overwrite: Replace a file that is there.

    Returns:
        `out`.

    Raises:
        UserError: If something is no run, or `out` is there.
    """
    out = free_file(out, overwrite=overwrite)
    records = read_records(runs)
    body = [
        table(compare(records)),
        "<p>Metrics: the best value of each run, by its own direction (the last where none is known); "
        "train_loss: the mean over the last tenth.</p>",
        "<h2>Best run by metric</h2>",
        table(best_runs(records)),
        "<h2>Settings that differ</h2>",
        table(differences(records)),
        "<h2>Curves</h2>",
    ]
    with TemporaryDirectory() as scratch:
        for i, metric in enumerate(_metrics(records)):
            path = Path(scratch, f"{i}.png")
            plot(records, metric, path)
            body.append(figure(path, metric))
    for record in records:
        summary = record.path / "SUMMARY.txt"
        if summary.is_file():
            text = escape(summary.read_text(encoding="utf-8"))
            body += [f"<h2>{escape(record.name)}</h2>", f"<pre>{text}</pre>"]
    write_whole(out, html_page("Runs side by side", body))
    return out


def free_file(out: PathLike, *, overwrite: bool) -> Path:
    """A path where a file may be written; its folder is made.

    Raises:
        UserError: If something is there that may not be replaced.
    """
    out = Path(out)
    if out.exists() and (out.is_dir() or not overwrite):
        raise UserError(f"{out} exists; choose another path or pass --overwrite")
    out.parent.mkdir(parents=True, exist_ok=True)
    return out


def _metrics(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(m for r in records for m in r.curves))


def _judged(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(m for r in records for m in r.judged))


def _smooth(points: Points) -> Points:
    """At most `_MOST` means over stretches of a curve."""
    if len(points) <= _MOST:
        return points
    size = -(-len(points) // _MOST)
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in p) / len(p), sum(y for _, y in p) / len(p)) for p in parts]
