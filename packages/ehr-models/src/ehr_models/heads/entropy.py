"""Cross-entropy of logits that stay in the type they were computed in.

M rows, V columns.
"""

from typing import Any

import torch
from torch import Tensor

AT_ONCE = 2**18
"""Logits that a CPU has in fp32 at a time: 1 MB, which its cache holds."""


def summed_cross_entropy(logits_MV: Tensor, answers: Tensor, columns: int) -> Tensor:
    """The sum over rows of the logarithm of what the answer was not given, in fp32.

    On a CPU it is computed some rows after another: what `torch.nn.functional.cross_entropy` makes of as
    many logits as a step has (their copy in fp32, its logarithms, its gradient) goes through main memory.
    A chance below the least normal float32 counts as that (a loss of 87); its gradient is exact.

    Args:
        logits_MV: Of any type, which its gradient has as well.
        answers: [M] below `columns`.
        columns: Those behind them are no logits: they only pad.

    Examples:
        >>> summed_cross_entropy(torch.zeros(3, 6), torch.tensor([0, 1, 3]), 4).exp().round().item()
        64.0
    """
    total: Tensor = _Summed.apply(logits_MV, answers, columns)
    return total


class _Summed(torch.autograd.Function):
    """The gradient is made with the loss: so there is one exponential of each logit, not two."""

    @staticmethod
    def forward(ctx: Any, logits_MV: Tensor, answers: Tensor, columns: int) -> Tensor:  # noqa: ANN401 -- torch's
        asked, n = ctx.needs_input_grad[0], _rows(logits_MV)
        chosen = logits_MV.new_empty(len(logits_MV), dtype=torch.float32)
        gradient = torch.empty_like(logits_MV) if asked else None
        for start in range(0, len(logits_MV), n):
            part = slice(start, start + n)
            chance = logits_MV[part, :columns].float().softmax(1)
            place = torch.arange(len(chance), device=chance.device), answers[part]
            chosen[part] = chance[place]
            if gradient is not None:
                chance[place] -= 1
                gradient[part, :columns] = chance
                gradient[part, columns:] = 0
        ctx.save_for_backward(gradient)
        return -chosen.clamp(min=torch.finfo(torch.float32).tiny).log().sum()

    @staticmethod
    def backward(ctx: Any, *scale: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401 -- torch's
        (gradient,) = ctx.saved_tensors
        if gradient.device.type == "cpu":  # where a factor of no dimension keeps its precision
            return gradient * scale[0], None, None
        return (gradient.float() * scale[0]).to(gradient.dtype), None, None


def _rows(logits_MV: Tensor) -> int:
    """How many are computed at a time."""
    if logits_MV.device.type != "cpu":
        return max(1, len(logits_MV))
    return max(1, AT_ONCE // logits_MV.shape[1])
