"""One optimizer step: ask, answer, sum over passes and processes, update."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ehr_models.precision import autocast
from ehr_train.config import TrainConfig
from ehr_train.data import draws
from ehr_train.data.loader import Prepared
from ehr_train.objectives.learner import Learner
from ehr_train.objectives.parts import Question
from ehr_train.optim import make_optimizer
from ehr_train.scale import group
from ehr_train.scale.stop import Stop
from ehr_train.scale.wrap import synchronised, wrap

_DROPOUT = 21  # so that two uses of one seed draw differently


@dataclass(frozen=True, slots=True)
class Done:
    """What one step did; nothing has waited for the device yet."""

    figures: Tensor
    """[3 + 2 K] float64 on the device: the loss before the update, the norm of its gradient before
    clipping, of each of K losses the mean over all processes and the number of targets, and how many
    processes have been asked to stop."""
    tokens: int
    """Of all processes."""


class Stepper:
    """Takes steps with one model."""

    def __init__(
        self, learner: Learner, config: TrainConfig, device: torch.device, stop: Stop | None = None
    ) -> None:
        """Wrap the learner and make its optimizer; it lies on the device."""
        self.stop = stop or Stop()
        self.learner = learner
        self.config = config
        self.device = device
        self.wrapped = wrap(learner, device, compiled=config.compile)
        self.optimizer = make_optimizer(learner.model, config.optim)
        self.names = tuple(learner.objective.weights)
        """Of the losses."""

    def step(self, number: int, prepared: Prepared[Question], lr: float) -> Done:
        """One step; every process has to take it.

        Args:
            number: From 1.
            prepared: What this process does in it.
            lr: Learning rate.
        """
        torch.manual_seed(int(draws.bits(self.config.seed, _DROPOUT, number, group.rank())))
        means, counts, asked = self._backward(prepared.passes)
        norm = nn.utils.clip_grad_norm_(self.learner.model.parameters(), self.config.optim.clip)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        weights = self._on_device(list(self.learner.objective.weights.values()))
        figures = torch.cat(
            [(means * weights).sum()[None], norm.double()[None], means, counts, asked]
        )
        return Done(figures, prepared.tokens)

    def settle(self, prepared: Prepared[Question]) -> None:
        """Go once forth and back for nothing.

        After its first backward pass, data parallelism sorts gradients into buckets anew, and with
        them the order of summation; a resumed run has to sum like one that was never stopped.
        """
        self._backward(prepared.passes[:1])
        self.optimizer.zero_grad(set_to_none=True)

    def _backward(self, questions: list[Question]) -> tuple[Tensor, Tensor, Tensor]:
        """Leave the gradient of the weighted means in the parameters.

        Returns:
            [K] mean of each loss and [K] number of its targets, over all processes and passes; [1]
            processes that have been asked to stop: told along, so that all stop at the same step.
        """
        mine = [sum(q.counts[n] for q in questions if q.counted) for n in self.names]
        told = group.add_up(self._on_device([*mine, int(self.stop.by is not None)]))
        counts, asked = told[:-1], told[-1:]
        scale = 1 / counts.clamp(min=1)
        weights = self._on_device(list(self.learner.objective.weights.values())) * scale
        means = torch.zeros_like(counts)
        for number, question in enumerate(questions, start=1):
            with (
                synchronised(self.wrapped, last=number == len(questions)),
                autocast(self.config.precision, self.device),
            ):
                pairs = self.wrapped(question.to(self.device))
                counted = float(question.counted)
                sums = [pairs[name][0] * counted for name in self.names]
                # data parallelism takes the mean over processes; this makes it the sum
                shares = (s * (w * group.world()) for s, w in zip(sums, weights, strict=True))
                sum(shares, torch.zeros((), device=self.device)).backward()
            means += torch.stack([s.detach().double() for s in sums]) * scale
        return group.add_up(means), counts, asked

    def _on_device(self, values: list[int] | list[float]) -> Tensor:
        """A copy that nothing waits for."""
        tensor = torch.tensor(values, dtype=torch.float64)
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)
