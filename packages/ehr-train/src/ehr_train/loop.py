"""Step after step: ask, learn, log, validate, save."""

import math
import os
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm
from transformers import PreTrainedModel

from ehr_models.checkpoint import save_checkpoint
from ehr_models.data.tokens import TokenSet
from ehr_models.data.windows import Windows
from ehr_tracking.config import to_dict
from ehr_tracking.errors import UserError
from ehr_tracking.runs import RunLog
from ehr_train.config import TrainConfig
from ehr_train.data import draws
from ehr_train.data.sampler import Position, Sampler, packs, share
from ehr_train.job import PRODUCER, Job
from ehr_train.model import load_or_build, positive_weight
from ehr_train.objectives.asking import Asker, Learner, Question
from ehr_train.optim import learning_rate, make_optimizer
from ehr_train.scale import group
from ehr_train.speed import Stopwatch
from ehr_train.state import State, load_state, save_state
from ehr_train.validation import Validator, autocast

_DROPOUT = 21  # so that two uses of one seed draw differently


def make_sampler(job: Job, tokens: TokenSet, config: TrainConfig) -> Sampler:
    """The order of the run's steps.

    Raises:
        ContractError: If there is nothing to learn from.
    """
    return Sampler(
        examples=job.train_examples(tokens),
        context=config.data.context,
        window="newest" if job.labels is not None else config.data.window,
        batch_tokens=config.data.batch_tokens,
        seed=config.seed,
    )


def count_steps(sampler: Sampler, config: TrainConfig) -> int:
    """Optimizer steps of the whole run."""
    if config.optim.steps is not None:
        return config.optim.steps
    return sampler.steps_of(config.optim.epochs or 10)


@dataclass(frozen=True, slots=True)
class Done:
    """What one step did."""

    loss: float
    """Mean over the targets of all processes, before the update."""
    grad_norm: float
    """Before clipping."""
    targets: int
    tokens: int


class Trainer:
    """One process of a run."""

    def __init__(self, job: Job) -> None:
        """Open the data, build the model and go to where the run stands."""
        self.job = job
        self.config = config = job.config()
        self.device = _device(job.device)
        self.tokens = job.open_tokens()
        self.sampler = make_sampler(job, self.tokens, config)
        self.steps = count_steps(self.sampler, config)
        self.asker = Asker(
            config.objective, self.sampler.examples, self.tokens.vocab_size, config.seed
        )
        tuning = job.tuning_examples(self.tokens)
        self.validator = (
            None
            if tuning is None
            else Validator(tuning, config, self.tokens.vocab_size, self.device)
        )
        self.store = job.checkpoints()
        self.model: PreTrainedModel = load_or_build(job, config, self.tokens, self.store.latest())
        self.model.train()
        self.learner = Learner(
            self.model, positive_weight(config.objective, self.sampler.examples.label)
        )
        self.learner.to(self.device)
        self.wrapped = _wrap(self.learner, config, self.device)
        self.optimizer = make_optimizer(self.model, config.optim)
        latest = self.store.latest()
        self.state = (
            load_state(latest, self.model, self.optimizer, self.device) if latest else State()
        )

    def run(self) -> None:
        """Train to the end.

        Raises:
            UserError: If the loss is not a number any more.
        """
        config, first = self.config, group.rank() == 0
        logs = _Logs(self) if first else None
        steps = self.sampler.steps(Position(self.state.epoch, self.state.done))
        self._settle()
        with tqdm(
            total=self.steps, initial=self.state.step, unit="step", disable=None if first else True
        ) as bar:
            while not self._finished():
                position, windows = next(steps)
                done = self.step(windows, position.epoch)
                self.state = replace(
                    self.state,
                    step=self.state.step + 1,
                    epoch=position.epoch,
                    done=position.done,
                    tokens=self.state.tokens + done.tokens,
                )
                metrics, improved = self._validate()
                if logs is not None:
                    logs.write(done, metrics, bar)
                    if (
                        improved
                        or self._finished()
                        or not self.state.step % config.checkpoint.every
                    ):
                        self._save(done, metrics)

    def step(self, windows: Windows, epoch: int) -> Done:
        """One optimizer step on the windows of all processes.

        Raises:
            UserError: If the loss or the gradient is not finite.
        """
        number, lr = self.state.step + 1, self.learning_rate()
        torch.manual_seed(int(draws.bits(self.config.seed, _DROPOUT, number, group.rank())))
        mine = share(windows, group.rank(), group.world())
        # a process without a window still takes part in the sum of gradients, with nothing
        groups = list(
            packs(mine if len(mine) else windows.take(slice(1)), self.config.data.micro_tokens)
        )
        questions = [self.asker.ask(group, epoch).to(self.device) for group in groups]
        counts = torch.tensor(
            [sum(len(q.rows) for q in questions), int(mine.length.sum())],
            dtype=torch.float64,
        )
        targets, tokens = group.total_on(counts if len(mine) else counts * 0, self.device).tolist()
        loss = self._backward(questions, (1.0 if len(mine) else 0.0) / max(targets, 1.0))
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optim.clip)
        if not math.isfinite(loss) or not math.isfinite(float(norm)):
            raise UserError(
                f"step {number}: the loss is {loss}, the norm of its gradient {float(norm)}; "
                "lower optim.lr, lengthen optim.warmup, or take precision=fp32"
            )
        for part in self.optimizer.param_groups:
            part["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return Done(loss, float(norm), int(targets), int(tokens))

    def learning_rate(self) -> float:
        """Of the step to come."""
        return learning_rate(self.state.step, self.steps, self.config.optim)

    def _backward(self, questions: list[Question], weight: float) -> float:
        """Leave the gradient of the mean loss in the parameters; return the mean loss."""
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        for number, question in enumerate(questions, start=1):
            last = number == len(questions)
            with self._sync(last), autocast(self.config.precision, self.device):
                loss, _ = self.wrapped(question)
                # data parallelism takes the mean over processes; this makes it the sum
                (loss * (weight * group.world())).backward()
            loss_sum += loss.detach() * weight
        return float(group.total_on(loss_sum.cpu(), self.device))

    def _sync(self, last: bool) -> Any:  # noqa: ANN401 -- either context
        if last or not isinstance(self.wrapped, DistributedDataParallel):
            return nullcontext()
        return self.wrapped.no_sync()

    def _settle(self) -> None:
        """Go once forth and back for nothing.

        After its first backward pass, data parallelism sorts gradients into buckets anew, and with
        them the order of summation; a resumed run has to sum like one that was never stopped.
        """
        if group.world() > 1:
            _, windows = next(iter(self.sampler.steps(Position())))
            self._backward([self.asker.ask(windows.take(slice(1)), 0).to(self.device)], 0.0)
            self.optimizer.zero_grad(set_to_none=True)

    def _finished(self) -> bool:
        patience = self.config.validation.patience
        return self.state.step >= self.steps or (
            patience is not None and self.state.worse >= patience
        )

    def _validate(self) -> tuple[dict[str, float], bool]:
        """Metrics where this step is validated, and whether they are the best so far."""
        state, every = self.state, self.config.validation.every
        if self.validator is None or (state.step % every and state.step < self.steps):
            return {}, False
        metrics = self.validator.measure(self.learner)
        score = self._score(metrics)
        if score is None:
            return metrics, False
        improved = state.best is None or (score - state.best) * self.store.sign < 0
        self.state = replace(
            state,
            best=score if improved else state.best,
            worse=0 if improved else state.worse + 1,
        )
        return metrics, improved

    def _score(self, metrics: dict[str, float]) -> float | None:
        return metrics.get("val_auroc" if self.job.labels is not None else "val_loss")

    def _save(self, done: Done, metrics: dict[str, float]) -> None:
        with self.store.save(self.state.step, score=self._score(metrics)) as directory:
            save_checkpoint(
                directory,
                self.model,
                self.job.tokens,
                metrics={"step": self.state.step, "loss": done.loss, **metrics},
                producer=PRODUCER,
                config=to_dict(self.config),
                seed=self.config.seed,
                inputs=self.job.sources(),
                training_state=lambda d: save_state(d, self.model, self.optimizer, self.state),
            )


class _Logs:
    """What the first process writes down: figures that can be reproduced apart from those that cannot."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.metrics = RunLog(trainer.job.out / "metrics.jsonl")
        self.timings = RunLog(trainer.job.out / "timings.jsonl")
        for log in (self.metrics, self.timings):
            log.rewind(trainer.state.step)
        self.watch = Stopwatch(trainer.model, trainer.device, trainer.config.precision)

    def write(self, done: Done, metrics: dict[str, float], bar: Any) -> None:  # noqa: ANN401 -- tqdm
        """One line in each log."""
        trainer, step = self.trainer, self.trainer.state.step
        lr = learning_rate(step - 1, trainer.steps, trainer.config.optim)
        self.metrics.append(
            {
                "step": step,
                "epoch": trainer.state.epoch,
                "loss": done.loss,
                "lr": lr,
                "grad_norm": done.grad_norm,
                "targets": done.targets,
                "tokens": trainer.state.tokens,
                **metrics,
            }
        )
        timing = self.watch.lap(done.tokens)
        self.timings.append({"step": step, **timing})
        shown = {"loss": f"{done.loss:.4f}", "tokens/s": f"{timing['tokens_per_second']:,.0f}"}
        if "val_loss" in metrics:
            shown["val"] = f"{metrics['val_loss']:.4f}"
        bar.set_postfix(shown, refresh=False)
        bar.update()


def _device(kind: str) -> torch.device:
    if kind == "cpu":
        return torch.device("cpu")
    # sums in a fixed order, or a resumed run would differ in the last bits
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    return torch.device("cuda", torch.cuda.current_device())


def _wrap(learner: Learner, config: TrainConfig, device: torch.device) -> nn.Module:
    wrapped: nn.Module = learner
    if config.compile:
        wrapped.compile(dynamic=True)
    if group.world() > 1:
        ids = [device.index] if device.type == "cuda" else None
        wrapped = DistributedDataParallel(wrapped, device_ids=ids)
    return wrapped
