"""Which tokens make an event happen, given what the tokens before them tell.

An event happens with the token by which what is told of it so far first matches: a code by its own token,
a value by that of its bin. R rows, V tokens of the vocabulary, C tokens that can match, S states of the
spelling, M kinds of states.
"""

import re
from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ehr_eval.generate.spelling import Spelling, Told
from ehr_eval.tasks.patterns import EventPattern, matching

_NESTED = re.compile(r"\\[()\[\]|]|\[[^\]]*[()\[|]")
_META = re.compile(r"[\\.^$*+?{}\[\]|()]")


class Rule:
    """Events that any of some patterns matches. Masks are made on the host once a state, and gathered on the device."""

    def __init__(self, spelling: Spelling, patterns: Sequence[EventPattern]) -> None:
        """Get ready.

        Args:
            spelling: Of the model's vocabulary.
            patterns: Code and bounds of the value; none: nothing ever happens.
        """
        self.spelling, self.patterns = spelling, patterns
        self._more = [spelling.words[i] for i in spelling.continuing.tolist()]
        alone = [spelling.begins(i) for i in range(len(spelling.words))]
        begins = np.flatnonzero(matches(patterns, alone)).tolist()
        self._sets: dict[frozenset[int], int] = {frozenset(begins): 0}
        self._kind: list[int] = []
        self._grow()

    @property
    def tokens(self) -> Tensor:
        """[C] int64, tokens that make it happen in any state so far."""
        self._grow()
        return self._tokens

    def mask(self, state: Tensor) -> Tensor:
        """[R, C] bool, which of `tokens` make it happen.

        Args:
            state: [R] of the spelling, before the token.
        """
        self._grow()
        return self._stack[self._of_state[state]]

    def column(self, token: Tensor) -> Tensor:
        """[R] int64, where each token is in `tokens`; -1 where it is not."""
        self._grow()
        return self._column[token]

    def happens(self, state: Tensor, token: Tensor) -> Tensor:
        """[R] bool, whether a token makes it happen.

        Args:
            state: [R] of the spelling, before the token.
            token: [R] int64.
        """
        column = self.column(token)
        if not len(self._tokens):
            return torch.zeros_like(token, dtype=torch.bool)
        found = self._stack[self._of_state[state], column.clamp(min=0)]
        return found & (column >= 0)

    def can_happen(self) -> bool:
        """Whether the vocabulary can tell such an event; true as well where the levels of a code might."""
        if len(self.tokens):
            return True
        has_levels = any(w.kind == "part" for w in self._more)
        codes = {t.code for i in range(len(self.spelling.words)) if (t := self.spelling.begins(i))}
        for pattern in self.patterns if has_levels else ():
            if not pattern.bounded:
                if any(_may_grow(code, pattern.regex) for code in codes):
                    return True
            elif self._has_bin(pattern):
                return True
        return False

    def _has_bin(self, pattern: EventPattern) -> bool:
        bins = [w for w in self._more if w.kind == "bin"]
        codes = [Told(code) for code in self.spelling.edges]
        told = [self.spelling.continued(c, w)[0] for c in codes for w in bins]
        return bool(matches([pattern], told).any())

    def _grow(self) -> None:
        """Take in the states that were made since."""
        known = len(self._kind)
        if known == len(self.spelling):
            return
        begins = next(iter(self._sets))
        for state in range(known, len(self.spelling)):
            more = self._more_of(state)
            self._kind.append(
                self._sets.setdefault(begins | more if more else begins, len(self._sets))
            )
        device = self.spelling.device
        tokens = sorted(set().union(*self._sets))
        stack = np.zeros((len(self._sets), len(tokens)), bool)
        for row, ids in enumerate(self._sets):
            stack[row, np.searchsorted(tokens, sorted(ids))] = True
        self._tokens = torch.tensor(tokens, dtype=torch.int64, device=device)
        self._stack = torch.from_numpy(stack).to(device)
        self._of_state = torch.tensor(self._kind, device=device)
        self._column = torch.full((len(self.spelling.words),), -1, device=device)
        self._column[self._tokens] = torch.arange(len(tokens), device=device)

    def _more_of(self, state: int) -> frozenset[int]:
        """Tokens that go on with the event of a state, and make it match."""
        told = self.spelling.told(state)
        if told is None or not self.spelling.continues(state):
            return frozenset()
        mine = [p for p in self.patterns if _may_grow(told.code, p.regex)]
        if not mine or matches(self.patterns, [told])[0]:
            return frozenset()  # it cannot, or it has happened already
        found = matches(mine, [self.spelling.continued(told, w)[0] for w in self._more])
        return frozenset(self._more[i].id for i in np.flatnonzero(found).tolist())


def matches(patterns: Sequence[EventPattern], told: Sequence[Told | None]) -> npt.NDArray[np.bool_]:
    """Which of some events any of some patterns matches.

    Args:
        patterns: Codes, and bounds that the number of a bin must lie between.
        told: Events; None: nothing.

    Examples:
        >>> high = EventPattern(code="^K$", above=5)
        >>> matches([high], [Told("K", 5.0), Told("K", 4.0, 5.0), Told("K"), None]).tolist()
        [True, False, False, False]
    """
    found = np.zeros(len(told), bool)
    codes = ["" if t is None else t.code for t in told]
    there = np.array([t is not None for t in told], bool)
    for pattern in patterns:
        mine = there & matching(codes, pattern.regex).to_numpy()
        if pattern.bounded:
            for i in np.flatnonzero(mine).tolist():
                mine[i] = _within(pattern, told[i])
        found |= mine
    return found


def _within(pattern: EventPattern, told: Told | None) -> bool:
    return told is not None and told.value is not None and pattern.holds(told.value)


def _may_grow(code: str, pattern: str) -> bool:
    """Whether a code may match, if characters are added: false only where that is certain.

    Examples:
        >>> [_may_grow("ICD//E11", p) for p in ("^ICD//E1[01]", "^ICD//E11.65", "^LAB|^ICU", "65$")]
        [True, True, False, True]
    """
    return any(code.startswith(x) or x.startswith(code) for x in _literals(pattern))


@cache
def _literals(pattern: str) -> tuple[str, ...]:
    """What matches of each alternative begin with; nothing where one may begin anywhere.

    Examples:
        >>> _literals("^LAB//K$|^AB*"), _literals("^A(B|C)"), _literals("^A|B")
        (('LAB//K', 'A'), ('A',), ('',))
        >>> _literals("^A[(]|^B")
        ('',)
    """
    if _NESTED.search(pattern):
        return ("",)  # not worth a parser
    parts, depth = [""], 0
    for char in pattern:
        depth += (char in "([") - (char in ")]")
        if char == "|" and not depth:
            parts.append("")
        else:
            parts[-1] += char
    if not all(p.startswith("^") for p in parts):
        return ("",)
    return tuple(map(_literal, parts))


def _literal(part: str) -> str:
    meta = _META.search(part, 1)
    if meta is None:
        return part[1:]
    optional = meta.group() in "*?{"
    return part[1 : meta.start() - optional]
