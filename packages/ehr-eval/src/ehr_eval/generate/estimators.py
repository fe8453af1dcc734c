"""Risks from simulated futures: what each future says of an outcome, and the estimate over all of them.

`mc`: the share of futures with the outcome. `scope`: the mean over ordinary futures of the sum of the
chances that the next token is the outcome, until it comes; like `mc`, any number of tasks can look on at one
pool. `reach`: the mean of 1 - prod(1 - chance) over futures in which the outcome is never drawn, a pool a
task; its variance is never above that of `mc`. All three are unbiased (arXiv 2602.03730). `direct`: the
chance that the very next token is the outcome, as EHR_FM has it: no risk by a horizon, but one forward.

R rows, F futures of a part, V tokens of the vocabulary; P prompts, N futures of each.
"""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from ehr_eval.generate.intervals import Estimate, Floats, of_chances, of_counts
from ehr_eval.generate.names import EstimatorName
from ehr_eval.generate.observers import Rows, Timing
from ehr_eval.generate.spelling import Spelling
from ehr_eval.generate.wait import Wait
from ehr_eval.tasks.files import TaskFile


class Estimator:
    """Looks on as futures are drawn, for one task: an `Observer`."""

    shares = True
    """Whether others can look on at the same futures."""
    draws = True
    """Whether more than the first token matters, so that more futures tell more."""

    def __init__(self, task: TaskFile, spelling: Spelling, limit: int | None = None) -> None:
        """Get ready.

        Args:
            task: What is waited for.
            spelling: Of the model's vocabulary.
            limit: Horizon in microseconds of a task that has none.

        Raises:
            UserError: If no token of the vocabulary can tell the outcome.
        """
        self.task, self.wait = task, Wait(task, spelling, limit)

    def begin(self, futures: int) -> None:
        """See `Observer`."""
        self.wait.begin(futures)
        device = self.wait.spelling.device
        self.value = torch.zeros(futures, dtype=torch.float64, device=device)
        """[F] in the mean the chance of the outcome."""
        self.weight = torch.zeros(futures, dtype=torch.float64, device=device)
        """[F] in the mean the chance of an answer, where `given` decides."""
        self.spent = torch.zeros(futures, dtype=torch.int64, device=device)
        """[F] tokens that were drawn until it was finished."""

    def before(self, rows: Rows, probabilities: Tensor, timing: Timing | None) -> Tensor | None:
        """See `Observer`."""
        raise NotImplementedError

    def after(self, rows: Rows, token: Tensor, time: Tensor, happened: Tensor) -> None:
        """See `Observer`."""
        self.spent[rows.future] += rows.alive & ~self.wait.finished(rows)
        self._saw(rows, token, time, happened)

    def finished(self, rows: Rows) -> Tensor | None:
        """See `Observer`."""
        return self.wait.finished(rows)

    def estimate(self, value: Floats, weight: Floats, confidence: float) -> Estimate:
        """The risk of each prompt: of the outcome, or where the task says so of its absence.

        Args:
            value: [P, N] of all parts.
            weight: [P, N]
            confidence: Of the interval.
        """
        found = self._estimate(value, weight if self.task.given else weight * 0 + 1, confidence)
        if not self.task.absent:
            return found
        return Estimate(1 - found.risk, 1 - found.upper, 1 - found.lower)

    def _estimate(self, value: Floats, weight: Floats, confidence: float) -> Estimate:
        return of_chances(value, weight, confidence)

    def _saw(self, rows: Rows, token: Tensor, time: Tensor, happened: Tensor) -> None:
        self.wait.see(rows, token, time, happened)


class MonteCarlo(Estimator):
    """Counts futures."""

    def before(self, rows: Rows, probabilities: Tensor, timing: Timing | None) -> Tensor | None:  # noqa: ARG002
        """See `Observer`."""
        return None

    def _saw(self, rows: Rows, token: Tensor, time: Tensor, happened: Tensor) -> None:
        seen = self.wait.see(rows, token, time, happened)
        self.value[rows.future] += seen.outcome
        self.weight[rows.future] += seen.decides

    def _estimate(self, value: Floats, weight: Floats, confidence: float) -> Estimate:
        return of_counts(value.sum(1), weight.sum(1), confidence)


class Scope(Estimator):
    """Adds up chances."""

    def before(self, rows: Rows, probabilities: Tensor, timing: Timing | None) -> Tensor | None:
        """See `Observer`."""
        chances = self.wait.chances(rows, probabilities, timing)
        self.value[rows.future] += chances.outcome
        undecided = ~self.wait.decided(rows)
        self.weight[rows.future] += chances.outcome * undecided + chances.decides
        return None


class Reach(Estimator):
    """Multiplies chances that it does not come, while it is kept from coming.

    A token of the outcome keeps the share of its probability that comes too late: where it is drawn all the
    same, the wait is over.
    """

    shares = False

    def begin(self, futures: int) -> None:
        """See `Observer`."""
        super().begin(futures)
        self._spared = torch.ones(futures, dtype=torch.float64, device=self.value.device)

    def before(self, rows: Rows, probabilities: Tensor, timing: Timing | None) -> Tensor | None:
        """See `Observer`."""
        chances = self.wait.chances(rows, probabilities, timing)
        spared, outcome = self._spared[rows.future], chances.outcome.clamp(max=1)
        self.value[rows.future] += spared * outcome
        undecided = ~self.wait.decided(rows)
        self.weight[rows.future] += spared * (outcome * undecided + chances.decides)
        self._spared[rows.future] = spared * (1 - outcome)
        weights = torch.ones_like(probabilities)
        weights[:, chances.tokens] = (1 - chances.share.to(weights.dtype)).clamp(min=0)
        return weights

    def _saw(self, rows: Rows, token: Tensor, time: Tensor, happened: Tensor) -> None:
        late = self.wait.waits(rows) & self.wait.outcome.happens(rows.spelled, token)
        self.wait.see(rows, token, time, happened & ~late)
        self.wait.end(rows, late)


class Direct(Estimator):
    """Looks at the first token."""

    draws = False

    def before(self, rows: Rows, probabilities: Tensor, timing: Timing | None) -> Tensor | None:  # noqa: ARG002
        """See `Observer`."""
        first = rows.drawn == 0
        chances = self.wait.chances(rows, probabilities, None)
        self.value[rows.future] += chances.outcome * first
        self.weight[rows.future] += (chances.outcome + chances.decides) * first
        self.wait.end(rows, torch.ones_like(first))
        return None

    def _estimate(self, value: Floats, weight: Floats, confidence: float) -> Estimate:
        found = of_chances(value, weight, confidence)
        return Estimate(found.risk, found.risk, found.risk)


ESTIMATORS: Mapping[EstimatorName, type[Estimator]] = MappingProxyType(
    {"mc": MonteCarlo, "scope": Scope, "reach": Reach, "direct": Direct}
)
"""By name, in the order in which they are told."""
