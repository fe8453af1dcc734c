"""When each of many codes comes next, and with which value: marked time to event.

This file is copied beside checkpoints as their remote code: it needs torch and transformers only.

M rows (moments that are asked of), K codes, B bins of time, R rank, P occurrences, C chunks of rows,
Q occurrences with a value, V values of all codes, N most values of a code, D width.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import initialization

LOGITS = 2**22
"""Most logits held at once: 16 MB in fp32, a few times."""
_TINY = -17.0
"""Below it softplus(x) is exp(x) to the last bit of float32, and its logarithm x."""


class EventsHead(nn.Module):
    """For each code of a set the hazard of its next occurrence, and the distribution of the value then.

    Within a bin of time the hazard is constant. `logits` x give softplus(x), what is expected of the
    code in a whole bin: so 1 - exp(-softplus(x)) = sigmoid(x) is the chance that it comes in the bin if
    it did not before. x is of low rank, state -> [B, R] times code [K, R], plus what each code has in
    each bin whoever is looked at. The value comes from the state, the bin of time in which the code
    comes, and the code: p(time, value) = p(time) p(value | time).

    `config.events_head` says all of it: `codes` (K names), `ids` (tokens of each), `value_ids` (tokens
    that tell the value of each, none or at least two: those of the code itself, or shared bins that
    follow it), `edges` (B + 1 ascending seconds, from 0), `rank`.

    Source:
        Steinberg et al., MOTOR, ICLR 2024 (arXiv 2301.03150): constant hazards within pieces, low rank;
        Jing et al. 2026 (arXiv 2602.00541): value and time of every event in one loss.
    """

    def __init__(self, config: Any) -> None:  # noqa: ANN401 -- the configuration of any model
        super().__init__()
        settings, width = config.events_head, config.hidden_size
        self.names: list[str] = list(settings["codes"])
        self.edges: list[float] = list(settings["edges"])
        self.bins = len(self.edges) - 1
        self.rank = int(settings["rank"])
        self.counts = [len(ids) for ids in settings["value_ids"]]
        """[K] values of each code"""
        self.values = sum(self.counts)
        self.most = max(self.counts, default=0)
        """N"""
        self.time = nn.Linear(width, self.bins * self.rank)
        self.codes = nn.Embedding(len(self.names), self.rank)
        self.bias = nn.Parameter(torch.full((self.bins * len(self.names),), -4.0))  # flat: no decay
        if self.values:
            self.value = nn.Linear(width, self.rank)
            self.value_time = nn.Embedding(self.bins, self.rank)
            self.value_codes = nn.Embedding(self.values, self.rank)
            self.value_bias = nn.Parameter(torch.zeros(self.values))
        self._kept: dict[torch.device, _Numbers] = {}

    @torch.no_grad()
    def reset(self, std: float) -> None:
        """Initial values: codes do not differ yet, and states tell nothing of them."""
        for module in self.children():
            assert isinstance(module, (nn.Linear, nn.Embedding))
            initialization.normal_(module.weight, 0.0, std)
            if isinstance(module, nn.Linear):
                initialization.zeros_(module.bias)
        initialization.constant_(self.bias, -4.0)
        if self.values:
            initialization.zeros_(self.value_bias)

    @torch.no_grad()
    def start(self, hazards: Tensor, shares: Tensor) -> None:
        """Begin at what is known of the codes whoever is looked at.

        Args:
            hazards: [B, K] expected occurrences in each bin while it lasts, above 0.
            shares: [V] of each value among those of its code, above 0.
        """
        self.bias.copy_(hazards.double().expm1().log().flatten())
        if self.values:
            self.value_bias.copy_(shares.log())

    def logits(self, states: Tensor, codes: Tensor | None = None) -> Tensor:
        """[M, D] to [M, B, K] in float32, or to [M, B, len(codes)] of some codes by place."""
        table, bias = self.codes.weight, self.bias.view(self.bins, -1)
        if codes is not None:
            table, bias = table[codes], bias[:, codes]
        factors = self.time(states).view(-1, self.rank)
        found = F.linear(factors, table).view(len(states), self.bins, len(table))
        return found.float() + bias

    def forward(self, states: Tensor) -> Tensor:
        """[M, D] to `logits` [M, B, K]."""
        return self.logits(states)

    def exposure(self, seconds: Tensor) -> Tensor:
        """The share of each bin that is over after so long: [...] to [..., B]."""
        edges = self._numbers(seconds.device).edges
        lower, upper = edges[:-1], edges[1:]
        return ((seconds[..., None] - lower) / (upper - lower)).clamp(0, 1)

    def bin_of(self, seconds: Tensor) -> Tensor:
        """The bin that each time [...] is in, `edges` being the last of one; B - 1 behind the last."""
        upper = self._numbers(seconds.device).edges[1:]
        return torch.bucketize(seconds, upper).clamp(max=self.bins - 1)

    def chance_within(
        self, states: Tensor, codes: Tensor, seconds: Tensor, since: Tensor | None = None
    ) -> Tensor:
        """The chance that each code comes within a time [M, C], whatever else comes before it.

        Args:
            states: [M, D] of the last tokens of moments.
            codes: [C] by their place in `names`.
            seconds: [M] or one for all: how long from now. Nothing is known of what is later than the
                last edge, so that counts as never.
            since: [M] or one for all: how long ago that moment was; nothing has come since then.
        """
        past = torch.zeros_like(seconds) if since is None else since
        over, before = (
            self.exposure(t.float().expand(len(states))) for t in (past + seconds, past)
        )
        expected = F.softplus(self.logits(states, codes)) * (over - before)[..., None]
        return -torch.expm1(-expected.sum(1))

    def value_logits(self, states: Tensor, codes: Tensor, seconds: Tensor) -> Tensor:
        """Log-probabilities [Q, N] of the values that a code has if it comes next after so long.

        Args:
            states: [Q, D]
            codes: [Q] with values, by place in `names`.
            seconds: [Q]

        Returns:
            In the order of the code's `value_ids`; -inf behind its last.
        """
        numbers, place = self._numbers(codes.device), torch.arange(self.most, device=codes.device)
        missing = place >= numbers.values[codes][:, None]
        place = (numbers.start[codes][:, None] + place).masked_fill(missing, 0)
        wanted = self.value(states) + self.value_time(self.bin_of(seconds))
        found = torch.bmm(self.value_codes(place), wanted.to(self.value_codes.weight)[..., None])
        logits = found[..., 0].float() + self.value_bias[place]
        return logits.masked_fill(missing, -torch.inf).log_softmax(-1)

    def _numbers(self, device: torch.device) -> "_Numbers":
        """Put there once, and never in the dtype of the weights."""
        if device not in self._kept:
            count = torch.tensor(self.counts, dtype=torch.int64, device=device)
            edges = torch.tensor(self.edges, dtype=torch.float32, device=device)
            self._kept[device] = _Numbers(edges, count, count.cumsum(0) - count)
        return self._kept[device]

    def time_loss(
        self, states: Tensor, seen: Tensor, row: Tensor, code: Tensor, seconds: Tensor
    ) -> Tensor:
        """The negative log-likelihood of what came when, and of what did not, summed over rows and codes.

        A code of which the next occurrence is after t in a bin costs what was expected of it up to t,
        minus the logarithm of what was expected in that bin. One that did not come costs what was
        expected while the record was seen: also in the bin in which it ends, by the share of it
        that was seen. (To say nothing of that bin, as `losses.survival_nll` does, would leave there the
        events alone, and hazards in long bins too high.) No occurrence is behind the last edge.

        Rows are taken in C chunks of as many rows each (the last may be shorter), which are made again
        in the backward pass rather than held. Nothing but rounding depends on C.

        Args:
            states: [M, D]
            seen: [M] seconds to the end of what is known.
            row: [C, P] of each occurrence its row within the chunk.
            code: [C, P] by place in `names`; a row has a code at most once.
            seconds: [C, P] until then; below 0 where there is none.
        """
        size = max(1, -(-len(states) // len(row)))
        chunks = zip(
            _split(states, size, len(row)), _split(seen, size, len(row)), row, code, seconds, strict=True
        )  # fmt: skip
        if len(row) == 1:
            return self._time_part(*next(chunks))
        parts = [checkpoint(self._time_part, *chunk, use_reentrant=False) for chunk in chunks]
        return torch.stack(parts).sum()

    def _time_part(
        self, states: Tensor, seen: Tensor, row: Tensor, code: Tensor, seconds: Tensor
    ) -> Tensor:
        """Of one chunk: as if nothing had come; then, for what did, without what is behind it."""
        logits = self.logits(states)
        expected = F.softplus(logits)
        seen_share = self.exposure(seen)
        total = (expected.sum(2) * seen_share).sum()
        if not len(states):
            return total
        there = seconds >= 0
        behind = (seen_share[row] - self.exposure(seconds)) * there[:, None]
        at = _flat(row, torch.arange(self.bins, device=row.device), code, logits.shape)
        came = expected.flatten().index_select(0, at.flatten()).view_as(at)
        total = total - (came * behind).sum()
        at = at.gather(1, self.bin_of(seconds)[:, None])[:, 0]
        return total - (_log_softplus(logits.flatten().index_select(0, at)) * there).sum()

    def value_loss(
        self, states: Tensor, row: Tensor, code: Tensor, seconds: Tensor, place: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The cross-entropy of values at next occurrences, summed, and how many of the likeliest are right.

        Args:
            states: [M, D]
            row: [Q] rows of `states`.
            code: [Q] by place in `names`.
            seconds: [Q] until then.
            place: [Q] of the value, in the code's `value_ids`.
        """
        size = max(1, LOGITS // (self.most * self.rank))
        parts = []
        for chunk in zip(*(torch.split(t, size) for t in (row, code, seconds, place)), strict=True):
            whole = len(row) <= size
            parts.append(
                self._value_part(states, *chunk)
                if whole
                else checkpoint(self._value_part, states, *chunk, use_reentrant=False)
            )
        return torch.stack([p[0] for p in parts]).sum(), torch.stack([p[1] for p in parts]).sum()

    def _value_part(
        self, states: Tensor, row: Tensor, code: Tensor, seconds: Tensor, place: Tensor
    ) -> tuple[Tensor, Tensor]:
        found = self.value_logits(states[row], code, seconds)
        loss = -found.gather(1, place[:, None]).sum()
        return loss, (found.detach().argmax(1) == place).sum()


class _Numbers(NamedTuple):
    """What the head is told, on some device."""

    edges: Tensor
    """[B + 1] float32"""
    values: Tensor
    """[K] how many of each code"""
    start: Tensor
    """[K] where they begin among those of all"""


def chunks_of(rows: int, bins: int, codes: int) -> int:
    """Into how many chunks rows are taken, so that few enough logits are held; at least 1.

    Examples:
        >>> chunks_of(0, 16, 4_000), chunks_of(2_000, 16, 4_000)
        (1, 31)
    """
    return max(1, -(-rows * bins * codes // LOGITS))


def _split(values: Tensor, size: int, chunks: int) -> Sequence[Tensor]:
    """In so many pieces of `size`; the last ones may be shorter, or empty."""
    return [values[size * i : size * (i + 1)] for i in range(chunks)]


def _flat(row: Tensor, bins: Tensor, code: Tensor, shape: torch.Size) -> Tensor:
    """Where [row, b, code] lies in a flat tensor of the shape [M, B, K], for each b: [P, B]."""
    return (row[:, None] * shape[1] + bins) * shape[2] + code[:, None]


def _log_softplus(x: Tensor) -> Tensor:
    """log(softplus(x)), also where softplus(x) is 0 in float32.

    Examples:
        >>> _log_softplus(torch.tensor([-200.0, 0.0])).tolist()
        [-200.0, -0.3665129244327545]
    """
    low = x < _TINY
    return torch.where(low, x, F.softplus(x.masked_fill(low, 0)).log())
