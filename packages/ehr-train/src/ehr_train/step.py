"""One optimizer step: ask, answer, sum over passes and processes, update."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ehr_models.precision import autocast
from ehr_models.stacks import blocks
from ehr_train.config import TrainConfig
from ehr_train.data import draws
from ehr_train.data.loader import Prepared
from ehr_train.objectives.learner import SHARES, Learner
from ehr_train.objectives.parts import Question
from ehr_train.scale import group
from ehr_train.scale.wrap import synchronised, wrap
from ehr_train.update import Update

_DROPOUT = 21  # so that two uses of one seed draw differently


@dataclass(frozen=True, slots=True)
class Done:
    """What one step did; nothing has waited for the device yet."""

    figures: Tensor
    """[9 + 2 K + B] float64 on the device: the loss before the update, the norm of its gradient before
    clipping, how many processes have been asked to stop and how many to save, the five numbers of a
    `Tally`, of each of K losses the mean over all processes and the number of targets, and what B figures
    the model gives beside (`Stepper.beside`)."""
    tokens: int
    """Of all processes."""


class Summed(NamedTuple):
    """A step over all passes and processes; K losses, A of the model's own, F shares of experts."""

    means: Tensor
    """[K] mean of each loss"""
    counts: Tensor
    """[K] number of its targets"""
    beside: Tensor
    """[A + F] means over tokens"""
    asked: Tensor
    """[2] processes that have been asked to stop, and to save: told along, so that all do at the same step"""


class Stepper:
    """Takes steps with one model."""

    def __init__(
        self,
        learner: Learner,
        config: TrainConfig,
        device: torch.device,
        asked: Callable[[], tuple[bool, bool]] = lambda: (False, False),
    ) -> None:
        """Put the learner on the device, wrap it and make its optimizer.

        Args:
            learner: What is trained.
            config: Of the run.
            device: Of this process.
            asked: Whether this process has been asked to stop, and to save.
        """
        self.asked = asked
        self.learner = learner
        self.config = config
        self.device = device
        if config.recompute:
            learner.model.activation_checkpointing_enable()
        self.wrapped = wrap(
            learner,
            blocks(cast("PreTrainedModel", learner.model.base_model)),
            device,
            parallel=config.parallel,
            compiled=config.compile is True,
        )
        scaled = config.precision == "fp16"
        self.update = Update(learner.model, config.optim, device, scaled=scaled)
        self.names = tuple(learner.objective.weights)
        """Of the losses."""
        self.beside = (*learner.auxiliary, *learner.shares)
        """Of what the model gives beside, as means over tokens."""

    def step(self, number: int, prepared: Prepared[Question], lr: float) -> Done:
        """One step; every process has to take it.

        Args:
            number: From 1.
            prepared: What this process does in it.
            lr: Learning rate.
        """
        torch.manual_seed(int(draws.bits(self.config.seed, _DROPOUT, number, group.rank())))
        means, counts, beside, asked = self._backward(prepared.passes)
        weights = self._on_device(list(self.learner.objective.weights.values()))
        loss = (means * weights).sum()
        norm, found = self.update.take(loss, lr)
        self.learner.rebalance(beside[len(self.learner.auxiliary) :], found)
        self.update.clear()
        told = [loss[None], norm.double()[None], asked, self.update.guard.counts]
        figures = torch.cat([*told, means, counts, beside])
        return Done(figures, prepared.tokens)

    def settle(self, prepared: Prepared[Question]) -> None:
        """Go once forth and back for nothing.

        After its first backward pass, data parallelism sorts gradients into buckets anew, and with
        them the order of summation; and what is compiled is so with the sizes of its first batch in
        mind. A resumed run has to sum like one that was never stopped.
        """
        self._backward(prepared.passes[:1])
        self.update.clear()

    def _backward(self, questions: list[Question]) -> Summed:
        """Leave the gradient of the weighted means in the parameters."""
        counted_ones = [q for q in questions if q.counted]
        mine = [sum(q.counts[n] for q in counted_ones) for n in self.names]
        mine += [sum(len(q.batch.input_ids) for q in counted_ones)] * len(self.beside)
        told = group.add_up(self._on_device([*mine, *map(int, self.asked())]))
        counts, asked = told[:-2], told[-2:]
        scale = 1 / counts.clamp(min=1)
        losses = {**self.learner.objective.weights, **self.learner.auxiliary}
        weights = self._on_device(list(losses.values())) * scale[: len(losses)]
        means = torch.zeros_like(counts)
        for number, question in enumerate(questions, start=1):
            with (
                synchronised(self.wrapped, last=number == len(questions)),
                autocast(self.config.precision, self.device),
            ):
                pairs = self.wrapped(question.to(self.device))
                counted = float(question.counted)
                sums = [pairs[name][0] * counted for name in losses]
                # data parallelism takes the mean over processes; this makes it the sum
                shares = (s * (w * group.world()) for s, w in zip(sums, weights, strict=True))
                total = sum(shares, torch.zeros((), device=self.device))
                (total * self.update.scale if self.update.guard.scaled else total).backward()
            went = [pairs[SHARES][0].flatten() * counted] if self.learner.shares else []
            found = torch.cat([torch.stack(sums), *went])
            means += found.detach().double() * scale
        means, k = group.add_up(means), len(self.names)
        return Summed(means[:k], counts[:k], means[k:], asked)

    def _on_device(self, values: list[int] | list[float]) -> Tensor:
        """A copy that nothing waits for."""
        tensor = torch.tensor(values, dtype=torch.float64)
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)
