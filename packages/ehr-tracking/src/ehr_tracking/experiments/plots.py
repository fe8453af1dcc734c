"""Plots of experiments and benchmarks that are no lines."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ehr_tracking.report import COLOURS, MARKERS, new_figure, save_figure


def scatter_plot(
    path: Path, points: Sequence[tuple[str, float, float]], *, title: str, x: str, y: str
) -> None:
    """Draw named points over a logarithmic axis and save them as PNG.

    Args:
        path: Where; its folder is made.
        points: Name, x (above 0) and y of each.
        title: Above the axes.
        x: Label of the horizontal axis.
        y: Label of the vertical axis.
    """
    figure, axes = new_figure()
    for i, (name, at, value) in enumerate(points):
        colour, marker = COLOURS[i % 8], MARKERS[(i + i // 8) % 8]
        axes.plot([at], [value], marker, color=colour, markersize=8, label=name)
    axes.set_xscale("log")
    axes.margins(0.1)
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(visible=True, alpha=0.25)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    save_figure(figure, path)


def confusion_plot(path: Path, counts: Sequence[Sequence[int]], names: Sequence[str]) -> None:
    """Draw a confusion matrix and save it as PNG: counts, and the share of each true class as shade.

    Args:
        path: Where; its folder is made.
        counts: By true class, then by predicted class.
        names: Of the classes.
    """
    shares = [[n / (sum(row) or 1) for n in row] for row in counts]
    side = max(4.0, 0.7 * len(names) + 2)
    figure, axes = new_figure((side + 1, side))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for i, row in enumerate(counts):
        for j, n in enumerate(row):
            dark: Any = "white" if shares[i][j] > 0.6 else "#1b2733"
            axes.text(j, i, f"{n:,}\n{shares[i][j]:.0%}", ha="center", va="center", color=dark)
    ticks = range(len(names))
    axes.set_xticks(ticks, names, rotation=45 if len(names) > 4 else 0)
    axes.set_yticks(ticks, names)
    axes.set(title="Confusion matrix", xlabel="predicted", ylabel="true")
    save_figure(figure, path)
