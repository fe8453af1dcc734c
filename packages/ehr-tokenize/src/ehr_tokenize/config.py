"""What a tokenizer is fitted with, and how its output is cut into files."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from ehr_tokenize.codes.maps import MapStep
from ehr_tracking.config import STRICT, Regex

Lead = Literal["[BOS]", "[CLS]", "[CLS][BOS]"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SchemeConfig:
    """The parts that a scheme is made of; each can be set, whatever the scheme."""

    lead: Lead = "[BOS]"
    """The first token of every subject; models of hf_ehr know two."""
    codes: Literal["whole", "hierarchy", "description"] = "whole"
    """One token; the levels of its code system; the subwords of its description."""
    values: Literal["joint", "shared", "none"] = "joint"
    """In the token of the code (`CODE//Q3`); a token after it (`CODE`, `Q3`); left out."""
    units: bool = False
    """Bins per code and unit, which the token names with its bounds (`CODE || mg/dL || 1 - 2`)."""
    text: bool = False
    """One token per text value (`CODE || positive`) where an event has no number."""
    visits: Literal["none", "sep", "start_end"] = "none"
    """`[SEP]` between visits; or `[VS]` where one begins and `[VE]` where the next one does."""
    time: Literal["none", "interval", "calendar"] = "none"
    """Time tokens: 19 intervals between events; or days, weeks and months between visits."""
    age: bool = False
    """Two tokens for the age in years (tens, ones) before the first event after birth."""

    @property
    def leads(self) -> tuple[str, ...]:
        """The special tokens that `lead` names, in order."""
        return tuple(f"{name}]" for name in self.lead.split("]") if name)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class JointScheme(SchemeConfig):
    """`[BOS]`, static tokens, then one token an event; time is carried beside the tokens."""

    kind: Literal["joint"] = "joint"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class VisitsScheme(SchemeConfig):
    """`[CLS]`, static tokens, then events with `[SEP]` between visits and a segment that flips."""

    kind: Literal["visits"] = "visits"
    lead: Lead = "[CLS]"
    visits: Literal["none", "sep", "start_end"] = "sep"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ClmbrScheme(SchemeConfig):
    """CLMBR: `CODE`, `CODE || category` or `CODE//Q3`, units ignored, chosen by entropy."""

    kind: Literal["clmbr"] = "clmbr"
    text: bool = True


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CookbookScheme(SchemeConfig):
    """All codes, a token per text value, and deciles per code and unit."""

    kind: Literal["cookbook"] = "cookbook"
    units: bool = True
    text: bool = True


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DescScheme(SchemeConfig):
    """Descriptions of codes as subwords; values are left out."""

    kind: Literal["desc"] = "desc"
    codes: Literal["whole", "hierarchy", "description"] = "description"
    values: Literal["joint", "shared", "none"] = "none"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TimelineScheme(SchemeConfig):
    """ETHOS-like: codes by their levels, shared quantile tokens, time intervals, age first."""

    kind: Literal["timeline"] = "timeline"
    codes: Literal["whole", "hierarchy", "description"] = "hierarchy"
    values: Literal["joint", "shared", "none"] = "shared"
    time: Literal["none", "interval", "calendar"] = "interval"
    age: bool = True


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CehrScheme(SchemeConfig):
    """CEHR: `[VS]` visit `[VE]`, and day, week, month or long-term tokens between visits."""

    kind: Literal["cehr"] = "cehr"
    lead: Lead = "[CLS]"
    visits: Literal["none", "sep", "start_end"] = "start_end"
    time: Literal["none", "interval", "calendar"] = "calendar"


Scheme = Annotated[
    JointScheme
    | VisitsScheme
    | ClmbrScheme
    | CookbookScheme
    | DescScheme
    | TimelineScheme
    | CehrScheme,
    Field(discriminator="kind"),
]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class HierarchyConfig:
    """Which codes are of a system with levels: what they begin with; the code itself follows."""

    icd10cm: tuple[Regex, ...] = (
        r"^(DIAGNOSIS//)?ICD10(CM)?/{1,2}",
        r"^DIAGNOSIS//ICD//10//",
    )
    """First 3 characters, characters 4 to 6, the rest."""
    icd10pcs: tuple[Regex, ...] = (
        r"^(PROCEDURE//)?ICD10PCS/{1,2}",
        r"^PROCEDURE//ICD//10//",
    )
    """One token a character."""
    atc: tuple[Regex, ...] = (r"^(MEDICATION//)?ATC/{1,2}",)
    """First 3 characters, the 4th, the rest."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SubwordConfig:
    """How descriptions are cut into subwords."""

    path: Path | None = None
    """A `tokenizer.json` of the library tokenizers; None: trained on train's codes."""
    size: int = Field(default=4096, ge=100)
    """Most subwords to train."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NumericConfig:
    """How numeric values become bins, per code, from the train split."""

    n_bins: int = Field(default=10, ge=1, le=1000)
    """Most bins a code can have; edges are quantiles. 1 keeps values out of the tokens."""
    min_values: int = Field(default=20, ge=2)
    """A code with fewer finite values in train gets no bins."""
    unit_column: str = "unit"
    """Where `scheme.units` finds the unit of a value; data without it have none."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class VocabularyConfig:
    """Which tokens are kept."""

    min_count: int = Field(default=1, ge=1)
    """Fewest events in train; a rarer token becomes [UNK]."""
    min_subjects: int = Field(default=1, ge=1)
    """Fewest subjects in train: a token that fewer people have could identify them."""
    max_size: int | None = Field(default=None, ge=8)
    """Most rows, specials included; the tokens of highest rank are kept."""
    rank: Literal["count", "entropy"] | None = None
    """By events, or by the entropy of having the token at all; None: entropy for clmbr."""
    exclude: tuple[Regex, ...] = ()
    """Events whose code matches are left out, as if they were not in the data."""
    roll_up: bool = False
    """A code below `min_count` or `min_subjects` becomes its first parent in codes.parquet."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class VisitsConfig:
    """Where a visit begins, from what is known at that moment alone."""

    start_codes: tuple[Regex, ...] = (
        r"^HOSPITAL_ADMISSION(//|$)",  # MIMIC-IV; a stay in intensive care is part of a visit
        r"^ED_REGISTRATION(//|$)",
        r"^Visit/",  # OMOP concept codes
        r"^VISIT(_START)?(//(?!END)|$)",
        r"^ADMISSION(//|$)",
    )
    """Regular expressions, searched in the code of each event."""
    gap_days: float | None = Field(default=1.0, gt=0)
    """An event this long after the one before begins a visit as well; null: never."""
    ids: tuple[str, ...] = ("hadm_id", "visit_id", "visit_occurrence_id")
    """Columns that name the visit of an event, where the data has them; the first that is filled."""
    stay_codes: tuple[Regex, ...] = (r"^HOSPITAL_ADMISSION(//|$)", r"^VISIT_START(//|$)")
    """Starts that have an end: from one with an id until the end with that id no visit begins."""
    end_codes: tuple[Regex, ...] = (r"^HOSPITAL_DISCHARGE(//|$)", r"^VISIT_END(//|$)")
    most_days: float = Field(default=90.0, gt=0, le=36_525)
    """A stay whose end has not come by then holds no visits any more."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ShardConfig:
    """How large a file of tokens may get; whichever comes first."""

    subjects: int = Field(default=8192, ge=1)
    events: int = Field(default=16_000_000, ge=1)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TokenizeConfig:
    """All of `ehr-tokenize`; the defaults run."""

    scheme: Scheme = Field(default_factory=JointScheme)
    numeric: NumericConfig = Field(default_factory=NumericConfig)
    vocabulary: VocabularyConfig = Field(default_factory=VocabularyConfig)
    visits: VisitsConfig = Field(default_factory=VisitsConfig)
    hierarchy: HierarchyConfig = Field(default_factory=HierarchyConfig)
    subwords: SubwordConfig = Field(default_factory=SubwordConfig)
    maps: tuple[MapStep, ...] = ()
    """Other codes for codes, before anything else."""
    delay: dict[Regex, Annotated[float, Field(ge=0, le=36_525)]] = Field(default_factory=dict)
    """Code pattern -> days after its time at which an event becomes known; the first that fits."""
    order: Literal["rows", "canonical"] = "rows"
    """Of events known at one time: as the rows of the data lie; or births, then starts of visits, then by
    code and value, so that no order of rows changes a token."""
    shard: ShardConfig = Field(default_factory=ShardConfig)
    seed: int = 0
    """Of the split by hash, where the data set names no splits."""
    max_unknown: float = Field(default=0.5, ge=0, le=1)
    """With a tokenizer fitted before: refuse data of which a larger share of events is unknown."""
