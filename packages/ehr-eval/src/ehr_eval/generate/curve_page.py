"""The plot and the page of risks along a record."""

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from ehr_eval.generate.zeroshot_config import ZeroshotConfig
from ehr_eval.tasks.files import TaskFile
from ehr_tracking.config import to_dict
from ehr_tracking.report import COLOURS, figure, html_page, new_figure, save_figure, table

_HOUR, _DAY = 3_600_000_000, 86_400_000_000
_FEW_DAYS = 7
"""Below so many the axis counts hours."""
_LINES = {
    "outcome": ("#c92a2a", "-", 1.6),
    "begin": ("#868e96", "--", 0.9),
    "end": ("#868e96", ":", 1.1),
}
"""Kind of mark -> colour, line and width."""
_SAID = {"outcome": "the outcome came", "begin": "a stay began", "end": "a stay ended"}
_LEGIBLE = 60
"""Points of which each gets a marker."""


class Mark(NamedTuple):
    """Something that came."""

    time: int
    """Microseconds since 1970."""
    kind: str
    """outcome, begin or end."""
    code: str


def write_page(
    directory: Path,
    found: pl.DataFrame,
    tasks: Mapping[str, TaskFile],
    marks: Mapping[str, Sequence[Mark]],
    config: ZeroshotConfig,
) -> None:
    """Write plots/<task>.png and report.html.

    Args:
        directory: Of the curve.
        found: task, subject_id, prediction_time, risk, lower, upper, tokens.
        tasks: By name.
        marks: What came, by task.
        config: As it was run.
    """
    subject = found["subject_id"][0]
    first, last = found["prediction_time"].dt.epoch("us").sort()[[0, -1]].to_list()
    body = [
        f"<p>Of subject {subject}, from {_shown(first)} to {_shown(last)}. Each point is told by what was "
        "known at its time; lines mark what came, known to no point before it.</p>"
    ]
    for name, task in tasks.items():
        mine = found.filter(task=name)
        path = directory / "plots" / f"{name}.png"
        _plot(path, mine, task, marks[name], config)
        body += _section(path, mine, task, marks[name], config)
    body.append(f"<h2>What was run</h2><pre>{escape(json.dumps(to_dict(config), indent=1))}</pre>")
    (directory / "report.html").write_text(
        html_page(f"Risk of subject {subject}", body), encoding="utf-8"
    )


def _section(
    path: Path, mine: pl.DataFrame, task: TaskFile, marks: Sequence[Mark], config: ZeroshotConfig
) -> Iterator[str]:
    share = f"{config.confidence:.0%}"
    yield f"<h2>{escape(task.name)}</h2><p>{escape(task.doc)}</p>"
    by = f" of {config.estimator}, {config.draw.samples} futures a point"
    yield figure(path, f"The shade is the {share} interval{by}").replace(
        "<figure>", '<figure style="max-width:100%">'
    )
    if marks:
        yield table(
            [{"time": _shown(m.time), "what": _SAID[m.kind], "code": m.code} for m in marks]
        )
    columns = ["prediction_time", "risk", "lower", "upper", "tokens"]
    rows = mine.select(pl.col("prediction_time").cast(pl.String), *columns[1:]).to_dicts()
    yield f"<details><summary>All {len(rows)} points</summary>{table(rows)}</details>"


def _plot(
    path: Path, mine: pl.DataFrame, task: TaskFile, marks: Sequence[Mark], config: ZeroshotConfig
) -> None:
    time = mine["prediction_time"].dt.epoch("us").to_numpy()
    unit, name = (_HOUR, "hours") if time[-1] - time[0] < _FEW_DAYS * _DAY else (_DAY, "days")
    x = (time - time[0]) / unit
    risk, lower, upper = (mine[c].to_numpy().astype(float) for c in ("risk", "lower", "upper"))
    drawing, axes = new_figure((9.2, 4.0))
    axes.fill_between(
        x,
        lower,
        upper,
        color=COLOURS[0],
        alpha=0.2,
        lw=0,
        label=f"{config.confidence:.0%} interval",
    )
    marker = "o" if len(x) <= _LEGIBLE else None
    axes.plot(x, risk, color=COLOURS[0], marker=marker, markersize=3.5, lw=1.6, label="risk")
    told = set()
    for mark in marks:
        colour, line, width = _LINES[mark.kind]
        label = None if mark.kind in told else _SAID[mark.kind]
        told.add(mark.kind)
        axes.axvline((mark.time - time[0]) / unit, color=colour, ls=line, lw=width, label=label)
    highest = np.nanmax([*risk, *upper, 0.0])
    axes.set(
        title=task.name,
        xlabel=f"{name} from {_shown(int(time[0]))} on",
        ylabel=_wait(task),
        ylim=(0, min(1.0, max(0.02, 1.08 * highest))),
    )
    axes.grid(visible=True, alpha=0.25)
    drawing.legend(loc="outside right upper", frameon=False)
    save_figure(drawing, path)


def _wait(task: TaskFile) -> str:
    return "risk" if task.horizon_days is None else f"risk within {task.horizon_days:g} days"


def _shown(micro: int) -> str:
    return str(np.datetime64(micro, "us").astype("datetime64[m]")).replace("T", " ")
