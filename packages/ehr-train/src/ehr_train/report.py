"""What people read of a run: plots, SUMMARY.txt, report.html."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ehr_tracking.checkpoints import CheckpointStore
from ehr_tracking.config import to_dict
from ehr_tracking.report import figure, html_page, line_plot, table
from ehr_tracking.runs import read_log
from ehr_train.config import TrainConfig
from ehr_train.objectives.parts import Score
from ehr_train.saving import SAVES
from ehr_train.scale import history
from ehr_train.start import changes_of

_NO_UPDATE = {
    "skipped": "loss or gradient not finite, so no update",
    "overflows": "gradient beyond fp16, so no update and half the scale",
}
_SMOOTH = 200
"""Most points of a drawn training curve; each is a mean over its stretch."""


def write_report(out: Path, config: TrainConfig, inputs: Sequence[str]) -> str:
    """Draw the logs of a finished run and describe it.

    Args:
        out: The run directory.
        config: Resolved.
        inputs: One line for each input.

    Returns:
        The text of SUMMARY.txt.
    """
    metrics, timings = read_log(out / "metrics.jsonl"), read_log(out / "timings.jsonl")
    learnt = _learnt(metrics, config, inputs)
    if changes := changes_of(out):
        learnt["changed on the way"] = "; ".join(changes)
    if processes := history.told(out):
        learnt["processes"] = processes
    figures = learnt | _spent(timings, read_log(out / SAVES))
    width = max(map(len, figures))
    text = "".join(f"{name:<{width}}  {value}\n" for name, value in figures.items())
    (out / "SUMMARY.txt").write_text(text, encoding="utf-8")
    plots = _plots(out / "plots", metrics)
    page = html_page(
        f"Training run {out.name}",
        [
            table([{"": name, "value": value} for name, value in figures.items()]),
            *(figure(path, caption) for path, caption in plots),
            "<h2>Validation</h2>",
            table([_row(r) for r in metrics if _is_validated(r)]),
            "<h2>Checkpoints</h2>",
            table(_checkpoints(out)),
            "<h2>Config</h2>",
            f"<pre>{escape(yaml.safe_dump(to_dict(config), sort_keys=False))}</pre>",
        ],
    )
    (out / "report.html").write_text(page, encoding="utf-8")
    return text


def _learnt(
    metrics: list[dict[str, Any]], config: TrainConfig, inputs: Sequence[str]
) -> dict[str, str]:
    """From what, and how well."""
    last, validated = metrics[-1], [r for r in metrics if _is_validated(r)]
    figures = {
        "objective": config.objective.kind,
        "precision": config.precision,
        "inputs": "; ".join(inputs),
        "steps": f"{last['step']}",
        "real tokens seen": f"{last['tokens']:,} (packed: nothing is padded; "
        f"{config.data.unused(last['tokens'], last['step']):.1%} of the budget unused)",
        "train loss": _ends([r for r in metrics if "loss" in r], metrics),
    }
    for name, why in _NO_UPDATE.items():
        if last.get(name):
            figures[name] = f"{last[name]:,} of {last['step']:,} steps: {why}"
    if best := best_record(validated, config.score):
        shown = ", ".join(f"{k[4:]} {v:.4f}" for k, v in best.items() if k.startswith("val_"))
        figures["best validation"] = f"{shown} at step {best['step']}"
    else:
        figures["best validation"] = "none: no tuning subjects, or nothing to predict of any"
    return figures


def _spent(timings: list[dict[str, Any]], saves: list[dict[str, Any]]) -> dict[str, str]:
    """Time and memory."""
    seconds, saving = sum(t["seconds"] for t in timings), sum(s["seconds"] for s in saves)
    rates = [t["tokens_per_second"] for t in timings]
    return {
        "seconds": f"{seconds:.1f} (validation included)",
        "tokens per second": f"{np.median(rates):,.0f} (median over steps)",
        "share of matrix peak": f"{np.median([t['mfu'] for t in timings]):.1%} (median over steps)",
        "waiting for data": f"{sum(t['waited'] for t in timings) / seconds:.1%} of the time",
        "saving": f"{len(saves):,} times, {saving:.1f} seconds in all",
        "peak memory": f"{max(t['memory_mb'] for t in timings):,.0f} MB a process",
    }


def _is_validated(record: dict[str, Any]) -> bool:
    return any(key.startswith("val_") for key in record)


def _ends(learned: list[dict[str, Any]], metrics: list[dict[str, Any]]) -> str:
    """The first and the last loss of the steps that had a target."""
    if not learned:
        return "none: no step had a target"
    first, last = learned[0], learned[-1]
    empty = sum(r["targets"] == 0 for r in metrics)
    if not empty:
        return f"{first['loss']:.4f} at the first step, {last['loss']:.4f} at the last"
    return (
        f"{first['loss']:.4f} at step {first['step']}, {last['loss']:.4f} at step {last['step']}; "
        f"{empty:,} of {len(metrics):,} steps had no target"
    )


def best_record(validated: Sequence[dict[str, Any]], score: Score) -> dict[str, Any] | None:
    """The record with the best score; where none has one, that with the lowest loss, if any has one.

    Args:
        validated: Records of `metrics.jsonl`.
        score: The validation figure that says which is best.
    """
    for name, mode in (score, Score("loss", "min")):
        sign = 1 if mode == "min" else -1
        if scored := [r for r in validated if f"val_{name}" in r]:
            return min(scored, key=lambda r: sign * r[f"val_{name}"])
    return None


def _plots(directory: Path, metrics: list[dict[str, Any]]) -> list[tuple[Path, str]]:
    loss = {"train": _drawn(metrics, "loss")}
    names = sorted({k for r in metrics for k in r if k.startswith("val_")})
    points = {n: [(r["step"], r[n]) for r in metrics if n in r] for n in names}
    if "val_loss" in points:
        loss["validation"] = points.pop("val_loss")
    for name in sorted({k for r in metrics for k in r if k.startswith("loss_")}):
        loss[f"train {name[5:]}"] = _drawn(metrics, name)
    beside = {n: _drawn(metrics, n) for n in metrics[-1] if n.startswith(("aux_", "share_"))}
    rate = {"learning rate": [(r["step"], r["lr"]) for r in metrics]}
    drawn = {"loss": loss, "lr": rate, **{n[4:]: {"validation": p} for n, p in points.items()}}
    for name, line in beside.items():
        group, _, what = name.rpartition(
            "_"
        )  # one plot of the losses, and one a layer of the shares
        drawn.setdefault(group, {})[what] = line
    paths = []
    for name, series in drawn.items():
        path = directory / f"{name}.png"
        line_plot(path, series, title=f"{name} by step", x="optimizer step", y=name)
        paths.append((path, f"{name} by step"))
    return paths


def _drawn(metrics: list[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    return _smooth([(r["step"], r[name]) for r in metrics if name in r])


def _smooth(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `_SMOOTH` means over stretches of equal length.

    Examples:
        >>> len(_smooth([(i, i) for i in range(1000)])), _smooth([(1, 2.0)])
        (200, [(1.0, 2.0)])
    """
    if not points:
        return []
    parts = np.array_split(np.array(points, float), min(_SMOOTH, len(points)))
    return [(float(p[:, 0].mean()), float(p[:, 1].mean())) for p in parts]


def _row(record: dict[str, Any]) -> dict[str, Any]:
    kept = ("step", "epoch", "loss")
    return {k: v for k, v in record.items() if k in kept or k.startswith("val_")}


def _checkpoints(out: Path) -> list[dict[str, Any]]:
    store = CheckpointStore(out / "checkpoints")
    return [
        {
            "checkpoint": path.name,
            "": ", ".join(
                n for n, p in (("latest", store.latest()), ("best", store.best())) if p == path
            ),
        }
        for path in sorted(store.directory.glob("step-*"))
    ]
