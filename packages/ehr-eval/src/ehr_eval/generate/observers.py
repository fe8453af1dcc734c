"""Who looks on while futures are drawn, and what there is to see.

R running futures, F futures of a part in all, V vocabulary, C some tokens. A part is what is drawn
together: `samples` futures of each of some prompts, numbered prompt by prompt.
"""

from dataclasses import dataclass, fields
from typing import Protocol, Self

import torch
from torch import Tensor


@dataclass(slots=True, eq=False)
class Rows:
    """The futures that are running, before their next token; tensors on the device.

    Rows that are over stay for a few steps, until they are dropped: `alive` says which count.
    """

    future: Tensor
    """[R] int64, 0..F-1: `prompt * samples + sample`; the number by which an observer keeps its tables."""
    prompt: Tensor
    """[R] int64, which (subject, prediction time) of the part."""
    sample: Tensor
    """[R] int64, from 0."""
    drawn: Tensor
    """[R] int64, tokens so far."""
    start: Tensor
    """[R] int64, the prediction time in microseconds since 1970."""
    time: Tensor
    """[R] int64, of the token before. While it is not after `start` the first event is still to come."""
    born: Tensor
    """[R] int64, when age was 0."""
    end: Tensor
    """[R] int64, prediction time + horizon: what happens then still counts."""
    spelled: Tensor
    """[R] int64, state of `Spelling`."""
    key: Tensor
    """[R] int64, of `draws.uniform`."""
    alive: Tensor
    """[R] bool"""

    def __len__(self) -> int:
        """R."""
        return len(self.future)

    def take(self, index: Tensor) -> Self:
        """Some of them, in that order."""
        return type(self)(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def join(self, more: Self) -> Self:
        """With more behind them."""
        both = {
            f.name: torch.cat([getattr(self, f.name), getattr(more, f.name)]) for f in fields(self)
        }
        return type(self)(**both)


class Timing(Protocol):
    """When the next token happens, given which it is: where the time head draws the gaps."""

    def chance_within(self, tokens: Tensor, seconds: Tensor) -> Tensor:
        """Probability that each of some tokens, if it is the next, comes soon.

        Args:
            tokens: [C] int64.
            seconds: [R] float64, from `rows.time` on, inclusive.

        Returns:
            [R, C] float32; of a first step given that it comes after the prediction time.
        """
        ...


class Observer(Protocol):
    """Looks on as futures are drawn; several may, from one pool. Nothing here may wait for the device."""

    def begin(self, futures: int) -> None:
        """A part begins.

        Args:
            futures: F; tables of that length are indexed by `rows.future`.
        """
        ...

    def before(self, rows: Rows, probabilities: Tensor, timing: Timing | None) -> Tensor | None:
        """Before a token is drawn.

        Args:
            rows: Whose next token it is.
            probabilities: [R, V] float32 of that, as it will be drawn: after temperature, top-p and
                what is never drawn; of the first token given that it comes after the prediction time.
            timing: When it happens; None where that is `rows.time` itself (time tokens move it on).

        Returns:
            None, or weights [R, V] that multiply the probabilities: a row whose are all 0 is over
            (`suppressed`).
        """
        ...

    def after(self, rows: Rows, token: Tensor, time: Tensor, happened: Tensor) -> None:
        """After a token was drawn; `rows` are still as they were before it.

        Args:
            rows: As of `before`.
            token: [R] int64.
            time: [R] int64, when it happens.
            happened: [R] bool: the row is alive, and it is not after `rows.end`. Nothing else counts.
        """
        ...

    def finished(self, rows: Rows) -> Tensor | None:
        """[R] bool, which futures need not go on for this observer; None: all need to.

        One ends early (`enough`) when every observer says so.
        """
        ...
