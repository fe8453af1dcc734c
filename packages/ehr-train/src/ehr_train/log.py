"""What a run writes down of its steps: figures that can be reproduced apart from those that cannot."""

import math
import time
from pathlib import Path
from typing import Any

import click
import torch
from tqdm import tqdm

from ehr_tracking.errors import UserError
from ehr_tracking.runs import RunLog
from ehr_tracking.steps import StepLog
from ehr_train.saving import SAVES
from ehr_train.scale import group, history
from ehr_train.speed import Stopwatch
from ehr_train.step import Done, Stepper

_SILENCE = 30
"""Seconds after which a line is said at the latest where no terminal shows the bar."""


class Log:
    """The log of steps and the bar; the device is waited for only where it says so.

    Every process has one, so that all stop at the same step; the first one writes.
    """

    def __init__(
        self, out: Path, step: int, stepper: Stepper, watch: Stopwatch, bar: "tqdm[Any]"
    ) -> None:
        """Go on behind a step.

        Args:
            out: The run directory.
            step: The last one that counts.
            stepper: Says what its figures are called.
            watch: Started.
            bar: Shows progress.
        """
        self.names, self.beside = stepper.names, stepper.beside
        self.limits, self.scaled = stepper.config.optim.skip, stepper.update.guard.scaled
        self.watch = watch
        self.bar = bar
        self.stopping = False
        """Whether a process has been asked to stop, by the end of a step that has been read."""
        self.overdue = False
        """Whether one has been asked to save since the last save; by the same."""
        self.steps, self._saves = StepLog(out), RunLog(out / SAVES)
        self._data = stepper.config.data
        self._step, self._began, self._said = step, time.monotonic(), time.monotonic()
        self._pending: list[tuple[dict[str, Any], Done, float]] = []
        self._read: list[tuple[dict[str, Any], Done, float]] = []
        if group.rank() == 0:
            self.steps.rewind(step)
            self._saves.rewind(step)
            history.note(out, step, stepper.config.parallel)

    def __len__(self) -> int:
        """Steps that are not written yet."""
        return len(self._pending) + len(self._read)

    def add(self, record: dict[str, Any], done: Done, waited: float) -> None:
        """Take note of a step; waits for nothing.

        Args:
            record: `step`, `epoch`, `lr` and `tokens`.
            done: What it did.
            waited: Seconds that it waited for its data.
        """
        self._pending.append((record, done, waited))

    def read(self) -> None:
        """Wait for the device and have the figures of all steps so far.

        Raises:
            UserError: If more steps than may be were no update, as their loss or gradient was not a
                number, naming the last of them.
        """
        if not self._pending:
            return
        figures = torch.stack([done.figures for _, done, _ in self._pending]).tolist()
        self.stopping = self.stopping or any(stop > 0 for _, _, stop, *_ in figures)
        self.overdue = self.overdue or any(save > 0 for _, _, _, save, *_ in figures)
        for (record, done, waited), row in zip(self._pending, figures, strict=True):
            loss, norm, _, _, skipped, in_a_row, overflows, scale, _, *each = row
            if in_a_row > self.limits.in_a_row or skipped > self.limits.in_all:
                if self._read:
                    self.write({})
                raise UserError(
                    f"step {record['step']}: the loss is {loss}, the norm of its gradient {norm}"
                    f"{_skipped(int(skipped), int(in_a_row))}; lower optim.lr, lengthen optim.warmup, "
                    "or take precision=fp32"
                )
            k = len(self.names)
            means, counts = each[:k], each[k : 2 * k]
            filled = {
                "step": record["step"],
                "epoch": record["epoch"],
                **({"loss": loss} if sum(counts) and math.isfinite(loss) else {}),
                "lr": record["lr"],
                **({"grad_norm": norm} if math.isfinite(norm) else {}),
                "targets": int(sum(counts)),
                "tokens": record["tokens"],
            }
            if skipped:
                filled["skipped"] = int(skipped)
            if self.scaled:
                filled |= {"overflows": int(overflows), "scale": scale}
            if len(self.names) > 1:
                filled |= {
                    f"loss_{name.removesuffix('/loss')}": mean
                    for name, mean, count in zip(self.names, means, counts, strict=True)
                    if count and math.isfinite(mean)
                }
            beside = zip(self.beside, each[2 * k :], strict=True)
            filled |= {name: value for name, value in beside if math.isfinite(value)}
            self._read.append((filled, done, waited))
        self._pending.clear()

    def write(self, metrics: dict[str, float]) -> dict[str, float]:
        """A line of each step that has been read.

        Args:
            metrics: Of the validation behind the last one.

        Returns:
            `loss` of the last one, where it had a target.
        """
        steps, self._read = self._read, []
        loss = {k: v for k, v in steps[-1][0].items() if k == "loss"}
        if group.rank():
            return loss
        steps[-1][0].update(metrics)
        timings = self.watch.laps([done.tokens for _, done, _ in steps])
        for (record, _, waited), timing in zip(steps, timings, strict=True):
            self.steps.append(
                record, {"step": record["step"], **timing, "waited": round(waited, 4)}
            )
        record, timing = steps[-1][0], timings[-1]
        tokens = sum(done.tokens for _, done, _ in steps)
        shown = {
            "loss": _shown(record, "loss"),
            "tokens/s": f"{timing['tokens_per_second']:,.0f}",
            "mfu": f"{timing['mfu']:.1%}",
            "unused": f"{self._data.unused(tokens, len(steps)):.1%}",
        }
        if "val_loss" in record:
            shown["val"] = _shown(record, "val_loss")
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update(len(steps))
        if self.bar.disable and (metrics or time.monotonic() - self._said > _SILENCE):
            self._say(record["step"], shown)
        return loss

    def saved(self, step: int, seconds: float, why: list[str]) -> None:
        """Take note of a checkpoint; the time that it took is of no step.

        Args:
            step: Behind which.
            seconds: That it took.
            why: Names of triggers.
        """
        self.overdue = False
        self.watch.restart()
        if group.rank() == 0:
            self._saves.append({"step": step, "seconds": round(seconds, 4), "why": why})

    def _say(self, step: int, shown: dict[str, str]) -> None:
        """A line where no terminal shows the bar."""
        self._said = time.monotonic()
        total = int(self.bar.total or step)
        left = (self._said - self._began) / (step - self._step) * (total - step)
        figures = ", ".join(f"{name} {value}" for name, value in shown.items())
        done = f"step {step:,} of {total:,} ({step / total:.0%})"
        click.echo(f"{done}: {figures}, {tqdm.format_interval(left)} left", err=True)


def _skipped(steps: int, in_a_row: int) -> str:
    """How often that was so before, where it was."""
    if steps == 1:
        return ""
    return f", as in {steps - 1} steps before it, {in_a_row - 1} of them the last ones"


def _shown(record: dict[str, Any], name: str) -> str:
    return f"{record[name]:.4f}" if name in record else "none"
