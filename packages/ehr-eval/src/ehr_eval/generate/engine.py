"""The loop: many futures side by side, a token each a step, from records that are read once.

A step draws, dates, asks who looks on, notes, and reads what was drawn; all of it on the device. Every few
steps the host hears which rows are over: these are dropped, rows whose context is full begin anew with their
newest tokens, and further prompts are read.

R rows, F futures, V vocabulary, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ehr_eval.generate import draws
from ehr_eval.generate.clock import Clock, ages, first_times
from ehr_eval.generate.futures import Futures, Record
from ehr_eval.generate.observers import Observer, Rows
from ehr_eval.generate.prompts import Integers, Prompts, newest_places, span_batch
from ehr_eval.generate.sampling import nucleus
from ehr_eval.generate.spelling import NOTHING, Spelling
from ehr_eval.generate.stops import ENOUGH, HORIZON, RUNNING, SUPPRESSED, Stops
from ehr_models.data.batch import Batch
from ehr_models.decoding.decoder import Decoder

_NONE: Integers = np.zeros(0, np.int64)
_LOOK = {"cpu": 1}
"""Steps between two looks at which rows are over: on a CPU it costs nothing to look."""
_SELDOM = 8
_WORTH = 16
"""Rows are dropped once they are more than one in so many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """How futures are drawn."""

    samples: int
    """Of each prompt."""
    horizon: int
    """Microseconds."""
    context: int
    """Most tokens that the model sees at once."""
    prompt: int
    """Tokens that a future goes on with where its context was full."""
    rows: int
    """At once, about."""
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0


class Engine:
    """Draws futures with one model."""

    def __init__(
        self,
        decoder: Decoder,
        spelling: Spelling,
        clock: Clock,
        stops: Stops,
        drawn: Tensor,
        drawing: Drawing,
        *,
        loose: bool = False,
    ) -> None:
        """Put the parts together; all of one device.

        Args:
            decoder: Of the model.
            spelling: Of its vocabulary.
            clock: When tokens happen.
            stops: Where futures end.
            drawn: [V] bool, which tokens may be drawn.
            drawing: How.
            loose: As of `clock.first_times`.
        """
        self.decoder, self.spelling, self.clock, self.stops = decoder, spelling, clock, stops
        self.drawn, self.drawing, self.loose = drawn, drawing, loose
        self._never = torch.zeros(len(drawn), device=decoder.device)
        self._never[~drawn] = -torch.inf
        self._look = _LOOK.get(decoder.device.type, _SELDOM)

    @torch.inference_mode()
    def run(
        self,
        prompts: Prompts,
        observers: Sequence[Observer] = (),
        *,
        whole: bool = True,
        tell: Callable[[int], object] = lambda _: None,
    ) -> Futures:
        """Draw all futures of some prompts.

        Args:
            prompts: P of them.
            observers: Who looks on.
            whole: Futures are drawn to their end; else until no observer needs more of them.
            tell: Called with the number of futures that have just ended.

        Returns:
            P * samples futures, by prompt, then sample.
        """
        return _Run(self, prompts, observers, whole=whole, tell=tell).futures()


class _Run:
    """One part on its way."""

    def __init__(
        self,
        engine: Engine,
        prompts: Prompts,
        observers: Sequence[Observer],
        *,
        whole: bool,
        tell: Callable[[int], object],
    ) -> None:
        self.e, self.prompts, self.observers, self.tell = engine, prompts, observers, tell
        self.whole = whole or not observers
        self.decoder, self.drawing = engine.decoder, engine.drawing
        self.device = engine.decoder.device
        count = len(prompts) * engine.drawing.samples
        self.record = Record(count, self.device)
        for observer in observers:
            observer.begin(count)
        self.next = 0
        """The first prompt that has not been read."""
        self.waiting = False
        """Whether the first event of a row may still be to come."""
        self.rows = self._begin(slice(0, 0))
        self.states = torch.zeros(0, 0, device=self.device)

    def futures(self) -> Futures:
        """Draw until all are over."""
        self.decoder.keep(torch.zeros(0, dtype=torch.int64))
        step = 0
        self._refill()
        while len(self.rows):
            token = self._draw()
            step += 1
            full = self.decoder.positions.max() >= self.drawing.context
            moved = _NONE
            if self.waiting or full or step % self.e._look == 0:
                token, moved = self._tend(token, full=full)
            self._read(token, moved)
            self._refill()
        return self.record.futures()

    def _draw(self) -> Tensor:
        """The next token [R] of each row, which the rows then have behind them."""
        rows, clock = self.rows, self.e.clock
        probabilities = self._probabilities()
        dead = None
        if self.observers:
            timing = clock.timing(rows, self.states)
            found = [o.before(rows, probabilities, timing) for o in self.observers]
            for weights in found:
                if weights is not None:
                    probabilities = probabilities * weights
                    dead = probabilities.sum(1) <= 0
        token = draws.choose(probabilities, draws.uniform(rows.key, rows.drawn, "token"))
        time = clock.advance(rows, self.states, token)
        drawn = rows.alive if dead is None else rows.alive & ~dead
        happened = drawn & (time <= rows.end)
        for observer in self.observers:
            observer.after(rows, token, time, happened)
        self.record.add(rows.future, token, time, happened, drawn)
        self._end(token, time, dead)
        return token

    def _probabilities(self) -> Tensor:
        """[R, V] of the next token."""
        scores = self.decoder.logits(self.states)
        if self.drawing.temperature != 1:
            scores = scores / self.drawing.temperature
        scores = scores + self.e._never
        if self.waiting:
            scores = scores + self.e.clock.later(self.rows, self.states)
        probabilities = scores.softmax(1)
        top = self.drawing.top_p
        return probabilities if top >= 1 else nucleus(probabilities, top)

    def _end(self, token: Tensor, time: Tensor, dead: Tensor | None) -> None:
        """Put rows forward by a token; those that end with it are no longer alive."""
        rows = self.rows
        spelled = self.e.spelling.follow(rows.spelled, token)
        reason = self.e.stops.reasons(rows, token, time, spelled)
        if not self.whole:
            done = [o.finished(rows) for o in self.observers]
            enough = torch.ones_like(rows.alive)
            for each in done:
                enough &= False if each is None else each
            reason = torch.where((reason == RUNNING) & enough, ENOUGH, reason)
        if dead is not None:
            reason = torch.where(dead, SUPPRESSED, reason)
            time = torch.where(dead, rows.time, time)
        alive = rows.alive & (reason == RUNNING)
        ended = rows.alive & ~alive
        until = torch.where(reason == HORIZON, rows.end, torch.maximum(time, rows.start))
        self.record.end(rows.future, reason, until, ended)
        rows.time, rows.spelled, rows.alive = time, spelled, alive
        rows.drawn = rows.drawn + 1

    def _tend(self, token: Tensor, *, full: bool) -> tuple[Tensor, Integers]:
        """Look which rows are over, and drop them where that is worth it.

        Returns:
            The tokens of the rows that stay and go on, and the futures that have to begin anew with their
            newest tokens, whose rows are behind these.
        """
        rows = self.rows
        alive, waiting = torch.stack([rows.alive, rows.time <= rows.start]).cpu().numpy()
        self.waiting = bool((waiting & alive).any())
        over = int((~alive).sum())
        if not full and over * _WORTH <= len(alive):
            return token, _NONE
        self.tell(over)
        crowded = self.decoder.positions >= self.drawing.context
        stay, anew = np.flatnonzero(alive & ~crowded), np.flatnonzero(alive & crowded)
        index = torch.from_numpy(np.concatenate([stay, anew])).to(self.device)
        self.decoder.keep(torch.from_numpy(stay))
        self.rows = rows.take(index)
        futures = self.rows.future[len(stay) :].cpu().numpy() if len(anew) else _NONE
        return token[index[: len(stay)]], futures

    def _read(self, token: Tensor, anew: Integers) -> None:
        """The states of what was drawn; rows that begin anew are read as prompts of their own."""
        rows, states, stay = self.rows, [], len(token)
        if stay:
            time = rows.time[:stay]
            inputs = {"age": ages(rows.born[:stay], time), "time": time}
            states.append(self.decoder.step(token, inputs))
        if len(anew):
            batch = self._windows(anew)
            states.append(self.decoder.prefill(batch, torch.ones(len(anew), dtype=torch.int64)))
        self.states = torch.cat(states) if states else self.states[:0]

    def _windows(self, futures: Integers) -> Batch:
        """Records with what was drawn for them: their heads and the newest tokens."""
        spans = []
        for future, (token, time) in zip(futures.tolist(), self.record.of(futures), strict=True):
            one = future // self.drawing.samples
            prompt = self.prompts.take(slice(one, one + 1))
            before = prompt.batch()
            age = ages(torch.from_numpy(prompt.born), torch.from_numpy(time)).numpy()
            tokens = np.concatenate([before.input_ids.numpy(), token])
            times = np.concatenate([before.time.numpy(), time])
            keep = newest_places(tokens, times, self.drawing.prompt)
            spans.append(
                (tokens[keep], times[keep], np.concatenate([before.age.numpy(), age])[keep])
            )
        return span_batch(spans)

    def _refill(self) -> None:
        """Read further prompts where rows have become free."""
        samples = self.drawing.samples
        room = (self.drawing.rows - len(self.rows)) // samples
        left = len(self.prompts) - self.next
        if not left or (
            len(self.rows) and room < min(left, max(1, self.drawing.rows // samples // 8))
        ):
            return
        new = slice(self.next, self.next + min(left, max(room, 1)))
        self.next = new.stop
        count = new.stop - new.start
        copies = torch.full((count,), samples)
        states = self.decoder.prefill(self.prompts.take(new).batch(), copies)
        self.states = torch.cat([self.states, states]) if len(self.rows) else states
        self.rows = self.rows.join(self._begin(new))
        self.waiting = True

    def _begin(self, which: slice) -> Rows:
        """The rows of some prompts before their first token."""
        mine, samples = self.prompts.take(which), self.drawing.samples
        last = first_times(mine.last, mine.time, loose=self.e.loose)
        number = np.arange(which.start, which.stop)
        columns = [
            np.repeat(c, samples) for c in (number, mine.subject, mine.time, last, mine.born)
        ]
        prompt, subject, start, time, born = (torch.from_numpy(c).to(self.device) for c in columns)
        sample = torch.arange(samples, device=self.device).repeat(which.stop - which.start)
        zeros = torch.zeros_like(prompt)
        return Rows(
            future=prompt * samples + sample,
            prompt=prompt,
            sample=sample,
            drawn=zeros,
            start=start,
            time=time,
            born=born,
            end=start + self.drawing.horizon,
            spelled=torch.full_like(prompt, NOTHING),
            key=draws.keys(self.drawing.seed, subject, start, sample),
            alive=torch.ones_like(prompt, dtype=torch.bool),
        )
