"""What people read of a sweep: a table, plots, the best config."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ehr_tracking.files import write_whole
from ehr_tracking.report import figure, html_page, new_figure, save_figure, table
from ehr_train.sweep.space import Space

if TYPE_CHECKING:
    import optuna

_TELLING = 4
"""Trials below which importances say nothing."""
TRIALS = "trials"
"""Folder of the runs."""
_NOTE = """The value of a trial is that of its best validation, on the subjects of tuning, by which trials were
chosen as well: it flatters the best one. Judge that on held_out, once."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep found."""

    out: Path
    trials: int
    best: str | None
    """The run below `out`; None where no trial was complete."""
    value: float | None
    settings: Mapping[str, Any]

    def lines(self) -> list[str]:
        """For a terminal."""
        if self.best is None:
            return [f"{self.out}: none of {self.trials} trials was complete"]
        told = ", ".join(f"{key}={value}" for key, value in self.settings.items())
        return [
            f"{self.out}: {self.trials} trials, the best is {self.best} with {self.value:.6g}: {told}",
            f"wrote {self.out / 'best.yaml'}; see {self.out / 'report.html'}",
        ]


def write_page(out: Path, study: "optuna.Study", space: Space) -> Swept:
    """Write `trials.csv`, `report.html`, plots and `best.yaml`.

    Args:
        out: Directory of the sweep.
        study: As far as it has come.
        space: What was sought.
    """
    trials = [t for t in study.get_trials() if t.state.is_finished()]
    rows = [_row(t, space) for t in trials]
    write_whole(out / "trials.csv", _csv(rows))
    complete = [t for t in trials if t.value is not None and t.state.name == "COMPLETE"]
    swept = Swept(out, len(trials), None, None, {})
    body = [f'<p class="note">{_NOTE}</p>']
    if complete:
        best = study.best_trial
        name = f"{TRIALS}/{best.number:04d}"
        swept = Swept(out, len(trials), name, best.value, best.params)
        config = out / name / "config.yaml"
        if config.is_file():
            write_whole(out / "best.yaml", config.read_text(encoding="utf-8"))
        body.append(f"<p>{swept.lines()[0]}</p>")
        body += [figure(path, caption) for path, caption in _plots(out / "plots", study, space)]
    body.append(table(rows))
    write_whole(out / "report.html", html_page(f"Sweep {out.name}", body))
    return swept


def _row(trial: "optuna.trial.FrozenTrial", space: Space) -> dict[str, Any]:
    return {
        "trial": trial.number,
        "state": trial.state.name.lower(),
        f"val_{space.config.metric.figure}": trial.value
        if trial.state.name == "COMPLETE"
        else None,
        "validations": len(trial.intermediate_values),
        "seconds": trial.user_attrs.get("seconds"),
        **{p.key: trial.params.get(p.key) for p in space.parameters},
        "why": trial.user_attrs.get("why", ""),
    }


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def _plots(directory: Path, study: "optuna.Study", space: Space) -> list[tuple[Path, str]]:
    name = f"val_{space.config.metric.figure}"
    drawn = [(_history(directory / "history.png", study, name), "Each trial, and the best so far")]
    drawn.append(
        (_coordinates(directory / "parallel.png", study, space), "Trials by their settings")
    )
    importance = _importance(directory / "importance.png", study)
    return [
        *drawn,
        *([(importance, "How much each setting matters (PED-ANOVA)")] if importance else []),
    ]


def _complete(study: "optuna.Study") -> list["optuna.trial.FrozenTrial"]:
    return [t for t in study.get_trials() if t.state.name == "COMPLETE"]


def _history(path: Path, study: "optuna.Study", name: str) -> Path:
    trials = _complete(study)
    number, value = [t.number for t in trials], [t.value or 0.0 for t in trials]
    better = min if study.direction.name == "MINIMIZE" else max
    so_far = [better(value[: i + 1]) for i in range(len(value))]
    drawing, axes = new_figure()
    axes.scatter(number, value, s=18)
    axes.step(number, so_far, where="post", color="#d9480f")
    axes.set(xlabel="trial", ylabel=name)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(visible=True, alpha=0.25)
    save_figure(drawing, path)
    return path


def _importance(path: Path, study: "optuna.Study") -> Path | None:
    """None where too few trials differ to say anything."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    if len(_complete(study)) < _TELLING:
        return None
    try:
        found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    except (ValueError, RuntimeError):
        return None
    drawing, axes = new_figure()
    names = list(found)[::-1]
    axes.barh(names, [found[n] for n in names])
    axes.set(xlabel="importance")
    save_figure(drawing, path)
    return path


def _coordinates(path: Path, study: "optuna.Study", space: Space) -> Path:
    """A line a trial over one axis a setting; the darker the better."""
    trials = _complete(study)
    better = sorted(
        trials, key=lambda t: t.value or 0.0, reverse=study.direction.name == "MINIMIZE"
    )
    drawing, axes = new_figure((1.6 * max(4, len(space.parameters)), 4.0))
    for rank, trial in enumerate(better, 1):
        heights = [p.height(trial.params[p.key]) for p in space.parameters]
        axes.plot(heights, color="#1f6feb", alpha=0.1 + 0.8 * (rank / len(better)) ** 2, marker="o")
    for i, parameter in enumerate(space.parameters):
        low, high = parameter.ends[0], parameter.ends[-1]
        for height, text in ((0.0, low), (1.0, high)) if low != high else ((0.0, low),):
            axes.annotate(text, (i, height), xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.set_xticks(range(len(space.parameters)), [p.key for p in space.parameters], rotation=20)
    axes.set_yticks([])
    axes.grid(visible=True, axis="x", alpha=0.4)
    save_figure(drawing, path)
    return path
