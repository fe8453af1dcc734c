"""`ExperimentTracker`: what a training loop leaves behind, whatever ends it."""

import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ehr_tracking.errors import UserError
from ehr_tracking.experiments import plots, states
from ehr_tracking.experiments.directions import Direction, best, direction, require_directions
from ehr_tracking.experiments.folder import now, open_folder, read_json, write_json
from ehr_tracking.experiments.values import numbers, plain, shown
from ehr_tracking.files import PathLike, write_whole
from ehr_tracking.names import require_name
from ehr_tracking.report import line_plot
from ehr_tracking.runs import environment

METADATA = "metadata.json"
HISTORY = Path("logs", "metrics_history.json")
_PREFIXES = ("train_", "val_", "valid_", "validation_", "tuning_", "test_")


class ExperimentTracker:
    """Hyperparameters, metrics by epoch, checkpoints, plots and a summary of one experiment.

    All is written when it is told, each file whole, so that what is there when a machine goes away can be
    fetched and gone on from:

        <output_dir>/<experiment_name>/
          checkpoints/   best_model, latest, checkpoint_epoch_<n>: .safetensors and .json each
          plots/         loss_curve.png, accuracy_curve.png, ..., confusion_matrix.png
          logs/metrics_history.json
          hyperparameters.json  metadata.json  summary.json  SUMMARY.txt

    Any torch loop can use it; checkpoints need the extra `[experiments]` and the loop's own torch.
    """

    def __init__(
        self,
        experiment_name: str,
        output_dir: PathLike = "experiments",
        save_plots: bool = True,
        save_checkpoints: bool = True,
        *,
        checkpoint_every: int = 10,
        directions: Mapping[str, Direction] | None = None,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        """Begin an experiment, or go on with one.

        Args:
            experiment_name: Name of its folder.
            output_dir: Where the folder lies.
            save_plots: Draw plots when asked to; False draws none.
            save_checkpoints: Write checkpoints when asked to; False writes none.
            checkpoint_every: Epochs between the checkpoints that are kept beside latest and best.
            directions: `min` or `max` for metrics whose name does not tell which is better.
            resume: Go on with an experiment that is there; begin where there is none.
            overwrite: Replace one that is there.

        Raises:
            UserError: If the name cannot be one of a folder, or an experiment is there and neither
                `resume` nor `overwrite` is said.
        """
        if checkpoint_every < 1:
            raise UserError(f"checkpoint_every = {checkpoint_every}: say 1 or more")
        self.directions = require_directions(directions or {})
        self.directory, begun = open_folder(
            output_dir, experiment_name, METADATA, resume=resume, overwrite=overwrite
        )
        self.save_plots, self.save_checkpoints = save_plots, save_checkpoints
        self.checkpoint_every = checkpoint_every
        self.hyperparameters = read_json(self.directory / "hyperparameters.json")
        self.history: dict[str, list[dict[str, Any]]] = read_json(self.directory / HISTORY)
        """Metric -> its `epoch` and `value` in order; None where it was not a number."""
        self.metadata = read_json(self.directory / METADATA)
        if begun:
            self.log_metadata({"status": "running", "resumed": self.metadata["resumed"] + 1})
        else:
            self.log_metadata(
                {
                    "experiment_name": experiment_name,
                    "status": "running",
                    "started": now(),
                    "resumed": 0,
                    "environment": environment(),
                }
            )

    def log_hyperparameters(self, params: Mapping[str, Any]) -> None:
        """Note hyperparameters down, beside those noted before; what is no JSON value as text."""
        self.hyperparameters |= plain(params)
        write_json(self.directory / "hyperparameters.json", self.hyperparameters)

    def log_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Note anything else down, beside what was noted before."""
        self.metadata |= plain(metadata)
        write_json(self.directory / METADATA, self.metadata)

    def log_metrics(self, epoch: int, metrics: Mapping[str, Any]) -> None:
        """Note metrics of an epoch down; those of one epoch may come in several calls.

        A metric that is told again of an epoch replaces what was told of it from that epoch on.

        Args:
            epoch: Its number.
            metrics: Name -> number, or a tensor or array of one element. NaN and infinity are kept as
                null: they break a curve and are never the best.

        Raises:
            UserError: For what is no number.
        """
        for name, value in numbers(metrics, f"at epoch {epoch}").items():
            before = [e for e in self.history.get(name, ()) if e["epoch"] < epoch]
            self.history[name] = [*before, {"epoch": int(epoch), "value": value}]
        write_json(self.directory / HISTORY, self.history)

    def save_checkpoint(
        self,
        model: Any,  # noqa: ANN401 -- a torch module
        optimizer: Any,  # noqa: ANN401 -- of torch, or None
        epoch: int,
        metrics: Mapping[str, Any] | None = None,
        is_best: bool = False,
        **others: Any,  # noqa: ANN401
    ) -> Path | None:
        """Save the state of a loop: as the latest, every `checkpoint_every` epochs for good, as the best.

        Args:
            model: Has `state_dict()`.
            optimizer: Its optimizer, or None.
            epoch: That has ended.
            metrics: Its figures.
            is_best: Whether it is the best so far.
            **others: Whatever else has `state_dict()`: `scheduler=scheduler`.

        Returns:
            The latest checkpoint; None where `save_checkpoints` is False.

        Raises:
            UserError: For a metric that is no number, or a state that is no data.
        """
        if not self.save_checkpoints:
            return None
        note = {"epoch": int(epoch), "metrics": numbers(metrics or {}, f"at epoch {epoch}")}
        folder = self.directory / "checkpoints"
        folder.mkdir(exist_ok=True)
        latest = folder / "latest.safetensors"
        parts = {} if optimizer is None else {"optimizer": optimizer}
        states.save(latest, model, parts | others, note)
        kept = epoch > 0 and epoch % self.checkpoint_every == 0
        copies = [f"checkpoint_epoch_{epoch}"] * kept + ["best_model"] * is_best
        for name in copies:
            partial = folder / f".{name}.partial"
            shutil.copyfile(latest, partial)
            partial.replace(folder / f"{name}.safetensors")
        for name in ("latest", *copies):
            write_json(folder / f"{name}.json", note)
        return latest

    def load_checkpoint(
        self,
        model: Any,  # noqa: ANN401 -- a torch module
        optimizer: Any = None,  # noqa: ANN401 -- of torch, or None
        name: str = "latest",
        **others: Any,  # noqa: ANN401
    ) -> dict[str, Any]:
        """Put a saved state back, and drop the metrics of later epochs: the loop tells them again.

        Args:
            model: As when it was saved.
            optimizer: Its optimizer, to go on training.
            name: `latest`, `best_model` or `checkpoint_epoch_<n>`.
            **others: As when it was saved.

        Returns:
            `epoch` and `metrics` of the checkpoint; go on at `epoch + 1`.

        Raises:
            UserError: If there is no such checkpoint, it is damaged, or it does not fit the model.
        """
        parts = {} if optimizer is None else {"optimizer": optimizer}
        file = f"{require_name(name, 'checkpoint')}.safetensors"
        note = states.load(self.directory / "checkpoints" / file, model, parts | others)
        if optimizer is not None:
            kept = {
                metric: [e for e in entries if e["epoch"] <= note["epoch"]]
                for metric, entries in self.history.items()
            }
            self.history = {metric: entries for metric, entries in kept.items() if entries}
            write_json(self.directory / HISTORY, self.history)
        return note

    def plot_training_curves(self) -> list[Path]:
        """Draw a plot for each metric, `train_`, `val_` and `test_` in one: `plots/loss_curve.png`.

        Returns:
            The plots; none where `save_plots` is False or nothing was logged.

        Raises:
            UserError: For a metric whose name cannot be one of a file.
        """
        if not self.save_plots:
            return []
        groups: dict[str, dict[str, list[tuple[float, float]]]] = {}
        for name, entries in self.history.items():
            prefix = next((p for p in _PREFIXES if name.startswith(p) and name != p), "")
            base = require_name(name.removeprefix(prefix), "metric")
            points = [
                (e["epoch"], float("nan") if e["value"] is None else e["value"]) for e in entries
            ]
            groups.setdefault(base, {})[name] = points
        paths = []
        for base, series in groups.items():
            path = self.directory / "plots" / f"{base}_curve.png"
            line_plot(path, series, title=f"{base} by epoch", x="epoch", y=base)
            paths.append(path)
        return paths

    def plot_confusion_matrix(
        self, y_true: Sequence[Any], y_pred: Sequence[Any], labels: Sequence[str] | None = None
    ) -> Path | None:
        """Draw `plots/confusion_matrix.png`.

        Args:
            y_true: Classes, [n].
            y_pred: Predicted classes, [n].
            labels: Names of the classes 0, 1, ...; by default the classes that there are, in order.

        Returns:
            The plot; None where `save_plots` is False.

        Raises:
            UserError: If there are not as many of one as of the other, none, or a class has no name.
        """
        if not self.save_plots:
            return None
        names, counts = _confusion(_list(y_true), _list(y_pred), labels)
        path = self.directory / "plots" / "confusion_matrix.png"
        plots.confusion_plot(path, counts, names)
        return path

    def best_metrics(self) -> dict[str, dict[str, Any]]:
        """Metric -> its best `value`, the first `epoch` that has it, and the `direction`."""
        found = {}
        for name, entries in self.history.items():
            way = direction(name, self.directions)
            if way and (top := best([(e["epoch"], e["value"]) for e in entries], way)):
                found[name] = {"value": top[1], "epoch": top[0][0], "direction": way}
        return found

    def save_summary(self) -> dict[str, Any]:
        """Write `summary.json` and `SUMMARY.txt`; the experiment is then complete.

        Returns:
            What `summary.json` holds.
        """
        self.log_metadata({"status": "completed", "finished": now()})
        started, finished = (
            datetime.fromisoformat(self.metadata[k]) for k in ("started", "finished")
        )
        summary = {
            "experiment_name": self.metadata["experiment_name"],
            "status": "completed",
            "started": self.metadata["started"],
            "finished": self.metadata["finished"],
            "seconds": (finished - started).total_seconds(),
            "resumed": self.metadata["resumed"],
            "epochs": len({e["epoch"] for entries in self.history.values() for e in entries}),
            "best_metrics": self.best_metrics(),
            "last_metrics": {n: entries[-1]["value"] for n, entries in self.history.items()},
            "not_a_number": {
                n: bad
                for n, entries in self.history.items()
                if (bad := sum(e["value"] is None for e in entries))
            },
            "hyperparameters": self.hyperparameters,
            "checkpoints": sorted(
                p.stem for p in (self.directory / "checkpoints").glob("[!.]*.safetensors")
            ),
        }
        write_json(self.directory / "summary.json", summary)
        write_whole(self.directory / "SUMMARY.txt", _text(summary))
        return summary


def _list(values: Any) -> list[Any]:  # noqa: ANN401 -- a list, an array, a tensor
    return list(values.tolist() if hasattr(values, "tolist") else values)


def _confusion(
    true: list[Any], predicted: list[Any], labels: Sequence[str] | None
) -> tuple[list[str], list[list[int]]]:
    """Names of the classes, and how often each was predicted for each.

    Examples:
        >>> _confusion([0, 1, 1], [0, 1, 0], ["no", "yes"])
        (['no', 'yes'], [[1, 0], [1, 1]])
    """
    if len(true) != len(predicted) or not true:
        raise UserError(f"{len(true)} true and {len(predicted)} predicted classes: no matrix")
    classes = sorted({*true, *predicted}) if labels is None else list(range(len(labels)))
    if unnamed := sorted({*true, *predicted} - {*classes}):
        raise UserError(f"class {unnamed[0]!r} has no name: {len(classes)} labels were given")
    row = {name: i for i, name in enumerate(classes)}
    counts = [[0] * len(classes) for _ in classes]
    for t, p in zip(true, predicted, strict=True):
        counts[row[t]][row[p]] += 1
    return [str(name) for name in (classes if labels is None else labels)], counts


def _text(summary: Mapping[str, Any]) -> str:
    title = f"Experiment {summary['experiment_name']}"
    lines = [title, "=" * len(title), ""]
    lines += [f"{k:<10}{summary[k]}" for k in ("started", "finished", "seconds", "epochs")]
    lines += ["", "Best metrics"]
    lines += [
        f"  {name}: {shown(top['value'])} at epoch {top['epoch']}"
        for name, top in summary["best_metrics"].items()
    ] or ["  none"]
    if summary["not_a_number"]:
        lines += ["", "Not a number"]
        lines += [f"  {name}: {n} epochs" for name, n in summary["not_a_number"].items()]
    lines += ["", "Hyperparameters"]
    lines += [f"  {name}: {value}" for name, value in summary["hyperparameters"].items()]
    lines += ["", "Checkpoints", *(f"  {name}" for name in summary["checkpoints"])]
    return "\n".join(lines) + "\n"
