"""What a tokenizer is fitted with, and how its output is cut into files."""

import dataclasses
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from ehr_tracking.config import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Joint:
    """`[BOS]`, static tokens, then one token an event; time is carried beside the tokens."""

    kind: Literal["joint"] = "joint"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Visits:
    """`[CLS]`, static tokens, then events with `[SEP]` between visits and a segment that flips."""

    kind: Literal["visits"] = "visits"


Scheme = Annotated[Joint | Visits, Field(discriminator="kind")]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NumericConfig:
    """How numeric values become bins, per code, from the train split."""

    n_bins: int = Field(default=10, ge=1, le=1000)
    """Most bins a code can have; edges are quantiles. 1 keeps values out of the tokens."""
    min_values: int = Field(default=20, ge=2)
    """A code with fewer finite values in train gets no bins."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class VocabularyConfig:
    """Which tokens are kept."""

    min_count: int = Field(default=1, ge=1)
    """Fewest events in train; a rarer token becomes [UNK]."""
    max_size: int | None = Field(default=None, ge=8)
    """Most rows, specials included; the most frequent tokens are kept."""


def _regex(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as e:
        raise ValueError(f"{pattern!r} is no regular expression: {e}") from None
    return pattern


@dataclass(frozen=True, kw_only=True, config=STRICT)
class VisitsConfig:
    """Where a visit begins, from what is known at that moment alone."""

    start_codes: tuple[Annotated[str, AfterValidator(_regex)], ...] = (
        r"^HOSPITAL_ADMISSION(//|$)",  # MIMIC-IV; a stay in intensive care is part of a visit
        r"^ED_REGISTRATION(//|$)",
        r"^Visit/",  # OMOP concept codes
        r"^VISIT(_START)?(//(?!END)|$)",
        r"^ADMISSION(//|$)",
    )
    """Regular expressions, searched in the code of each event."""
    gap_days: float | None = Field(default=1.0, gt=0)
    """An event this long after the one before begins a visit as well; null: never."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ShardConfig:
    """How large a file of tokens may get; whichever comes first."""

    subjects: int = Field(default=8192, ge=1)
    events: int = Field(default=16_000_000, ge=1)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TokenizeConfig:
    """All of `ehr-tokenize`; the defaults run."""

    scheme: Scheme = Field(default_factory=Joint)
    numeric: NumericConfig = Field(default_factory=NumericConfig)
    vocabulary: VocabularyConfig = Field(default_factory=VocabularyConfig)
    visits: VisitsConfig = Field(default_factory=VisitsConfig)
    shard: ShardConfig = Field(default_factory=ShardConfig)
    seed: int = 0
    """Of the split by hash, where the data set names no splits."""
    max_unknown: float = Field(default=0.5, ge=0, le=1)
    """With a tokenizer fitted before: refuse data of which a larger share of events is unknown."""


FITTED = ("scheme", "numeric", "vocabulary", "visits")
"""The fields that belong to a fitted tokenizer; the others may differ from run to run."""


def with_fitted(config: TokenizeConfig, fitted: TokenizeConfig) -> TokenizeConfig:
    """`config` with the fields that a fitted tokenizer brings.

    Examples:
        >>> with_fitted(TokenizeConfig(seed=3), TokenizeConfig(scheme=Visits())).scheme.kind
        'visits'
    """
    return dataclasses.replace(config, **{name: getattr(fitted, name) for name in FITTED})
