"""What people look at: PNG plots, self-contained HTML pages, tables in a terminal."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

_CSS = """
body{font:15px/1.5 system-ui,sans-serif;max-width:78em;margin:2em auto;padding:0 1em;color:#1b2733}
h1{font-size:1.6em}h2{font-size:1.25em;margin-top:2em;border-bottom:1px solid #d5dde5}
table{border-collapse:separate;border-spacing:0;margin:1em 0;font-size:.93em;font-variant-numeric:tabular-nums}
th,td{padding:.25em .65em;border-bottom:1px solid #e3e9ef;text-align:left}
.number{text-align:right}th{background:#f3f6f9}
.wide{overflow-x:auto;background:linear-gradient(90deg,#fff 50%,#fff0) 0 0/3em 100% no-repeat local,
linear-gradient(270deg,#fff 50%,#fff0) 100% 0/3em 100% no-repeat local,
linear-gradient(90deg,#0003,#0000) 0 0/1em 100% no-repeat,linear-gradient(270deg,#0003,#0000) 100% 0/1em 100% no-repeat}
.named td:first-child,.named th:first-child{position:sticky;left:0;min-width:8em}.named td:first-child{background:#fff}
.named td:last-child{white-space:nowrap}
figure{display:inline-block;margin:.5em 1em .5em 0;max-width:47%;min-width:min(24em,100%);overflow-x:auto}
h2+figure,.wide+figure,.named+figure{max-width:min(100%,54em)}
figure img,figure svg{max-width:100%}figure img{min-width:35em}pre{white-space:pre-wrap;overflow-wrap:anywhere}figcaption{color:#566;font-size:.9em}
.note{background:#fff7e0;border-left:4px solid #e0a800;padding:.5em 1em}
code,pre{background:#f3f6f9;padding:.1em .3em;overflow-x:auto}code{overflow-wrap:anywhere}ul{padding-left:1.4em}
"""
COLOURS = ("#1f6feb", "#d9480f", "#2b8a3e", "#862e9c", "#0b7285", "#a61e4d", "#5f3dc4", "#495057")
"""Distinguishable by brightness as well; the marker differs besides."""
MARKERS = "os^Dv*PX"
_LEGEND = 25
"""Most letters of a name in a legend."""


def line_plot(
    path: Path,
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    title: str,
    x: str,
    y: str,
    log_x: bool = False,
    bands: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    styles: Mapping[str, tuple[int, str]] | None = None,
) -> None:
    """Draw one line a series and save it as PNG.

    Args:
        path: Where; its folder is made.
        series: Legend -> (x, y) points in drawing order.
        title: Above the axes.
        x: Label of the horizontal axis.
        y: Label of the vertical axis.
        log_x: Logarithmic horizontal axis, by powers of two.
        bands: Legend -> (low, high) for each point of that series, drawn as a shade.
        styles: Legend -> (number of the colour, line style as matplotlib names it); by default
            each series has a colour of its own.
    """
    figure, axes = new_figure((7.6, 4.0))
    for i, (name, points) in enumerate(series.items()):
        number, line = (styles or {}).get(name, (i, "-"))
        colour = COLOURS[number % len(COLOURS)]
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        marker = MARKERS[i % len(MARKERS)] if len(points) <= 30 else None
        axes.plot(
            *(xs, ys),
            linestyle=line,
            label=_legend(name),
            color=colour,
            marker=marker,
            markersize=5,
            lw=1.6,
        )
        if bands and name in bands:
            low, high = [b[0] for b in bands[name]], [b[1] for b in bands[name]]
            axes.fill_between(xs, low, high, color=colour, alpha=0.09, linewidth=0)
    if log_x:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
    elif all(float(p[0]).is_integer() for points in series.values() for p in points):
        axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(visible=True, alpha=0.25)
    if series:
        figure.legend(loc="outside right upper", frameon=False)  # within, it may cover a line
    save_figure(figure, path)


def _legend(name: str) -> str:
    """A name of which so much is left that the axes have room beside it: how it begins, and more of how it ends.

    Examples:
        >>> _legend("behrt"), _legend("a/very/long/path/that/leads/to/runs/behrt")
        ('behrt', 'a/very/l…s/to/runs/behrt')
    """
    return name if len(name) <= _LEGEND else f"{name[: _LEGEND // 3]}…{name[-(_LEGEND * 3 // 5) :]}"


def new_figure(size: tuple[float, float] = (6.4, 4.0)) -> tuple[Any, Any]:
    """A figure of matplotlib that needs no display, and its axes.

    Args:
        size: Inches, wide and high.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def save_figure(figure: Any, path: Path) -> None:  # noqa: ANN401 -- of matplotlib
    """Save a figure as PNG; the same figure gives the same bytes.

    Args:
        figure: From `new_figure`.
        path: Where; its folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    # without date and version
    figure.savefig(partial, format="png", dpi=120, metadata={"Software": None})
    partial.replace(path)


def bar_plot(bars: Sequence[tuple[str, int]], *, x: str, y: str) -> str:
    """An upright bar for each count, as an inlined `<figure>` of SVG: it needs no library.

    Args:
        bars: Name below the bar, and its count (not negative).
        x: What the names are.
        y: What is counted.

    Examples:
        >>> plot = bar_plot([("0 - 1", 3), ("2 - 3", 12_000)], x="tokens", y="subjects")
        >>> plot.count("<rect"), "12,000" in plot
        (2, True)
    """
    wide, high, top = 84, 200, max((n for _, n in bars), default=0) or 1
    parts = []
    for i, (name, count) in enumerate(bars):
        size, left = high * count / top, 40 + wide * i
        middle = f'x="{left + wide / 2:g}" text-anchor="middle"'
        parts.append(
            f'<rect x="{left + 6}" y="{20 + high - size:.1f}" width="{wide - 12}" height="{size:.1f}" '
            f'fill="{COLOURS[0]}"><title>{escape(name)}: {count:,}</title></rect>'
            f'<text {middle} y="{14 + high - size:.1f}">{count:,}</text>'
            f'<text {middle} y="{high + 38}">{escape(name)}</text>'
        )
    width, bottom = 46 + wide * len(bars), high + 20
    return (
        f'<figure style="max-width:100%"><svg viewBox="0 0 {width} {high + 68}" width="{width}" '
        f'role="img" aria-label="{escape(y)} by {escape(x)}" font-size="11" fill="#1b2733">'
        f'<path d="M40 20V{bottom}H{width - 6}" fill="none" stroke="#566"/>{"".join(parts)}'
        f'<text x="{width / 2:g}" y="{high + 62}" text-anchor="middle">{escape(x)}</text>'
        f'<text transform="translate(16 {20 + high / 2:g}) rotate(-90)" text-anchor="middle">'
        f"{escape(y)}</text></svg></figure>"
    )


def html_page(title: str, body: Sequence[str]) -> str:
    """A self-contained page.

    Args:
        title: Plain text.
        body: Pieces of HTML, one below the other.
    """
    inner = "\n".join(body)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><title>{escape(title)}</title>'
        f"<style>{_CSS}</style></head>\n<body><h1>{escape(title)}</h1>\n{inner}\n</body></html>\n"
    )


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as an HTML table, which scrolls by itself on a narrow screen; the first row's keys are the header.

    Examples:
        >>> table([{"task": "a<b", "auroc": 0.51234}])
        '<div class="wide"><table><thead><tr><th>task</th><th class="number">auroc</th></tr></thead><tbody><tr><td>a&lt;b</td><td class="number">0.5123</td></tr></tbody></table></div>'
    """
    if not rows:
        return "<p>Nothing to show.</p>"
    right = {name: ' class="number"' if _is_number(rows, name) else "" for name in rows[0]}
    header = "".join(f"<th{right[name]}>{escape(str(name))}</th>" for name in rows[0])
    body = "".join(
        f"<tr>{''.join(f'<td{right[name]}>{escape(_text(row.get(name)))}</td>' for name in rows[0])}</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table></div>'


def figure(png: Path, caption: str) -> str:
    """A PNG file as an inlined `<figure>`."""
    data = base64.b64encode(png.read_bytes()).decode()
    text = escape(caption)
    return (
        f'<figure><img alt="{text}" src="data:image/png;base64,{data}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def markdown_table(rows: Sequence[Mapping[str, object]]) -> str:
    r"""Rows as a table of Markdown; the first row's keys are the header.

    Examples:
        >>> print(markdown_table([{"task": "a|b", "auroc": 0.51234}, {"task": "c"}]))
        | task | auroc |
        |---|---|
        | a\|b | 0.5123 |
        | c | - |
    """
    if not rows:
        return "Nothing to show."
    cells = [list(map(str, rows[0])), *([_text(row.get(name)) for name in rows[0]] for row in rows)]
    lines = ["| " + " | ".join(c.replace("|", r"\|") for c in row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def text_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as aligned text for a terminal; numbers to the right.

    Examples:
        >>> print(text_table([{"task": "death", "auroc": 0.71234}, {"task": "stay", "n": 12_000}]))
        task    auroc
        death  0.7123
        stay        -
        >>> print(text_table([{"task": "stay", "n": 12_000}]))
        task       n
        stay  12,000
    """
    if not rows:
        return ""
    columns = {name: [_text(row.get(name)) for row in rows] for name in rows[0]}
    lines = [[name, *column] for name, column in columns.items()]
    aligned = []
    for (name, column), cells in zip(columns.items(), lines, strict=True):
        width = max(map(len, cells))
        number = any(isinstance(row.get(name), int | float) for row in rows) and column
        aligned.append([c.rjust(width) if number else c.ljust(width) for c in cells])
    return "\n".join("  ".join(row).rstrip() for row in zip(*aligned, strict=True))


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _is_number(rows: Sequence[Mapping[str, object]], name: str) -> bool:
    """Whether all that a column holds are numbers."""
    there = [row[name] for row in rows if row.get(name) is not None]
    return bool(there) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in there
    )
