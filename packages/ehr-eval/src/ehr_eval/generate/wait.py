"""What a task waits for in each future: its window, what ends it, and the chance that the next token is it.

R rows, F futures of a part, C tokens that can be the outcome.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ehr_eval.generate.observers import Rows, Timing
from ehr_eval.generate.rules import Rule
from ehr_eval.generate.spelling import Spelling
from ehr_eval.tasks.files import TaskFile
from ehr_eval.tasks.patterns import EventPattern
from ehr_tracking.errors import UserError

_NEVER = torch.iinfo(torch.int64).max
_DAY = 86_400_000_000
_MICRO = 1e-6


class Chances(NamedTuple):
    """Of the next token."""

    outcome: Tensor
    """[R] float64, that it is the outcome, in time."""
    decides: Tensor
    """[R] float64, that it decides with another answer, in time; 0 once something has."""
    tokens: Tensor
    """[C]"""
    share: Tensor
    """[R, C] what share of the probability of each of these is the outcome, in time."""


class Seen(NamedTuple):
    """What a token was."""

    outcome: Tensor
    """[R] bool, the first outcome of the future."""
    decides: Tensor
    """[R] bool, the first event that decides, the outcome itself included."""


class Wait:
    """Follows one task through the futures of a part.

    What ends the wait ends it after its own moment: an outcome at the very time of it counts.
    """

    def __init__(self, task: TaskFile, spelling: Spelling, limit: int | None = None) -> None:
        """Get ready.

        Args:
            task: What is waited for.
            spelling: Of the model's vocabulary.
            limit: Horizon in microseconds of a task that has none; None: the futures' own end.

        Raises:
            UserError: If no token of the vocabulary can tell the outcome, or the stay it has to be in, or
                the task asks for what real records alone can tell.
        """
        if setting := task.for_labels_alone():
            raise UserError(
                f"task {task.name}: {setting} can be told of real records alone, not of futures; label it, "
                "and train on the labels"
            )
        self.task, self.spelling = task, spelling
        ends = (*task.stop, *task.given)
        begins: tuple[EventPattern, ...] = ()
        if task.window == "next":
            begins = (EventPattern(code=task.start.regex),)
            ends = (*ends, EventPattern(code=task.start.until))
        self.outcome, self.ends = Rule(spelling, task.outcome or ()), Rule(spelling, ends)
        self.decides, self.begins = Rule(spelling, task.given), Rule(spelling, begins)
        for what, rule in (("outcome", self.outcome), ("stay that it has to be in", self.begins)):
            if rule.patterns and not rule.can_happen():
                raise UserError(
                    f"task {task.name}: no token of the vocabulary can tell its {what} "
                    f"({' or '.join(p.said() for p in rule.patterns)})"
                )
        self._horizon = limit if task.horizon_days is None else round(task.horizon_days * _DAY)

    def begin(self, futures: int) -> None:
        """A part of so many futures begins."""
        device = self.spelling.device
        self._stopped = torch.full((futures,), _NEVER, device=device)
        self._opened = torch.full((futures,), not self.begins.patterns, device=device)
        self._over = torch.zeros(futures, dtype=torch.bool, device=device)
        self._decided = torch.zeros(futures, dtype=torch.bool, device=device)

    def closes(self, rows: Rows) -> Tensor:
        """[R] int64, until when an outcome counts."""
        end = torch.minimum(rows.end, self._stopped[rows.future])
        return end if self._horizon is None else torch.minimum(end, rows.start + self._horizon)

    def waits(self, rows: Rows) -> Tensor:
        """[R] bool, where the outcome may be the next token."""
        open_ = self._opened[rows.future] & ~self._over[rows.future]
        return rows.alive & open_ & (rows.time <= self.closes(rows))

    def chances(self, rows: Rows, probabilities: Tensor, timing: Timing | None) -> Chances:
        """What the next token may be.

        Args:
            rows: Before it.
            probabilities: [R, V] of it.
            timing: When it happens; None: at `rows.time`.
        """
        waits = self.waits(rows)
        tokens, share = self.outcome.tokens, self._share(self.outcome, rows, timing)
        share = share * waits[:, None]
        outcome = (probabilities[:, tokens] * share).sum(1, dtype=torch.float64)
        decides = torch.zeros_like(outcome)
        if self.task.given:
            others = self._share(self.decides, rows, timing)
            other = (probabilities[:, self.decides.tokens] * others).sum(1, dtype=torch.float64)
            twice = self._of_both(rows, probabilities, timing)
            undecided = waits & ~self._decided[rows.future]
            decides = (other - twice).clamp(min=0) * undecided
        return Chances(outcome, decides, tokens, share)

    def see(self, rows: Rows, token: Tensor, time: Tensor, happened: Tensor) -> Seen:
        """Take in what was drawn.

        Args:
            rows: Before it.
            token: [R] int64.
            time: [R] int64, when it happens.
            happened: [R] bool, where it does.
        """
        at, state = rows.future, rows.spelled
        counts = happened & self.waits(rows) & (time <= self.closes(rows))
        outcome = counts & self.outcome.happens(state, token)
        first = ~self._decided[at]
        decides = outcome | (counts & self.decides.happens(state, token))
        self._over[at] |= outcome
        self._decided[at] |= decides
        ends = counts & self.ends.happens(state, token)
        stopped = self._stopped[at]
        self._stopped[at] = torch.where(ends, torch.minimum(stopped, time), stopped)
        if self.begins.patterns:
            self._opened[at] |= happened & self.begins.happens(state, token)
        return Seen(outcome, decides & first)

    def decided(self, rows: Rows) -> Tensor:
        """[R] bool, where something has decided."""
        return self._decided[rows.future]

    def end(self, rows: Rows, where: Tensor) -> None:
        """Some futures are over: nothing later can be the outcome."""
        self._over[rows.future] |= where

    def finished(self, rows: Rows) -> Tensor:
        """[R] bool, where no outcome can come any more."""
        return self._over[rows.future] | (rows.time > self.closes(rows))

    def _share(self, rule: Rule, rows: Rows, timing: Timing | None) -> Tensor:
        """[R, C] of each token of a rule the chance that it is such an event, in time."""
        tokens, mask = rule.tokens, rule.mask(rows.spelled)
        left = (self.closes(rows) - rows.time).double() * _MICRO
        if timing is None or not len(tokens):
            return mask.float()
        return mask * timing.chance_within(tokens, left)

    def _of_both(self, rows: Rows, probabilities: Tensor, timing: Timing | None) -> Tensor:
        """[R] that the next token is the outcome and an event of `given` as well."""
        tokens = self.outcome.tokens
        if not len(tokens):
            return torch.zeros(len(rows.future), dtype=torch.float64, device=tokens.device)
        columns = self.decides.column(tokens)
        both = self.decides.mask(rows.spelled)[:, columns.clamp(min=0)] & (columns >= 0)
        share = self._share(self.outcome, rows, timing) * both
        return (probabilities[:, tokens] * share).sum(1, dtype=torch.float64)
