"""What can be asked about: codes, the tokens that tell each, and how often to ask.

C codes, N tokens of them, V vocabulary, q queries, p pairs of a query and a code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ehr_tracking.contracts import SPECIALS

if TYPE_CHECKING:
    from ehr_models.vocabulary import Word

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
_TELL = ("code", "value", "category")
"""Kinds of tokens that tell a code by themselves."""


@dataclass(frozen=True, slots=True, eq=False)
class Catalogue:
    """Codes in alphabetical order, so that those of a pattern stand together as a rule."""

    code: Integers
    """[V] number of the code that each token tells; -1 for none."""
    tokens: Integers
    """[N] code by code; of each those with a bin, lowest first, then the others."""
    first: Integers
    """[C + 1] where the tokens of each code begin, and the last end."""
    bins: Integers
    """[C] how many tokens of each have a bin."""
    share: Floats
    """[C] how often each is in a set, by its frequency; above 0, in all 1."""
    begun: Floats
    """[C] how often each begins one where nothing is known of what comes; above 0, in all 1."""

    def __len__(self) -> int:
        """Number of codes."""
        return len(self.bins)

    def drawn(self, share: Floats, u: Floats) -> Integers:
        """Codes by `share` or `begun` for uniform numbers, of any shape."""
        total = np.cumsum(share)
        found: Integers = np.searchsorted(total, u * total[-1], side="right")
        return np.minimum(found, len(self) - 1)

    def told(
        self, query: Integers, code: Integers, low: Integers, high: Integers
    ) -> tuple[Integers, Integers]:
        """The tokens of queries of some codes each, each once.

        Args:
            query: [p] never decreasing.
            code: [p]
            low: [p] the first token of the code that counts, as `tokens` has them.
            high: [p] behind the last.

        Returns:
            [n] query and [n] token of each; by query, then by token.
        """
        length = high - low
        pair = np.repeat(np.arange(len(code)), length)
        place = np.arange(len(pair)) - np.repeat(np.cumsum(length) - length, length)
        token = self.tokens[(self.first[code] + low)[pair] + place]
        key = np.unique(query[pair] * len(self.code) + token)
        return key // len(self.code), key % len(self.code)


def catalogue(
    words: "Sequence[Word]",
    power: float,
    focus: npt.NDArray[np.bool_] | None = None,
    focused: float = 0.0,
) -> Catalogue:
    """That of a vocabulary.

    Args:
        words: Its rows, by id.
        power: A code is asked about as often as (its events in train + 1) to this power.
        focus: [V] tokens of codes that more sets begin with.
        focused: Of so many sets each of those codes alike is the first; the others are by frequency.

    Examples:
        >>> from ehr_models.vocabulary import Word
        >>> rest = {"lower": None, "upper": None, "subjects": 1, "description": None, "parents": None}
        >>> words = [Word(id=i, token=t, kind="special", code=None, bin=None, count=0, **rest)
        ...          for i, t in enumerate(SPECIALS)]
        >>> of = [("B", "code", None, 0), ("A", "value", 2, 3), ("A", "value", 1, 4), ("A", "code", None, 1)]
        >>> words += [Word(id=7 + i, token=str(i), kind=k, code=c, bin=b, count=n, **rest)
        ...           for i, (c, k, b, n) in enumerate(of)]
        >>> found = catalogue(words, 0.5)
        >>> found.tokens.tolist(), found.first.tolist(), found.bins.tolist(), found.share.tolist()
        ([9, 8, 10, 7], [0, 3, 4], [2, 0], [0.75, 0.25])
        >>> catalogue(words, 0.5, np.arange(11) == 7, 0.5).begun.tolist()
        [0.375, 0.625]
    """
    asked = [w for w in words if w.id >= len(SPECIALS) and w.kind in _TELL and w.code is not None]
    names = sorted({str(w.code) for w in asked})
    number = {name: i for i, name in enumerate(names)}
    asked.sort(key=lambda w: (number[str(w.code)], w.bin is None, w.bin or 0, w.id))
    of = np.array([number[str(w.code)] for w in asked], np.int64)
    tokens = np.array([w.id for w in asked], np.int64)
    code = np.full(len(words), -1)
    code[tokens] = of
    binned = np.array([w.bin is not None for w in asked], bool)
    events = np.bincount(of, [w.count or 0 for w in asked], minlength=len(names))
    share = np.asarray((events + 1.0) ** power, np.float64)
    share /= max(share.sum(), 1.0)
    begun, more = share, np.zeros(0, np.int64) if focus is None else np.unique(code[focus])
    more = more[more >= 0]
    if len(more):
        begun = (1 - focused) * share
        begun[more] += focused / len(more)
    return Catalogue(
        code=code,
        tokens=tokens,
        first=np.searchsorted(of, np.arange(len(names) + 1)),
        bins=np.bincount(of[binned], minlength=len(names)),
        share=share,
        begun=begun,
    )
