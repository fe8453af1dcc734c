"""Step after step: learn, log, validate, save."""

import math
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace

import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from ehr_models.checkpoint import save_checkpoint
from ehr_models.data.windows import Windows
from ehr_tracking.config import to_dict
from ehr_tracking.errors import StoppedError
from ehr_train import PRODUCER
from ehr_train.data.balance import attention_share
from ehr_train.data.codes import Codes
from ehr_train.data.loader import Ahead, Prepared, Share
from ehr_train.data.sampler import Position
from ehr_train.job import Job, sampler
from ehr_train.log import Log
from ehr_train.model import load_or_build
from ehr_train.objectives.asker import Asker
from ehr_train.objectives.learner import Learner
from ehr_train.objectives.parts import Question
from ehr_train.optim import learning_rate
from ehr_train.saving import Saving
from ehr_train.scale import group
from ehr_train.scale.stop import Stop
from ehr_train.speed import Stopwatch
from ehr_train.state import Progress, Snapshot, State
from ehr_train.step import Done, Stepper
from ehr_train.validation import Validator, measured

_EVERY = {"cpu": 1, "cuda": 20}
"""Steps between two writings of the log."""


class Trainer:
    """One process of a run."""

    def __init__(self, job: Job, stop: Stop | None = None) -> None:
        """Open the data, build the model and go to where the run stands.

        Args:
            job: What to do.
            stop: Heeded between two steps.
        """
        self.job = job
        self.stop = stop = stop or Stop()
        self.config = config = job.config()
        self.device = _device(job.device)
        tokens = job.open_tokens()
        examples = job.train_examples(config, tokens)
        self.sampler = sampler(config, examples)
        codes = Codes(tokens)
        objective = config.objective.fitted(examples, codes)
        self.store = job.checkpoints()
        latest = self.store.latest()
        self.model: PreTrainedModel = load_or_build(job.init, config, objective, tokens, latest)
        self.model.train()
        learner = Learner(self.model, objective)
        self.saving = Saving(config.checkpoint, self.sampler)
        self.stepper = Stepper(learner, config, self.device, self._asked)
        self.state = State(self.model, self.stepper.update, Progress())
        if latest is not None:
            self.state.restore(latest)
        self.share = Share(
            rank=group.rank(),
            world=group.world(),
            micro_tokens=config.data.pass_tokens,
            c=attention_share(self.model.config.hidden_size),
        )
        self.asker = Asker(objective, examples, tokens.vocab_size, config.seed, codes)
        tuning = job.tuning_examples(config, tokens)
        self.validator = None
        if tuning is not None:
            kept = measured(tuning, config.data.context, config.validation.max_tokens, config.seed)
            asker = replace(self.asker, examples=kept)
            self.validator = Validator(asker, self.share, config, self.device)

    def run(self) -> None:
        """Train to the end.

        Raises:
            UserError: If the loss is not a number any more.
            StoppedError: If it was asked to stop; the state is saved.
        """
        progress, first = self.state.progress, group.rank() == 0
        if group.world() > 1 or self.config.compile is True:
            self.stepper.settle(next(self.prepared(Position())))
        with (
            Ahead(
                self.prepared(Position(progress.epoch, progress.block, progress.done)),
                self.config.data.ahead,
            ) as ready,
            tqdm(
                total=self.job.steps,
                initial=progress.step,
                unit="step",
                disable=None if first else True,
            ) as bar,
            self.stop.heeded(),
        ):
            self.saving.saved()
            watch = Stopwatch(self.model, self.device, self.config.precision)
            log = Log(self.job.out, progress.step, self.stepper, watch, bar)
            while not self._finished():
                self._advance(next(ready), ready.waited, log)

    def _advance(self, prepared: Prepared[Question], waited: float, log: Log) -> None:
        before, done = self.state.progress, self.step(prepared)
        progress = self.state.progress
        lr = learning_rate(progress.step - 1, self.job.steps, self.config.optim)
        record = {
            "step": progress.step,
            "epoch": progress.epoch,
            "lr": lr,
            "tokens": progress.tokens,
        }
        log.add(record, done, waited)
        due, last = self.saving.due(before, progress), progress.step >= self.job.steps
        validated = self.validator is not None and (
            last or progress.step % self.config.validation.every == 0
        )
        every = self.config.log.every or _EVERY[self.device.type]
        asked = group.world() == 1 and any(self._asked())
        if not (validated or due or last or asked or len(log) >= every):
            return
        log.read()
        metrics, improved = self._validate() if validated else ({}, False)
        loss = log.write(metrics)
        ended = self._finished()
        stopped = log.stopping and not ended
        others = {"minutes": log.overdue, "best": improved, "signal": stopped, "end": ended}
        if why := due + [name for name, is_so in others.items() if is_so]:
            figures = {"step": self.state.progress.step, **loss, **metrics}
            began = time.perf_counter()
            self._save(figures, metrics)
            self.saving.saved()
            log.saved(progress.step, time.perf_counter() - began, why)
        if stopped:
            raise StoppedError(
                f"stopped by {self._stopped_by()} after step {self.state.progress.step} of "
                f"{self.job.steps}; the state is saved, go on with --resume"
            )

    def _asked(self) -> tuple[bool, bool]:
        """Whether this process has been asked to stop, and to save: by the clock of the first one."""
        return self.stop.by is not None, group.rank() == 0 and self.saving.overdue()

    def _stopped_by(self) -> str:
        """The signal, which some processes may not have heard of yet; none leaves before all are here."""
        by = self.stop.by
        mine = [0, 0] if by is None else [signal.Signals[by].value, 1]
        number, heard = group.add_up(torch.tensor(mine, device=self.device)).tolist()
        return signal.Signals(number // heard).name

    def step(self, prepared: Prepared[Question]) -> Done:
        """One optimizer step, on to the next position; waits for no device."""
        progress = self.state.progress
        lr = learning_rate(progress.step, self.job.steps, self.config.optim)
        done = self.stepper.step(progress.step + 1, prepared, lr)
        self.state.progress = replace(
            progress,
            step=progress.step + 1,
            **prepared.position._asdict(),
            tokens=progress.tokens + done.tokens,
        )
        return done

    def prepared(self, position: Position) -> Iterator[Prepared[Question]]:
        """What this process does in each step behind a position."""

        def ask(windows: Windows, epoch: int, *, counted: bool) -> Question:
            question = self.asker.ask(windows, epoch, counted=counted)
            return question.pinned() if self.device.type == "cuda" else question

        return self.share.prepare(self.sampler.steps(position), ask)

    def _finished(self) -> bool:
        patience = self.config.validation.patience
        progress = self.state.progress
        return progress.step >= self.job.steps or (
            patience is not None and progress.worse >= patience
        )

    def _validate(self) -> tuple[dict[str, float], bool]:
        """Metrics at this step, and whether they are the best so far."""
        assert self.validator is not None
        with self.state.update.averaged():
            measured = self.validator.measure(self.stepper.learner)
        # of weights that have left all bounds there is nothing to say; the guard ends such a run
        metrics = {name: value for name, value in measured.items() if math.isfinite(value)}
        score = self._score(metrics)
        if score is None:
            return metrics, False
        progress = self.state.progress
        improved = progress.best is None or (score - progress.best) * self.store.sign < 0
        self.state.progress = replace(
            progress,
            best=score if improved else progress.best,
            worse=0 if improved else progress.worse + 1,
        )
        return metrics, improved

    def _score(self, metrics: dict[str, float]) -> float | None:
        return metrics.get(f"val_{self.config.score.name}")

    def _save(self, figures: dict[str, float], metrics: dict[str, float]) -> None:
        with self.state.update.averaged():
            snapshot = self.state.gather()
            if group.rank() == 0:
                self._write(snapshot, figures, metrics)

    def _write(
        self, snapshot: Snapshot, figures: dict[str, float], metrics: dict[str, float]
    ) -> None:
        inputs, base = self.job.inputs().sources, None
        if self.config.adapter is not None:
            base = self.job.init
            inputs = {role: given for role, given in inputs.items() if role != "init"}
        with self.store.save(self.state.progress.step, score=self._score(metrics)) as directory:
            save_checkpoint(
                directory,
                self.model,
                self.job.tokens,
                weights=snapshot.weights,
                metrics=figures,
                producer=PRODUCER,
                config=to_dict(self.config),
                seed=self.config.seed,
                inputs=inputs,
                training_state=snapshot.write,
                base=base,
            )


def _device(kind: str) -> torch.device:
    if kind == "cpu":
        return torch.device("cpu")
    # sums in a fixed order, or a resumed run would differ in the last bits
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # which would also fill whatever memory is taken, in a launch of its own: some 700 a pass of 12 layers
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return torch.device("cuda", torch.cuda.current_device())
