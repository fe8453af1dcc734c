"""What was drawn, from the device to the host a few steps at a time.

R rows, F futures, N tokens of all of them.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ehr_eval.generate.stops import RUNNING

Integers = npt.NDArray[np.int64]
_STEPS = 64
"""Steps that wait on the device before they are brought over."""


@dataclass(frozen=True, slots=True, eq=False)
class Futures:
    """The futures of a part."""

    reason: Integers
    """[F] numbers of `stops.REASONS`."""
    tokens: Integers
    """[F] drawn for each, the last one too where it comes after the horizon."""
    until: Integers
    """[F] microseconds since 1970: what happens up to then is told."""
    future: Integers
    """[N] which future a token is of, in their order; each one's tokens in theirs."""
    token: Integers
    """[N] those that happen by the horizon."""
    time: Integers
    """[N] when."""


class Record:
    """Keeps what is drawn for F futures."""

    def __init__(self, futures: int, device: torch.device) -> None:
        """Begin with nothing."""
        self._reason = torch.full((futures,), RUNNING, dtype=torch.int64, device=device)
        self._tokens, self._until = torch.zeros_like(self._reason), torch.zeros_like(self._reason)
        self._waiting: list[Tensor] = []
        self._host: list[Integers] = []

    def add(
        self, future: Tensor, token: Tensor, time: Tensor, happened: Tensor, counted: Tensor
    ) -> None:
        """Note one step.

        Args:
            future: [R]
            token: [R]
            time: [R]
            happened: [R] bool, whether the token is part of the future.
            counted: [R] bool, whether it was drawn.
        """
        self._tokens[future] += counted
        self._waiting.append(torch.stack([torch.where(happened, future, -1), token, time]))
        if len(self._waiting) >= _STEPS:
            self._fetch()

    def end(self, future: Tensor, reason: Tensor, until: Tensor, ended: Tensor) -> None:
        """Note which rows have just ended.

        Args:
            future: [R]
            reason: [R] why.
            until: [R] the time up to which each is told.
            ended: [R] bool
        """
        self._reason[future] = torch.where(ended, reason, self._reason[future])
        self._until[future] = torch.where(ended, until, self._until[future])

    def of(self, futures: Integers) -> list[tuple[Integers, Integers]]:
        """Tokens and times of some futures so far.

        Args:
            futures: [n] each once.
        """
        self._fetch()
        found = [part[:, np.isin(part[0], futures)] for part in self._host]
        future, token, time = np.concatenate([np.zeros((3, 0), np.int64), *found], axis=1)
        order = np.argsort(future, kind="stable")
        future = future[order]
        cuts = zip(
            np.searchsorted(future, futures), np.searchsorted(future, futures, "right"), strict=True
        )
        return [(token[order[a:b]], time[order[a:b]]) for a, b in cuts]

    def futures(self) -> Futures:
        """All of it."""
        self._fetch()
        future, token, time = np.concatenate([np.zeros((3, 0), np.int64), *self._host], axis=1)
        order = np.argsort(future, kind="stable")
        reason, tokens, until = torch.stack([self._reason, self._tokens, self._until]).cpu().numpy()
        return Futures(reason, tokens, until, future[order], token[order], time[order])

    def _fetch(self) -> None:
        if self._waiting:
            found = torch.cat(self._waiting, 1).cpu().numpy()
            self._host.append(found[:, found[0] >= 0])
            self._waiting.clear()
