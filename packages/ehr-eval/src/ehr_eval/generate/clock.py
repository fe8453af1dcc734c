"""When the next token happens: by time tokens, or by gaps that the model's time head draws.

Nothing may happen at or before the prediction time any more: all of that is in the record. So the first
token is drawn given that it comes later, and futures go on from what is known: that nothing happened since
the last event.

R rows, V vocabulary, D width, B bins of gaps, C some tokens.
"""
# torch leaves some functions untyped
# mypy: allow-untyped-calls

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ehr_eval.generate import draws
from ehr_eval.generate.observers import Rows, Timing
from ehr_models.data.tokens import STATIC
from ehr_models.forecasts.time import TimeHead
from ehr_models.vocabulary import Word
from ehr_tracking.arrow.parquet import DAY_US
from ehr_tracking.contracts import EOS_ID, SEP_ID

SECOND = 1_000_000
"""Microseconds."""
_PAIRS = 2**16
"""Pairs of a state and a token that the time head reads at once."""


def time_tokens(words: Sequence[Word], drawn: Tensor) -> list[int]:
    """Those that put a clock forward and are ever drawn.

    Args:
        words: The vocabulary.
        drawn: [V] bool.
    """
    ever = drawn.tolist()
    return [w.id for w in words if w.kind == "time" and w.seconds and ever[w.id]]


class Clock(Protocol):
    """Dates what is drawn."""

    def later(self, rows: Rows, states: Tensor) -> Tensor:
        """Logarithm [R, V] of the chance that each token, if it is the next, is still to come.

        Args:
            rows: Those whose time is not after their prediction time are asked for; 0 of the others.
            states: [R, D] of the token before.
        """
        ...

    def timing(self, rows: Rows, states: Tensor) -> Timing | None:
        """When tokens happen, for those who look on; None where that is `rows.time`."""
        ...

    def advance(self, rows: Rows, states: Tensor, token: Tensor) -> Tensor:
        """[R] int64 when a token happens.

        Args:
            rows: As before it.
            states: [R, D] of the token before.
            token: [R]
        """
        ...


def first_times(
    last: npt.NDArray[np.int64], start: npt.NDArray[np.int64], *, loose: bool
) -> npt.NDArray[np.int64]:
    """Where the clock of futures stands before their first token.

    Where nothing dated is visible it stands just after the prediction time: what comes is the first event.

    Args:
        last: [n] time of the last visible token, or `STATIC`.
        start: [n] prediction times.
        loose: The same for all, since time tokens stand between visits only, and nothing tells the time
            of what comes before the next visit.

    Examples:
        >>> first_times(np.array([5, STATIC]), np.array([7, 7]), loose=False).tolist()
        [5, 8]
    """
    return np.where(loose | (last == STATIC), start + 1, last)


class TokenClock:
    """Time tokens put the clock forward by their mean lengths; all else happens where it stands."""

    def __init__(self, words: Sequence[Word], drawn: Tensor) -> None:
        """Get ready.

        Args:
            words: The vocabulary.
            drawn: [V] bool on the device of rows, which tokens are ever drawn.
        """
        times = sorted((words[i].seconds or 0.0, i) for i in time_tokens(words, drawn))
        device = drawn.device
        self._seconds = torch.zeros(len(words), dtype=torch.float64, device=device)
        self._upper = torch.zeros_like(self._seconds)
        for n, (seconds, token) in enumerate(times):
            beyond = times[n + 1][0] if n + 1 < len(times) else None
            self._seconds[token] = seconds
            self._upper[token] = torch.inf if beyond is None else (seconds * beyond) ** 0.5
        free = [
            w.id in (SEP_ID, EOS_ID) or (w.kind == "visit" and not w.starts_visit) for w in words
        ]
        self._free = torch.tensor(free, device=device)

    def later(self, rows: Rows, states: Tensor) -> Tensor:
        """0 or -inf: time tokens that lead past the prediction time, and what may stand before such."""
        waited = _seconds(rows.start - rows.time)[:, None]
        open_ = (self._upper > waited) | self._free | (waited < 0)
        return torch.zeros(open_.shape, device=states.device).masked_fill_(~open_, -torch.inf)

    def timing(self, rows: Rows, states: Tensor) -> Timing | None:  # noqa: ARG002 -- a clock's own arguments
        """None."""
        return None

    def advance(self, rows: Rows, states: Tensor, token: Tensor) -> Tensor:  # noqa: ARG002
        """By the mean length; of an interval that is already under way, given how long it has been.

        Lengths told by a token are taken to reach up to the geometric middle between it and the next
        longer one. Where the wait until the prediction time is longer than the mean, the middle between
        that wait and this bound stands for the mean of what is left.
        """
        seconds, upper = self._seconds[token], self._upper[token]
        waited = _seconds(rows.start - rows.time).clamp(min=0)
        left = torch.where(upper.isinf(), waited + seconds, (waited + upper) / 2)
        seconds = torch.where((seconds > 0) & (seconds <= waited), left, seconds)
        return rows.time + (seconds * SECOND).round().long()


class HeadClock:
    """Gaps are drawn by the model's time head, given the token that comes; levels and bins come at once."""

    def __init__(
        self,
        head: TimeHead,
        embed: Callable[[Tensor], Tensor],
        drawn: Tensor,
        continuing: Tensor,
    ) -> None:
        """Get ready.

        Args:
            head: Of the model.
            embed: Tokens [M] to their embeddings [M, D].
            drawn: [V] bool, which tokens are ever drawn.
            continuing: [C] tokens that go on with the event before them, so at the same moment.
        """
        self._head, self._embed = head, embed
        self._edges = torch.tensor(head.edges, dtype=torch.float64, device=drawn.device)
        self._joined = torch.zeros_like(drawn)
        self._joined[continuing] = True
        self._open = (drawn & ~self._joined).nonzero()[:, 0]

    def later(self, rows: Rows, states: Tensor) -> Tensor:
        """Log survival of the gap up to the prediction time; futures of one prompt share it."""
        waiting = rows.time <= rows.start
        found = torch.zeros(len(states), len(self._joined), device=states.device)
        row = waiting.nonzero()[:, 0]
        if not len(row):
            return found
        prompt, back = torch.unique(rows.prompt[row], return_inverse=True)
        first = torch.full_like(prompt, len(states)).scatter_reduce(0, back, row, "amin")
        waited = _seconds(rows.start - rows.time)[first]
        known = self._within(states[first], self._open, waited)
        survival = torch.log1p(-known).float()
        never = survival.isneginf().all(1, keepdim=True)  # a longer wait than any gap: any may come
        of_prompt = torch.full((len(prompt), found.shape[1]), -torch.inf, device=states.device)
        of_prompt[:, self._open] = survival.masked_fill(never, 0.0)
        found[row] = of_prompt[back]
        return found

    def timing(self, rows: Rows, states: Tensor) -> Timing | None:
        """What the time head says."""
        return _HeadTiming(self, rows, states)

    def advance(self, rows: Rows, states: Tensor, token: Tensor) -> Tensor:
        """By inversion of the gap's distribution, above the wait until the prediction time; to the second.

        One number picks the bin, another the place in it, so that rounding errors of the model move no
        time: it would be another future from there on.
        """
        logits = self._head(states.float(), self._embed(token))
        waiting = rows.time <= rows.start
        waited = torch.where(waiting, _seconds(rows.start - rows.time), -1.0)
        known = self._head.chance_within(logits, waited)
        at = known + draws.uniform(rows.key, rows.drawn, "gap") * (1 - known)
        total = logits.double().softmax(-1).cumsum(-1)
        same = (at[:, None] >= total[:, :-1]).sum(-1) == self._head.time_bins(waited)
        least = torch.where(same & waiting, self._place(waited), 0.0)
        place = least + draws.uniform(rows.key, rows.drawn, "place") * (1 - least)
        time = rows.time + self._head.draw(logits, at, place).round().long() * SECOND
        time = torch.where(waiting, torch.maximum(time, rows.start + 1), time)
        return torch.where(self._joined[token], rows.time, time)

    def _place(self, seconds: Tensor) -> Tensor:
        """[R] float64, where in its bin a gap lies: 0 at the lower edge, 1 at the upper one."""
        bin_ = self._head.time_bins(seconds).clamp(min=1)
        low, high = self._edges[bin_ - 1], self._edges[bin_]
        return ((seconds.clamp(min=1e-6) / low).log() / (high / low).log()).clamp(0, 1)

    def within(self, rows: Rows, states: Tensor, tokens: Tensor, seconds: Tensor) -> Tensor:
        """[R, C] of `Timing.chance_within`."""
        waiting = rows.time <= rows.start
        waited = torch.where(waiting, _seconds(rows.start - rows.time), -1.0)
        known = self._within(states, tokens, waited)
        chance = (self._within(states, tokens, seconds) - known).clamp(min=0) / (1 - known)
        chance = torch.where(waiting[:, None] & (known >= 1), 0.0, chance)
        at_once = (seconds >= 0) & ~waiting
        joined = self._joined[tokens]
        return torch.where(joined, at_once[:, None].double(), chance).float()

    def _within(self, states: Tensor, tokens: Tensor, seconds: Tensor) -> Tensor:
        """[M, C] float64, probability of a gap of at most `seconds` [M] before each of some tokens."""
        embedded = self._embed(tokens)
        each = max(1, _PAIRS // max(1, len(tokens)))
        parts = []
        for state, limit in zip(states.split(each), seconds.split(each), strict=True):
            # each state and each token is mapped once, not once a pair
            logits = self._head(state[:, None].float(), embedded[None]).flatten(0, 1)
            chance = self._head.chance_within(logits, limit.repeat_interleave(len(tokens)))
            parts.append(chance.view(len(state), len(tokens)))
        return torch.cat(parts)


class _HeadTiming:
    def __init__(self, clock: HeadClock, rows: Rows, states: Tensor) -> None:
        self._clock, self._rows, self._states = clock, rows, states

    def chance_within(self, tokens: Tensor, seconds: Tensor) -> Tensor:
        """As of `Timing`."""
        return self._clock.within(self._rows, self._states, tokens, seconds)


def _seconds(span: Tensor) -> Tensor:
    """Microseconds as float64; torch's own division would make float32 of them."""
    return span.double() / SECOND


def ages(born: Tensor, time: Tensor) -> Tensor:
    """[R] float32 days since birth [R] at some times [R]."""
    return ((time - born).double() / DAY_US).float()
