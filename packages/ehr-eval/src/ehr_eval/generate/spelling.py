"""From generated tokens to events: a state machine over a vocabulary, whatever scheme it is of.

An event is spelled by one token (`LAB//K//Q3`), or by several: a code, its further levels, the bin of its
value. A state is what the tokens so far tell of the event that they are spelling. R rows, S states,
V tokens of the vocabulary, C of them that go on with an event, n tokens one after the other, m events.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ehr_models.vocabulary import Word, read_vocabulary
from ehr_tracking.contracts import ContractError
from ehr_tracking.files import PathLike

NOTHING = 0
"""The state in which no event is being told: at the start, after an interval, an age, a mark of a visit."""
TOKENIZER = "tokenizer.json"
_ONE = ("code", "value", "category")
"""Kinds of tokens that begin an event."""
_MORE = ("part", "bin")
"""Kinds of tokens that go on with it."""


class Told(NamedTuple):
    """What tokens tell of an event."""

    code: str
    """Of MEDS: so far, where a code has levels."""
    lower: float = -math.inf
    """Of the value, inclusive."""
    upper: float = math.inf
    """Exclusive."""

    @property
    def value(self) -> float | None:
        """A number that stands for the bin, as float32 can hold it; None where no value is told.

        The middle; in a bin without a lower bound the number just below the upper one, in a bin without
        an upper bound that just above the lower one. So it lies in the bin, and a bin that begins at a
        bound lies above it.

        Examples:
            >>> Told("K", 3.0, 4.0).value, Told("K").value
            (3.5, None)
            >>> 5 < Told("K", lower=5.0).value < 5.000001, 3 > Told("K", upper=3.0).value > 2.999999
            (True, True)
        """
        low, high = np.float32(self.lower), np.float32(self.upper)
        if np.isinf(low) and np.isinf(high):
            return None
        if np.isinf(low):
            return float(np.nextafter(high, low))
        if np.isinf(high):
            return float(np.nextafter(low, high))
        return float(np.float32((float(low) + float(high)) / 2))


class Events(NamedTuple):
    """Events that tokens tell, in their order."""

    first: npt.NDArray[np.int64]
    """[m] which token begins each."""
    last: npt.NDArray[np.int64]
    """[m] the last token of it."""
    state: npt.NDArray[np.int64]
    """[m] what is told, for `Spelling.told`."""


class Spelling:
    """Follows tokens to what they tell. States are made when they are first met; none is ever dropped."""

    def __init__(
        self,
        words: Sequence[Word],
        edges: Mapping[str, Sequence[float]],
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        """Get ready.

        Args:
            words: The vocabulary.
            edges: Inner bin edges by code, ascending, for tokens of bins that all codes share.
            device: Where the states of rows are.
        """
        self.words, self.device = words, torch.device(device)
        self.edges = {code: [float(e) for e in found] for code, found in edges.items()}
        self._states: list[Told | None] = [None]
        self._open = [False]
        self._alone = [self._begun(w) for w in words]
        self._begin = torch.tensor(self._alone, device=self.device)
        more = [w.id for w in words if w.kind in _MORE]
        self._more = torch.full((len(words),), -1, device=self.device)
        self._more[more] = torch.arange(len(more), device=self.device)
        self.continuing = torch.tensor(more, dtype=torch.int64, device=self.device)
        """[C] tokens that go on with the event before them."""
        self._known: dict[int, int] = {}
        self._keys = torch.zeros(0, dtype=torch.int64, device=self.device)
        self._targets = torch.zeros(0, dtype=torch.int64, device=self.device)

    @classmethod
    def read(cls, directory: PathLike, *, device: torch.device | str = "cpu") -> "Spelling":
        """That of a checkpoint or a token data set.

        Raises:
            ContractError: If its vocabulary or its `tokenizer.json` cannot be read.
        """
        return cls(read_vocabulary(directory), read_edges(directory), device=device)

    def __len__(self) -> int:
        """States so far."""
        return len(self._states)

    def told(self, state: int) -> Told | None:
        """The event of a state; None where none is being told."""
        return self._states[state]

    def continues(self, state: int) -> bool:
        """Whether a level or a bin may follow."""
        return self._open[state]

    def follow(self, state: Tensor, token: Tensor) -> Tensor:
        """[R] the states after one more token each.

        A level or a bin that follows no code tells nothing, and leaves the state as it is.

        Args:
            state: [R] int64; `NOTHING` at the beginning.
            token: [R] int64.
        """
        begun = self._begin[token]
        if not len(self.continuing):
            return begun
        more = self._more[token]
        key = state * len(self.continuing) + more
        missing = (more >= 0) & ~self._found(key)
        if bool(missing.any()):
            self._make(sorted(set(key[missing].tolist())))
        if not len(self._keys):
            return begun
        at = torch.searchsorted(self._keys, key).clamp_(max=len(self._keys) - 1)
        return torch.where(more >= 0, self._targets[at], begun)

    def next(self, state: int, token: int) -> int:
        """`follow` for one row."""
        made = self.follow(
            torch.tensor([state], device=self.device), torch.tensor([token], device=self.device)
        )
        return int(made[0])

    def events(
        self, token: npt.NDArray[np.int64], row: npt.NDArray[np.int64] | None = None
    ) -> Events:
        """The events that tokens tell.

        Args:
            token: [n], each row's in order, one row after the other.
            row: [n] which row each is of; None: all of one.
        """
        n = len(token)
        row = np.zeros(n, np.int64) if row is None else row
        ids = torch.from_numpy(np.ascontiguousarray(token, np.int64)).to(self.device)
        goes_on = (self._more[ids] >= 0).cpu().numpy()
        states = self._begin[ids].clamp(min=NOTHING)
        first = np.flatnonzero((states > NOTHING).cpu().numpy())
        state = states[torch.from_numpy(first).to(self.device)]
        last, running = first.copy(), np.arange(len(first))
        while len(running):  # one level of a code after the other
            at = last[running] + 1
            running, at = running[at < n], at[at < n]
            on = goes_on[at] & (row[at] == row[first[running]])
            running, at = running[on], at[on]
            if len(running):
                r = torch.from_numpy(running).to(self.device)
                state[r] = self.follow(state[r], ids[torch.from_numpy(at).to(self.device)])
                last[running] = at
        return Events(first, last, state.cpu().numpy())

    @cached_property
    def codes(self) -> frozenset[str]:
        """Codes that a single token begins: of events, or of the highest level of their code."""
        return frozenset(w.code for w in self.words if w.kind in _ONE and w.code is not None)

    def begins(self, token: int) -> Told | None:
        """The event that a token begins; None where it begins none."""
        return self._states[max(self._alone[token], NOTHING)]

    def continued(self, told: Told, word: Word) -> tuple[Told, bool]:
        """An event that may go on, with one more token that goes on with it.

        Returns:
            The event, and whether it may go on.
        """
        if word.kind == "part":
            return Told(told.code + word.token.rpartition("//")[2]), True
        edges, number = self.edges.get(told.code), word.bin or 0
        if edges is None or not 0 < number <= len(edges) + 1:
            return told, False
        lower = edges[number - 2] if number > 1 else -math.inf
        upper = edges[number - 1] if number <= len(edges) else math.inf
        return Told(told.code, lower, upper), False

    def _begun(self, word: Word) -> int:
        """The state after a token that goes on with nothing; -1 for one that goes on."""
        if word.kind in _MORE:
            return -1
        if word.kind not in _ONE or word.code is None:
            return NOTHING
        lower = -math.inf if word.lower is None else word.lower
        upper = math.inf if word.upper is None else word.upper
        return self._add(Told(word.code, lower, upper), is_open=word.kind == "code")

    def _add(self, told: Told | None, *, is_open: bool) -> int:
        self._states.append(told)
        self._open.append(is_open)
        return len(self._states) - 1

    def _found(self, key: Tensor) -> Tensor:
        if not len(self._keys):
            return torch.zeros_like(key, dtype=torch.bool)
        at = torch.searchsorted(self._keys, key).clamp_(max=len(self._keys) - 1)
        return self._keys[at] == key

    def _make(self, keys: Iterable[int]) -> None:
        ids = self.continuing.tolist()
        for key in keys:
            state, number = divmod(key, len(ids))
            self._known[key] = self._continued(state, self.words[ids[number]])
        ordered = sorted(self._known)
        self._keys = torch.tensor(ordered, device=self.device)
        self._targets = torch.tensor([self._known[k] for k in ordered], device=self.device)

    def _continued(self, state: int, word: Word) -> int:
        told = self._states[state]
        if told is None or not self._open[state]:
            return state
        more, is_open = self.continued(told, word)
        return self._add(more, is_open=is_open)


def read_edges(directory: PathLike) -> dict[str, list[float]]:
    """Inner bin edges by code, of the `tokenizer.json` of a checkpoint or a token data set.

    Raises:
        ContractError: If the file is missing or is no tokenizer.
    """
    path = Path(directory) / TOKENIZER
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        return {str(code): [float(e) for e in edges] for code, edges in tree["edges"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as e:
        said = " ".join(str(e).split())
        raise ContractError(f"{path} is no tokenizer: {type(e).__name__}: {said}") from None
