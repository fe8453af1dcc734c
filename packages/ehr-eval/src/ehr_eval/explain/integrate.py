"""Integrated gradients: what each token adds to what a model says.

Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks" (2017): the gradient, averaged along the straight line
from a baseline to the input, times their difference. The attributions add up to what the model says less what it says of the
baseline. The path is that of the embeddings of codes; positions, ages and times stay as they are.

T tokens, D width, K points of the path.
"""
# transformers and torch leave some methods untyped
# mypy: allow-untyped-calls

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ehr_eval.explain.config import GradientsConfig
from ehr_models.data.batch import Batch, pack
from ehr_models.data.tokens import Tokens
from ehr_models.data.windows import Windows
from ehr_models.heads.token import hidden_states
from ehr_tracking.contracts import SPECIALS, UNK_ID
from ehr_tracking.errors import UserError

Target = Callable[[Tensor, Batch], Tensor]
"""States [T, D] of a batch of S spans -> what is explained, [S]."""


class Attributed(NamedTuple):
    """What the tokens of one window add."""

    value: npt.NDArray[np.float64]
    """[T]"""
    output: float
    """What the model says."""
    baseline: float
    """What it says of the baseline."""
    steps: int
    """Points of the path."""

    @property
    def missed(self) -> float:
        """By how much the attributions miss what they should add up to."""
        return abs(float(self.value.sum()) - (self.output - self.baseline))


def integrated_gradients(
    model: PreTrainedModel,
    tokens: Tokens,
    window: Windows,
    target: Target,
    config: GradientsConfig,
) -> Attributed:
    """Attribute what a model says to the tokens of one window.

    Args:
        model: In evaluation mode.
        tokens: One split.
        window: One of it.
        target: What is explained.
        config: Baseline, points and tolerance.

    Raises:
        UserError: If the model looks codes up otherwise than by one table, so that there is no path.
    """
    path = _Path(model, tokens, window, target, config)
    ends, _ = path.at(np.array([0.0, 1.0]), gradients=False)
    baseline, output = ends.tolist()
    steps = config.steps
    while True:
        node, weight = np.polynomial.legendre.leggauss(steps)
        _, mean = path.at((node + 1) / 2, gradients=True, weight=weight / 2)
        found = Attributed((mean * path.beyond).sum(axis=1), output, baseline, steps)
        if (
            found.missed <= config.tolerance * abs(output - baseline)
            or 2 * steps > config.most_steps
        ):
            return found
        steps *= 2


class _Path:
    """The line from the baseline to the embeddings of one window."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokens: Tokens,
        window: Windows,
        target: Target,
        config: GradientsConfig,
    ) -> None:
        self.model, self.tokens, self.window, self.target = model, tokens, window, target
        self.table: Any = model.get_input_embeddings()
        ids = pack(tokens, window).input_ids
        with torch.no_grad():
            self.end = self.table(ids).float()
            start = self._baseline(config.baseline).expand_as(self.end)
        special = (ids < len(SPECIALS))[:, None]
        self.start = torch.where(special, self.end, start)
        self.beyond = (self.end - self.start).double().numpy()
        self.together = max(1, config.batch_tokens // len(ids))

    def _baseline(self, name: str) -> Tensor:
        weight: Tensor = self.table.weight
        if name == "unknown":
            return weight[UNK_ID].float()
        mean = weight[len(SPECIALS) : self.model.config.true_vocab_size].float().mean(dim=0)
        return mean if name == "mean" else torch.zeros_like(mean)

    def at(
        self,
        node: npt.NDArray[np.float64],
        *,
        gradients: bool,
        weight: npt.NDArray[np.float64] | None = None,
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """[K] what the model says at points from 0 to 1, and the weighted sum of gradients [T, D]."""
        said, total = [], np.zeros(self.beyond.shape)
        for first in range(0, len(node), self.together):
            part = torch.from_numpy(node[first : first + self.together]).float()[:, None, None]
            point = (self.start + part * (self.end - self.start)).requires_grad_(gradients)
            windows = self.window.take(np.zeros(len(part), np.int64))
            batch = pack(self.tokens, windows)
            with torch.set_grad_enabled(gradients), _replaced(self.table, point):
                out = self.target(hidden_states(self.model, batch), batch)
            said.append(out.detach().double().numpy())
            if gradients:
                assert weight is not None
                (slope,) = torch.autograd.grad(out.sum(), point)
                of_part = weight[first : first + self.together]
                total += np.einsum("k,ktd->td", of_part, slope.double().numpy())
        return np.concatenate(said), total


@contextmanager
def _replaced(table: Any, point: Tensor) -> Iterator[None]:  # noqa: ANN401 -- any module
    """Within it a table of embeddings gives other ones, [K, T, D], for the K copies of a window.

    Raises:
        UserError: If the model did not look into the table just once.
    """
    looked = 0

    def give(_: object, __: object, out: Tensor) -> Tensor:
        nonlocal looked
        looked += 1
        return point.reshape(out.shape).to(out.dtype)

    hook = table.register_forward_hook(give)
    try:
        yield
    finally:
        hook.remove()
    if looked != 1:
        raise UserError(
            f"the model looks into its table of codes {looked} times in a pass: there is no one path to explain"
        )
