"""Weights & Biases, offline: a folder in the run, which `wandb sync` sends if you want it sent.

Under an agent of a sweep it is sent at once, unless `WANDB_MODE` is set.
"""

import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ehr_tracking.backends import Card, Status

os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # its own errors are nobody's business

import wandb


class Wandb:
    """Config, metrics by step, tags, and at the end the files that people read."""

    def __init__(self, where: str, run: Path, card: Card, known: str | None) -> None:
        """Begin an offline run; one that goes on is written anew under its id, from the log.

        Args:
            where: The project.
            run: The run directory.
            card: What the run is.
            known: Its id.
        """
        # an agent of a sweep has named the run, and its server wants the figures at once
        swept = "WANDB_SWEEP_ID" in os.environ
        self.id = known or (swept and os.environ.get("WANDB_RUN_ID")) or uuid.uuid4().hex[:8]
        self.last = 0
        for left in (run / "wandb").glob(f"offline-run-*-{self.id}"):
            shutil.rmtree(left)
        self._run = wandb.init(
            project=where,
            id=self.id,
            name=card.name,
            config={**card.params, "tags": dict(card.tags)},
            settings=wandb.Settings(
                mode="online" if swept and "WANDB_MODE" not in os.environ else "offline",
                root_dir=str(run),
                reinit="create_new",
                silent=True,
                console="off",
                host="-",
                symlink=False,
                save_code=False,
                disable_git=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
            ),
        )

    def steps(self, steps: Sequence[Mapping[str, Any]]) -> None:
        """Log the figures of steps."""
        for step in steps:
            self._run.log({k: v for k, v in step.items() if k != "step"}, step=step["step"])
        self.last = steps[-1]["step"]

    def end(self, status: Status, tags: Mapping[str, str], files: Mapping[str, Path]) -> None:
        """Copy the files into the run's own folder, and note how it ended."""
        folder = Path(self._run.dir)
        for name, path in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)
            self._run.save(str(folder / name), base_path=str(folder), policy="now")
        self._run.summary.update({"status": status, **tags})
        self._run.finish(exit_code=0 if status == "finished" else 1)
        for left in ("logs", "tmp"):  # of the library, with paths of this machine
            shutil.rmtree(folder.parent / left, ignore_errors=True)
