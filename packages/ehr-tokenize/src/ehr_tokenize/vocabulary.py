"""The tokens of a data set, counted on the train split.

A *slot* is a (code, bin) pair as `numeric.Bins` numbers it; a token is a slot that was kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ehr_tokenize.config import VocabularyConfig
from ehr_tokenize.events import Events
from ehr_tracking.errors import UserError

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[BOS]", "[EOS]")
"""Rows 0..6 of every vocabulary."""
PAD, UNK, CLS, SEP, MASK, BOS, EOS = range(len(SPECIALS))


class CodeInfo(NamedTuple):
    """What `codes.parquet` says of a code."""

    description: str | None = None
    parents: list[str] | None = None


NO_INFO = CodeInfo()


@dataclass(frozen=True, slots=True)
class Token:
    """One row of the vocabulary."""

    text: str
    kind: str
    """special, code or value."""
    code: str | None = None
    bin: int | None = None
    lower: float | None = None
    upper: float | None = None
    count: int = 0
    subjects: int = 0
    info: CodeInfo = NO_INFO


def text(code: str, number: int) -> str:
    """The text of a token.

    Examples:
        >>> text("LAB//50912//mg/dL", 3), text("ICD10CM//E11.9", 0)
        ('LAB//50912//mg/dL//Q3', 'ICD10CM//E11.9')
    """
    return f"{code}//Q{number}" if number else code


def count_slots(events: Events, slot: npt.NDArray[np.int64], n_slots: int) -> npt.NDArray[np.int64]:
    """[2, n_slots] events and subjects of each slot, over whole subjects.

    Examples:
        >>> none = np.zeros(3)
        >>> two = Events(np.array([7, 8]), np.array([0, 2, 3]), none, none, none)
        >>> count_slots(two, np.array([1, 1, 1]), 2)
        array([[0, 3],
               [0, 2]])
    """
    pair = np.sort(events.subject() * n_slots + slot)
    distinct = pair[np.concatenate([[True], pair[1:] != pair[:-1]])[: len(pair)]]
    return np.stack(
        [np.bincount(slot, minlength=n_slots), np.bincount(distinct % n_slots, minlength=n_slots)]
    )


@dataclass(frozen=True, slots=True)
class Count:
    """Train counts of one (code, bin)."""

    code: str
    bin: int
    """0 for the plain code."""
    events: int
    subjects: int


def build(
    counts: Sequence[Count],
    edges: Mapping[str, npt.NDArray[np.float32]],
    infos: Mapping[str, CodeInfo],
    config: VocabularyConfig,
) -> list[Token]:
    """Specials, then tokens by descending count, ties by text.

    Args:
        counts: In any order; each (code, bin) once.
        edges: Inner bin edges of the codes that have bins.
        infos: From codes.parquet.
        config: What to keep.

    Raises:
        UserError: If two tokens would have the same text.
    """
    kept = [c for c in counts if c.events >= config.min_count]
    kept.sort(key=lambda c: (-c.events, text(c.code, c.bin)))
    if config.max_size is not None:
        kept = kept[: config.max_size - len(SPECIALS)]
    tokens = [Token(name, "special") for name in SPECIALS]
    tokens += [_token(c, edges.get(c.code), infos.get(c.code, NO_INFO)) for c in kept]
    seen: set[str] = set()
    for token in tokens:
        if token.text in seen:
            raise UserError(
                f"code {token.code!r} cannot be told from another token {token.text!r}; rename it"
            )
        seen.add(token.text)
    return tokens


def _token(count: Count, edges: npt.NDArray[np.float32] | None, info: CodeInfo) -> Token:
    bounds: tuple[float, float] | tuple[None, None] = (None, None)
    if count.bin and edges is not None:
        padded = [-np.inf, *map(float, edges), np.inf]
        bounds = padded[count.bin - 1], padded[count.bin]
    return Token(
        text=text(count.code, count.bin),
        kind="value" if count.bin else "code",
        code=count.code,
        bin=count.bin or None,
        lower=bounds[0],
        upper=bounds[1],
        count=count.events,
        subjects=count.subjects,
        info=info,
    )
