"""One subject's record as a page, each event with a bar for what it adds."""

from collections.abc import Iterator
from html import escape
from pathlib import Path

import polars as pl

from ehr_eval.explain.integrate import Attributed
from ehr_tracking.report import html_page, table

_STYLE = """<style>
.event{display:grid;grid-template-columns:minmax(0,1fr) 15em 5.5em;gap:.2em .8em;align-items:center;
padding:.15em 0;border-bottom:1px solid #eef2f6;overflow-wrap:anywhere}
.event small{color:#566;display:block}
.bar{position:relative;height:.9em;background:linear-gradient(#aab6c2,#aab6c2) center/1px 100% no-repeat #f6f8fa}
.bar i{position:absolute;top:0;bottom:0}.up i{left:50%;background:#d9480f}.down i{right:50%;background:#1f6feb}
.value{text-align:right;font-variant-numeric:tabular-nums}
details{margin:.3em 0}summary{cursor:pointer;background:#f3f6f9;padding:.3em .6em;display:flex;
justify-content:space-between;gap:1em}summary span{font-variant-numeric:tabular-nums}
.legend b{color:#d9480f}.legend b+b{color:#1f6feb}
@media(max-width:600px){.event{grid-template-columns:minmax(0,1fr) 5em}.event>:first-child{grid-column:1/-1}}
</style>"""
_MOST = 15
"""Events that are shown first."""
_OPEN = 0.02
"""Days whose events add more than this share of all, by size, are shown open."""


def write_timeline(path: Path, found: pl.DataFrame, said: Attributed, what: str) -> None:
    """Write the page.

    Args:
        path: Where.
        found: The columns of `attributions.parquet`.
        said: What the model says, and of the baseline.
        what: Is explained.
    """
    events = _events(found)
    top = float(events["attribution"].abs().max() or 0) or 1.0  # type: ignore[arg-type]
    strongest = events.sort(pl.col("attribution").abs(), descending=True).head(_MOST)
    subject, moment = found.select("subject_id", "prediction_time").row(0)
    rows = [
        {"": "what the model says", "value": said.output},
        {"": "what it says of the baseline", "value": said.baseline},
        {"": "sum of what events add", "value": float(said.value.sum())},
        {"": "missed by the integral", "value": said.missed},
    ]
    body = [
        _STYLE,
        f"<p>Subject {subject}, up to {moment}: {events.height:,} events. Explained: {escape(what)}.</p>",
        '<p class="legend">A bar to the <b>right</b> raises what the model says, one to the <b>left</b> lowers it. '
        "Integrated gradients (Sundararajan et al., 2017): what the model goes by, not what causes what.</p>",
        table(rows),
        f"<h2>The {strongest.height} strongest events</h2>",
        *(_event(row, top, when=True) for row in strongest.iter_rows(named=True)),
        "<h2>The record</h2>",
        *_days(events, top),
    ]
    path.write_text(html_page(f"What a model goes by: subject {subject}", body), encoding="utf-8")


def _events(found: pl.DataFrame) -> pl.DataFrame:
    """One row an event: its tokens' attributions added up."""
    return found.group_by("event", maintain_order=True).agg(
        pl.col("time", "visit", "code", "description").first(),
        token=pl.col("token").str.join(" "),
        attribution=pl.col("attribution").sum(),
    )


def _days(events: pl.DataFrame, top: float) -> Iterator[str]:
    total = float(events["attribution"].abs().sum()) or 1.0
    dated = events.with_columns(day=pl.col("time").dt.date())
    for (day, visit), part in dated.group_by("day", "visit", maintain_order=True):
        name = "always known" if day is None else str(day)
        name += f", visit {visit}" if visit else ""
        added = float(part["attribution"].sum())
        is_open = " open" if float(part["attribution"].abs().sum()) > _OPEN * total else ""
        rows = "".join(_event(row, top, when=False) for row in part.iter_rows(named=True))
        yield (
            f"<details{is_open}><summary>{escape(name)} ({part.height:,})<span>{added:+.4f}</span></summary>"
            f"{rows}</details>"
        )


def _event(row: dict[str, object], top: float, *, when: bool) -> str:
    value = float(row["attribution"])  # type: ignore[arg-type]
    about = " · ".join(
        escape(str(x)) for x in (row["description"], row["time"] if when else None) if x is not None
    )
    width = 50 * abs(value) / top
    return (
        f'<div class="event"><div>{escape(str(row["token"]))}{f"<small>{about}</small>" if about else ""}</div>'
        f'<div class="bar {"up" if value > 0 else "down"}"><i style="width:{width:.1f}%"></i></div>'
        f'<div class="value">{value:+.4f}</div></div>'
    )
