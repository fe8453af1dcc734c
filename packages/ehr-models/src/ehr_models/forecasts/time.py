"""Time to the next token, given which it is: a distribution over log-spaced bins.

This file is copied beside checkpoints as their remote code: it needs torch and transformers only.

With it p(token, gap | past) = p(token | past) p(gap | past, token).

M rows, D width, B bins.
"""
# torch leaves some functions untyped
# mypy: allow-untyped-calls

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization

MINUTE, YEAR = 60.0, 365.25 * 86_400.0
LEAST, LONGEST = 1.0, 20 * YEAR
"""Seconds: where drawn gaps that are no zero begin, and where they end."""


def time_edges(bins: int) -> list[float]:
    """Seconds [B] between the bins behind the first, which is "the same moment".

    Bin b from 1 holds edges[b - 1] up to edges[b]: bin 1 what is below a minute, then log-spaced
    ones up to 20 years. Longer gaps count to the last.

    Examples:
        >>> [round(edge) for edge in time_edges(5)]
        [1, 60, 13147, 2880534, 631152000]
    """
    if bins < 3:
        raise ValueError("gaps need at least 3 bins: none, below a minute, and longer")
    step = math.log(LONGEST / MINUTE) / (bins - 2)
    return [LEAST, *(MINUTE * math.exp(step * i) for i in range(bins - 2)), LONGEST]


class TimeHead(nn.Module):
    """logits(gap) = out(silu(from_state(state) + from_token(norm(embedding of the next token))))."""

    def __init__(self, config: Any) -> None:  # noqa: ANN401 -- the configuration of any model
        """Of `config.time_head`: `edges`, seconds as of `time_edges`."""
        super().__init__()
        width = config.hidden_size
        self.edges: list[float] = list(config.time_head["edges"])
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.from_state = nn.Linear(width, width, bias=False)
        self.from_token = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, len(self.edges))
        self._kept: dict[torch.device, Tensor] = {}

    def forward(self, states: Tensor, next_embeddings: Tensor) -> Tensor:
        """States [M, D] and embeddings of the tokens that follow [M, D] to logits [M, B]."""
        mixed = self.from_state(states) + self.from_token(self.norm(next_embeddings))
        logits: Tensor = self.out(F.silu(mixed))
        return logits

    @torch.no_grad()
    def reset(self, std: float) -> None:
        """Initial values: any gap is about as likely as any other, and what is told is heard."""
        for linear in (self.from_state, self.from_token):
            initialization.normal_(linear.weight, 0.0, 1 / math.sqrt(linear.in_features))
        initialization.normal_(self.out.weight, 0.0, std)

    def time_bins(self, seconds: Tensor) -> Tensor:
        """The bin [...] int64 of gaps [...] in seconds; 0 for none."""
        inner = self._bounds(seconds.device)[1:-1]
        return torch.bucketize(seconds.double(), inner, right=True).add(1) * (seconds > 0)

    def draw(self, logits: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Gaps [M] float64 in seconds, by inversion.

        Args:
            logits: [M, B]
            u: [M] in [0, 1): picks the bin.
            v: [M] in [0, 1): the place in it, log-uniform. Bin 0 gives 0.
        """
        total = _shares(logits).cumsum(-1)
        at = (u.double()[:, None] >= total[:, :-1]).sum(-1)
        lower, upper = self._of_bins(at)
        return torch.where(at == 0, 0.0, lower * (upper / lower) ** v.double())

    def chance_within(self, logits: Tensor, seconds: Tensor) -> Tensor:
        """Probability [M] float64 of a gap of at most so many seconds [M]; `draw` follows it.

        Args:
            logits: [M, B]
            seconds: [M]; below 0 there is none.
        """
        shares, seconds = _shares(logits), seconds.double()
        at = self.time_bins(seconds)[:, None]
        below = shares.cumsum(-1) - shares
        lower, upper = self._of_bins(at[:, 0])
        place = (seconds.clamp(min=LEAST) / lower).log() / (upper / lower).log()
        part = torch.where(at[:, 0] == 0, 1.0, place.clamp(0, 1))
        found = below.gather(1, at)[:, 0] + shares.gather(1, at)[:, 0] * part
        return torch.where(seconds < 0, 0.0, found)

    def _of_bins(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """Where bins [M] begin and end; for bin 0 the numbers of bin 1."""
        bounds, at = self._bounds(at.device), at.clamp(min=1)
        return bounds[at - 1], bounds[at]

    def _bounds(self, device: torch.device) -> Tensor:
        """The edges there, put there once: nothing is copied while a step is replayed."""
        if device not in self._kept:
            self._kept[device] = torch.tensor(self.edges, dtype=torch.float64, device=device)
        return self._kept[device]


def _shares(logits: Tensor) -> Tensor:
    return logits.double().softmax(-1)
