"""A mixture of experts: which token goes to which, their matrix products, and what it tells of itself.

This file is copied beside checkpoints as their remote code: it needs torch and transformers only.

Nothing is dropped and there is no capacity, so where a token goes is a function of its own state: no
later token and no other subject moves it. Nothing is kept from one forward to the next.

Sources: Shazeer et al. 2017; Fedus et al. 2021, Switch Transformers (the balancing loss); Zoph et al.
2022, ST-MoE (the z-loss); Wang et al. 2024, Auxiliary-Loss-Free Load Balancing (the correction).

`config` is that of the kind: `hidden_size`, `n_inner` (the width inside an expert), `experts`,
`experts_per_token`, `bias_rate`, `activation_function`.

N tokens, D width, I width inside an expert, E experts, K experts a token goes to, R = N K rows.
"""
# transformers leaves some methods untyped
# mypy: allow-untyped-calls, allow-untyped-decorators

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN

EVEN = 1e-6
"""Shares that differ by less are the same."""


class Routing(NamedTuple):
    """Where the tokens of a layer go."""

    logits: Tensor
    """[N, E] float32"""
    chosen: Tensor
    """[N, K] int64, the experts of each token"""
    weights: Tensor
    """[N, K] float32, what each of these counts"""


class Router(nn.Module):
    """From states to experts, in float32 whatever the type of the rest; the same in training and after."""

    correction: Tensor | None

    def __init__(self, config: Any) -> None:  # noqa: ANN401 -- the kind's own
        super().__init__()
        self.top_k = config.experts_per_token
        self.weight = nn.Parameter(torch.empty(config.experts, config.hidden_size))
        # moves choices, not weights
        self.register_buffer(
            "correction", torch.zeros(config.experts) if config.bias_rate else None
        )

    def forward(self, x: Tensor) -> Routing:
        """States [N, D] to the K likeliest experts of each.

        Their probabilities are divided by their sum; of a single one that would be 1 for each, and the
        router would learn nothing, so that counts what it is (Switch Transformers).
        """
        with torch.autocast(x.device.type, enabled=False):
            logits = F.linear(x.float(), self.weight.float())
            likely = logits.softmax(-1)
        preferred = likely.detach()
        if self.correction is not None:
            preferred = preferred + self.correction
        chosen = preferred.topk(self.top_k, -1).indices
        weights = likely.gather(-1, chosen)
        if self.top_k > 1:
            weights = weights / weights.sum(-1, keepdim=True)
        return Routing(logits, chosen, weights)

    @torch.no_grad()
    def rebalance(self, shares: Tensor, rate: float) -> None:
        """Prefer the experts that got less than their part a little more, and the others less.

        Args:
            shares: [E] of the tokens that were learned from.
            rate: Of one move.
        """
        if self.correction is not None and self.weight.requires_grad:
            missing = 1 / len(shares) - shares
            # exactly even is even, however the sum over passes and processes was rounded
            move = missing.where(missing.abs() > EVEN, 0).sign()
            self.correction += rate * move.to(self.correction)


class Experts(nn.Module):
    """E times down(act(up(x))), without biases; the matrices are stacked, [E, in, out]."""

    def __init__(self, config: Any) -> None:  # noqa: ANN401 -- the kind's own
        super().__init__()
        count, width, inner = config.experts, config.hidden_size, config.n_inner
        self.up = nn.Parameter(torch.empty(count, width, inner))
        self.down = nn.Parameter(torch.empty(count, inner, width))
        self.active_share = config.experts_per_token / count
        """Of the matrices, that one token passes through."""
        self.act = ACT2FN[config.activation_function]

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        """States [N, D] to the weighted sum [N, D] of what the experts of each make of it."""
        places = routing.chosen.flatten()
        top_k, kind = routing.chosen.shape[-1], x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        order = places.argsort(stable=True)
        counts = _counts(places, len(self.up))
        rows = x.to(dtype).index_select(0, order // top_k)
        inner = self.act(grouped(rows, self.up.to(dtype), counts))
        made = grouped(inner, self.down.to(dtype), counts)
        # put back in order and summed: adding in place would round in an order that varies
        made = made.index_select(0, order.argsort()).unflatten(0, (-1, top_k))
        out: Tensor = (made * routing.weights[..., None]).sum(1).to(dtype)
        return out


@torch.compiler.disable  # how many rows an expert gets differs from batch to batch
def grouped(rows: Tensor, matrices: Tensor, counts: Tensor) -> Tensor:
    """The product of each expert's rows with its matrix, in one call where the device has such.

    Args:
        rows: [R, in], those of the first expert first.
        matrices: [E, in, out].
        counts: [E] int64, rows of each.

    Returns:
        [R, out]
    """
    if not _one_call(rows, matrices) or (rows.device.type == "cpu" and bool((counts == 1).any())):
        return one_by_one(rows, matrices, counts)
    return F.grouped_mm(rows, matrices, offs=counts.cumsum(0).to(torch.int32))


def one_by_one(rows: Tensor, matrices: Tensor, counts: Tensor) -> Tensor:
    """The same in a loop, for devices, types and widths that `grouped_mm` does not take."""
    pieces = zip(rows.split(counts.tolist()), matrices, strict=True)
    return torch.cat([_product(piece, matrix) for piece, matrix in pieces])


def _product(piece: Tensor, matrix: Tensor) -> Tensor:
    """A row alone is given company on a CPU.

    Another kernel would round it otherwise than among others, so that a token's state would tell by its
    last bit how many others went the same way.
    """
    if len(piece) == 1 and piece.device.type == "cpu":
        return (piece.expand(2, -1) @ matrix)[:1]
    return piece @ matrix


def _one_call(rows: Tensor, matrices: Tensor) -> bool:
    """`grouped_mm` wants rows of whole 16 bytes, and on a GPU one of compute capability 8."""
    widths = (size * rows.element_size() % 16 for size in matrices.shape[1:])
    if not hasattr(F, "grouped_mm") or any(widths):
        return False
    if rows.is_cuda:
        return torch.cuda.get_device_capability(rows.device) >= (8, 0)
    return rows.device.type == "cpu" and rows.dtype in (torch.float32, torch.bfloat16)


class Told(NamedTuple):
    """What a mixture says of a forward, over all its layers and real tokens."""

    balance: Tensor
    """E times the sum over experts of (share of tokens that went there) x (mean probability): K where
    all is even, more where it is not. The mean over all layers' tokens, as transformers takes it."""
    z: Tensor
    """Mean of the squared logarithm of the sum of exponentials of the logits."""
    shares: Tensor
    """[layers, E] of the tokens' choices; each row adds up to 1."""


def tell(routings: Sequence[Routing], real: Tensor | None) -> Told:
    """The losses of a forward and where its tokens went.

    Args:
        routings: Of each layer with experts, at least one.
        real: [N] bool, False where a token only pads; None where none does.
    """
    logits = torch.stack([r.logits for r in routings])
    chosen = torch.stack([r.chosen for r in routings])
    if real is not None:
        logits, chosen = logits[:, real], chosen[:, real]
    layers, tokens, experts = logits.shape
    counts = torch.stack([_counts(c.flatten(), experts) for c in chosen]).to(logits.dtype)
    went = counts.sum(0) / max(1, layers * tokens)
    balance = experts * (went * logits.softmax(-1).flatten(0, 1).mean(0)).sum()
    z = logits.logsumexp(-1).square().mean()
    return Told(balance, z, counts / counts.sum(-1, keepdim=True).clamp(min=1))


def _counts(places: Tensor, experts: int) -> Tensor:
    """[E] int64, how often each is named; on the device, which nothing waits for."""
    return (places[:, None] == torch.arange(experts, device=places.device)).sum(0)
