"""Whether any of a set of tokens comes within some time: an answer to a question that is an input.

This file is copied beside checkpoints as their remote code: it needs torch and transformers only.

Source:
    EveryQuery: task-conditioned pretraining for zero-shot clinical prediction, arXiv 2603.07900. There a
    query is one code; here it is a set, so that "one of these" needs no sum of answers.

T states, Q queries, N tokens of all their sets, D width, H heads, S spans of a group, L states of the
longest of them, K queries of the one with most.
"""
# torch leaves some functions untyped
# mypy: allow-untyped-calls

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization

YEARS = 20 * 365.25 * 86_400.0
"""Seconds at which `of_seconds` has come to one."""
WAVES = 6
PAIRS = 2**23
"""Most pairs of a query and a state that are attended to at once."""


class Queries(NamedTuple):
    """What is asked of a packed batch."""

    tokens: Tensor
    """[N] int64, the sets one after the other; each has a token."""
    first: Tensor
    """[Q] int64, where each set begins in `tokens`."""
    horizon: Tensor
    """[Q] float32 seconds, above 0."""
    since: Tensor
    """[Q] float32 seconds from the last token that is seen to the prediction time."""
    begin: Tensor
    """[Q] int64, the first state that each may look at: the first of its span."""
    end: Tensor
    """[Q] int64, behind the last one."""


class QueryHead(nn.Module):
    """Looks from a query over the states up to its prediction time; two logits.

    x = set + numbers + last state, then in each block x + attention over the states, then + MLP.
    """

    def __init__(self, config: Any) -> None:  # noqa: ANN401 -- the configuration of any model
        """Of `config.query_head`: `blocks` and `heads`."""
        super().__init__()
        width, settings = config.hidden_size, config.query_head
        self.norm_set = nn.RMSNorm(width, eps=1e-6)
        self.from_numbers = nn.Linear(1 + 2 * (1 + 2 * WAVES), width)
        self.from_state = nn.Linear(width, width, bias=False)
        self.blocks = nn.ModuleList(
            QueryBlock(width, settings["heads"]) for _ in range(settings["blocks"])
        )
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.out = nn.Linear(width, 2)

    def forward(self, states: Tensor, table: Tensor, queries: Queries) -> Tensor:
        """Logits [Q, 2]: it occurs within the horizon; the record ends before, without it.

        Args:
            states: [T, D]
            table: [V, D], the model's own embeddings of tokens.
            queries: Q of them, in any order; an answer depends on no other query.
        """
        x = self._asked(states, table, queries)
        groups = list(_groups(queries.begin, queries.end))
        for block in self.blocks:
            x = block(x, states, groups)
        logits: Tensor = self.out(self.norm(x))
        return logits

    def _asked(self, states: Tensor, table: Tensor, queries: Queries) -> Tensor:
        sizes = F.pad(queries.first, (0, 1), value=len(queries.tokens)).diff()
        mean = F.embedding_bag(queries.tokens, table, queries.first, mode="mean")
        numbers = [sizes.log()[:, None] / 5, of_seconds(queries.horizon), of_seconds(queries.since)]
        asked = self.norm_set(mean) + self.from_numbers(torch.cat(numbers, 1))
        x: Tensor = asked + self.from_state(states[queries.end - 1])
        return x

    @torch.no_grad()
    def reset(self, std: float) -> None:
        """Initial values."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                initialization.normal_(module.weight, 0.0, std)


class QueryBlock(nn.Module):
    """x + attention over the states, then + MLP; RMSNorm before each."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_query = nn.RMSNorm(width, eps=1e-6)
        self.norm_state = nn.RMSNorm(width, eps=1e-6)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.back = nn.Linear(width, width, bias=False)
        self.norm_mlp = nn.RMSNorm(width, eps=1e-6)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, states: Tensor, groups: "list[Group]") -> Tensor:
        """[Q, D] to [Q, D], over states [T, D]."""
        asked = self.query(self.norm_query(x)).unflatten(1, (self.heads, -1))
        key, value = (
            t.unflatten(1, (self.heads, -1))
            for t in self.key_value(self.norm_state(states)).chunk(2, 1)
        )
        found = torch.zeros_like(asked, dtype=value.dtype)
        if not groups:  # gradients, of zero, are to reach all weights where nothing is asked
            found = asked + value[:0]
        for group in groups:
            found = found.index_copy(0, group.owner, _attend(asked, key, value, group))
        x = x + self.back(found.flatten(1))
        out: Tensor = x + self.down(F.silu(self.up(self.norm_mlp(x))))
        return out


class Group(NamedTuple):
    """Spans of about one length, padded to the longest."""

    query: Tensor
    """[S, K] int64, which queries are of each; repeats where there are fewer."""
    place: Tensor
    """[k] int64, which of S times K are no repeats."""
    owner: Tensor
    """[k] int64, the queries there."""
    state: Tensor
    """[S, L] int64, the states of each; those of others behind its own."""
    seen: Tensor
    """[S, 1, K, L] bool, whether the query may look at the state."""


def _attend(asked: Tensor, key: Tensor, value: Tensor, group: Group) -> Tensor:
    """What the queries of a group find [k, H, D / H]."""
    q, k, v = (
        t[rows].transpose(1, 2)
        for t, rows in ((asked, group.query), (key, group.state), (value, group.state))
    )
    found: Tensor = F.scaled_dot_product_attention(q, k, v, attn_mask=group.seen)
    return found.transpose(1, 2).flatten(0, 1)[group.place].to(value.dtype)


def _groups(begin: Tensor, end: Tensor) -> Iterator[Group]:
    """The queries [Q] by their spans, those of about one length together."""
    if not len(begin):
        return
    start, span, counts = torch.unique(begin, return_inverse=True, return_counts=True)
    longest = torch.zeros_like(start).scatter_reduce(0, span, end - begin, "amax")
    by_span = torch.argsort(span, stable=True)
    first = counts.cumsum(0) - counts
    by_length = torch.argsort(longest, stable=True)
    told = torch.stack([longest, counts])[:, by_length].tolist()
    for low, high in _alike(*told):
        mine = by_length[low:high]
        most, width = max(told[1][low:high]), told[0][high - 1]
        number = torch.arange(most, device=begin.device)
        place = (number < counts[mine, None]).flatten().nonzero()[:, 0]
        query = by_span[first[mine, None] + torch.minimum(number, counts[mine, None] - 1)]
        column = torch.arange(width, device=begin.device)
        state = start[mine, None] + torch.minimum(column, longest[mine, None] - 1)
        seen = column < (end - begin)[query][..., None]
        yield Group(query, place, query.flatten()[place], state, seen[:, None])


def _alike(lengths: list[int], counts: list[int]) -> Iterator[tuple[int, int]]:
    """Cut spans, shortest first, where one is twice as long as the first, or pairs become too many.

    Examples:
        >>> list(_alike([3, 4, 7, 20, 21], [1, 1, 1, 1, 1]))
        [(0, 2), (2, 3), (3, 5)]
    """
    low = 0
    for high in range(1, len(lengths) + 1):
        if high < len(lengths):
            most = max(counts[low : high + 1])
            pairs = (high + 1 - low) * most * lengths[high]
            if lengths[high] <= 2 * lengths[low] and pairs <= PAIRS:
                continue
        yield low, high
        low = high


def of_seconds(seconds: Tensor) -> Tensor:
    """Log-spaced features [Q, 1 + 2 WAVES] of lengths of time [Q].

    The logarithm, from a minute to 20 years, and waves of it, so that an hour and a year are told apart as
    well as ten years and eleven.

    Examples:
        >>> of_seconds(torch.tensor([0.0, YEARS]))[:, 0].tolist()
        [0.0, 1.0]
    """
    place = (seconds / 60).log1p()[:, None] / math.log1p(YEARS / 60)
    turns = place * (math.pi * 2.0 ** torch.arange(WAVES, device=seconds.device))
    return torch.cat([place, turns.sin(), turns.cos()], 1)
