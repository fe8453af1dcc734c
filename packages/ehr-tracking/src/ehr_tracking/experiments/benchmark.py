"""`BenchmarkTracker`: models beside each other, and which is the best at what."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ehr_tracking.errors import UserError
from ehr_tracking.experiments.directions import Direction, best, direction, require_directions
from ehr_tracking.experiments.folder import now, open_folder, read_json, write_json
from ehr_tracking.experiments.plots import scatter_plot
from ehr_tracking.experiments.values import cells, numbers, plain, shown
from ehr_tracking.files import PathLike, write_whole
from ehr_tracking.report import figure, html_page, table

_RESULTS = "results.json"
_PLOT = Path("plots", "performance_vs_size.png")


class BenchmarkTracker:
    """Results of several models, as a table, a plot of performance against size, and a report.

    <output_dir>/<benchmark_name>/
      results.json              what was added
      comparison_table.md
      plots/performance_vs_size.png
      REPORT.md  report.html    the same, the page with the plot in it
    """

    def __init__(
        self,
        benchmark_name: str,
        output_dir: PathLike = "benchmarks",
        *,
        directions: Mapping[str, Direction] | None = None,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        """Begin a benchmark, or go on with one.

        Args:
            benchmark_name: Name of its folder.
            output_dir: Where the folder lies.
            directions: `min` or `max` for metrics whose name does not tell which is better.
            resume: Go on with a benchmark that is there; begin where there is none.
            overwrite: Replace one that is there.

        Raises:
            UserError: As `ExperimentTracker` does.
        """
        self.directions = require_directions(directions or {})
        self.name = benchmark_name
        self.directory, _ = open_folder(
            output_dir, benchmark_name, _RESULTS, resume=resume, overwrite=overwrite
        )
        self.results: dict[str, dict[str, Any]] = read_json(self.directory / _RESULTS)
        """Model -> `metrics`, `metadata` and when they were `added`."""
        write_json(self.directory / _RESULTS, self.results)

    def add_result(
        self,
        model_name: str,
        metrics: Mapping[str, Any],
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Add the figures of a model, or replace them.

        Args:
            model_name: Its name.
            metrics: Name -> number; NaN is kept as null and never the best.
            metadata: Whatever else to keep.

        Raises:
            UserError: For what is no number.
        """
        self.results[model_name] = {
            "metrics": numbers(metrics, f"of {model_name}"),
            "metadata": plain(metadata or {}),
            "added": now(),
        }
        write_json(self.directory / _RESULTS, self.results)

    def create_comparison_table(self) -> str:
        """The table in Markdown, which is written as `comparison_table.md` too; metrics in order of appearance."""
        columns = {"Model": [_markdown(name) for name in self.results]} | self._columns()
        rows = zip(*columns.values(), strict=True)
        lines = [" | ".join(map(_markdown, columns)), "|".join("---" for _ in columns)]
        lines = [f"| {lines[0]} |", f"|{lines[1]}|", *(f"| {' | '.join(r)} |" for r in rows)]
        text = "\n".join(lines) + "\n"
        write_whole(self.directory / "comparison_table.md", text)
        return text

    def best_models(self) -> dict[str, tuple[list[str], float]]:
        """Metric -> the best models (several where they are equal), and their figure.

        Metrics of which nobody knows whether more is better, as `params`, are left out.
        """
        found = {}
        for metric in self._metrics():
            way = direction(metric, self.directions)
            figures = [(name, self._figure(name, metric)) for name in self.results]
            if way and (top := best(figures, way)):
                found[metric] = top
        return found

    def plot_performance_vs_size(
        self, performance_metric: str | None = None, size_metric: str = "params"
    ) -> Path | None:
        """Draw `plots/performance_vs_size.png`: a metric over the number of parameters.

        Args:
            performance_metric: Which; by default the first of which more is better.
            size_metric: What size is.

        Returns:
            The plot; None where no model has both figures.

        Raises:
            UserError: If no model has such a metric.
        """
        metrics = self._metrics()
        known = (m for m in metrics if direction(m, self.directions) == "max")
        metric = performance_metric or next(known, None)
        for name in (metric, size_metric):
            if name not in metrics:
                raise UserError(
                    f"no model has {name or 'a metric'}; there are {', '.join(metrics)}"
                )
        assert metric is not None
        points = [
            (name, size, value)
            for name in self.results
            if (size := self._figure(name, size_metric)) is not None
            and size > 0
            and (value := self._figure(name, metric)) is not None
        ]
        if not points:
            return None
        path = self.directory / _PLOT
        scatter_plot(path, points, title=f"{metric} by size", x=size_metric, y=metric)
        return path

    def save_report(self) -> Path:
        """Write `REPORT.md`, and `report.html` with the plot in it.

        Returns:
            `REPORT.md`.
        """
        best_models = {m: (", ".join(who), shown(v)) for m, (who, v) in self.best_models().items()}
        lines = [f"- **{m}**: {who} ({value})" for m, (who, value) in best_models.items()]
        text = "\n".join(
            [
                f"# Benchmark Report: {self.name}\n",
                f"## Model Comparison\n\n{self.create_comparison_table()}",
                "### Best Models by Metric",
                *(lines or ["No metric tells which is better; pass directions={...}."]),
            ]
        )
        path = self.directory / "REPORT.md"
        write_whole(path, text + "\n")
        columns = {"Model": list(self.results)} | self._columns()
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        plot = self.directory / _PLOT
        page = [
            table(rows),
            "<h2>Best models by metric</h2>",
            table([{"metric": m, "model": who, "value": v} for m, (who, v) in best_models.items()]),
            *([figure(plot, "performance by size")] if plot.is_file() else []),
        ]
        write_whole(
            self.directory / "report.html", html_page(f"Benchmark report: {self.name}", page)
        )
        return path

    def _metrics(self) -> list[str]:
        return list(dict.fromkeys(m for r in self.results.values() for m in r["metrics"]))

    def _figure(self, name: str, metric: str) -> float | None:
        value: float | None = self.results[name]["metrics"].get(metric)
        return value

    def _columns(self) -> dict[str, list[str]]:
        """Metric -> a cell a model."""
        rows = [r["metrics"] for r in self.results.values()]
        return {
            m: cells([row.get(m) for row in rows], [m not in row for row in rows])
            for m in self._metrics()
        }


def _markdown(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")
