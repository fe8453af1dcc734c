"""Which of the words that train has become tokens, and in which order."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ehr_tokenize.codes.keys import code_of
from ehr_tokenize.config import TokenizeConfig
from ehr_tokenize.scheme.words import Word, added_words, bounds
from ehr_tokenize.tokenizer.vocabulary import Token
from ehr_tracking.arrow.meds import NO_INFO, CodeInfo
from ehr_tracking.config import ConfigError
from ehr_tracking.contracts import SPECIALS
from ehr_tracking.errors import UserError


class Count(NamedTuple):
    """How often train has a word."""

    word: Word
    events: int
    subjects: int
    seconds: int = 0
    """That a time token told, in all."""
    common: bool = False
    """Kept whatever its events: it is the plain word of a code that has enough."""
    who: Sequence[int] = ()
    """The subjects, where `fall_back` asks for them."""


def select_tokens(
    counts: Sequence[Count],
    edges: Mapping[str, npt.NDArray[np.float32]],
    infos: Mapping[str, CodeInfo],
    config: TokenizeConfig,
) -> list[Token]:
    """Specials, then tokens by descending count, ties by text.

    Args:
        counts: In any order; each word once, those of `scheme.lead` included.
        edges: Inner bin edges of the codes that have bins.
        infos: From codes.parquet.
        config: What to keep. The words that the scheme adds always are.

    Raises:
        UserError: If two tokens would have the same text.
        ConfigError: If `max_size` has no room for the words that the scheme adds, or no other is kept.
    """
    fixed = {w for w in added_words(config) if w.kind != "special"}
    found = {c.word: c for c in counts if c.word.kind != "special"}
    kept = [found.get(w, Count(w, 0, 0)) for w in fixed]
    limit = config.vocabulary
    room = None if limit.max_size is None else limit.max_size - len(SPECIALS) - len(kept)
    if room is not None and room < 1:
        raise ConfigError(
            f"vocabulary.max_size = {limit.max_size} has no room for codes: the scheme needs "
            f"{len(SPECIALS) + len(kept)} tokens of its own"
        )
    own = [c for w, c in found.items() if w not in fixed]
    if not own:
        raise ConfigError("vocabulary.exclude leaves no event of train")
    free = [
        c
        for c in own
        if (c.common or c.events >= limit.min_count) and c.subjects >= limit.min_subjects
    ]
    if not free:
        raise ConfigError(
            f"vocabulary.min_count = {limit.min_count} and min_subjects = {limit.min_subjects} leave "
            f"none of the {len(own):,} tokens that train has"
        )
    subjects = next((c.events for c in counts if c.word.text == config.scheme.leads[0]), 0)
    kept += free if room is None else sorted(free, key=_rank(config, subjects))[:room]
    kept.sort(key=lambda c: c.word.text)  # two sorts by one key each are faster than one by both
    kept.sort(key=lambda c: c.events, reverse=True)
    tokens = [Token(name, "special") for name in SPECIALS]
    plain = {key: found.tolist() for key, found in edges.items()}
    tokens += [_token(c, plain, infos) for c in kept]
    _refuse_twins(tokens)
    return tokens


def entropy(count: int, total: int) -> float:
    """Nats that knowing of a subject whether it has a token is worth.

    Examples:
        >>> round(entropy(5, 10), 4), entropy(10, 10)
        (0.6931, 0.0)
    """
    p = count / total if total else 0.0
    return -sum(x * math.log(x) for x in (p, 1 - p) if x > 0) + 0.0


def _rank(config: TokenizeConfig, subjects: int) -> Callable[[Count], tuple[float, int, str]]:
    rank = config.vocabulary.rank or ("entropy" if config.scheme.kind == "clmbr" else "count")
    if rank == "count":
        return lambda c: (0.0, -c.events, c.word.text)
    return lambda c: (-entropy(c.subjects, subjects), -c.events, c.word.text)


def _refuse_twins(tokens: Sequence[Token]) -> None:
    seen: set[str] = set()
    for token in tokens:
        if token.text in seen:
            raise UserError(
                f"code {token.code!r} cannot be told from another token {token.text!r}; rename it"
            )
        seen.add(token.text)


def _token(count: Count, edges: Mapping[str, list[float]], infos: Mapping[str, CodeInfo]) -> Token:
    word = count.word
    code = code_of(word.key) if word.key else None
    limits: tuple[float | None, float | None] = (None, None)
    if word.kind == "value" and word.key:
        lower, upper = bounds(edges[word.key], word.number)
        limits = float(lower), float(upper)
    return Token(
        text=word.text,
        kind=word.kind,
        code=code,
        bin=word.number or None,
        lower=limits[0],
        upper=limits[1],
        count=count.events,
        subjects=count.subjects,
        info=infos.get(code, NO_INFO) if code else NO_INFO,
    )
