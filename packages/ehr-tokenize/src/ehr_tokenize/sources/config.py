"""Settings of the sources; the defaults run, but for a table of events, whose columns are its own."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from ehr_tracking.config import STRICT

_TAKEN = ("subject_id", "time", "rank", "code", "numeric_value", "text_value", "unit", "")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class WriteConfig:
    """How the MEDS directory is laid out; common to all sources."""

    dataset_name: str | None = None
    """In metadata/dataset.json; null: the kind of the source."""
    dataset_version: str | None = None
    """In metadata/dataset.json."""
    splits: Path | None = None
    """CSV or Parquet with subject_id and split (train, tuning, held_out); null: those of the
    source, else by a stable hash."""
    train: float = Field(default=0.8, gt=0, lt=1)
    """Share of subjects that the hash puts into train; the others are halved."""
    seed: int = 0
    """Of the split by hash."""
    events_per_shard: int = Field(default=1_000_000, ge=1)
    """A shard is closed once it has this many; memory grows with it."""
    duplicates: Literal["drop", "keep"] = "drop"
    """Events equal in every column: kept once, the others counted; or all kept."""


Days = Literal["end", "start"]
"""Where in its day an event goes of which only the day is known. At the end nothing is visible
before it can have happened; at the start the day's own order is lost the other way round."""


MISSING = (
    "NA", "<NA>", "NULL", "Null", "null", "None", "\\N", "NaN", "nan", "NAN", "NaT", "#N/A", "#NULL!",
)  # fmt: skip
"""As R, databases, spreadsheets, pandas and Python write that there is no value."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LabsConfig:
    """Laboratory and microbiology."""

    time: Literal["result", "draw"] = "result"
    """When a result became known (storetime), or when its specimen was drawn (charttime), which
    shows results to a model before anybody had them."""
    specimens: bool = True
    """Write the drawing of the specimen as an event of its own."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MimicConfig:
    """`ehr-tokenize from mimic`."""

    labs: LabsConfig = Field(default_factory=LabsConfig)
    codes: Literal["release", "mimic_iv_meds"] = "release"
    """As the release writes them; or as MIMIC_IV_MEDS does: NDC and DRG without leading zeros, blanks
    around a part kept, HCPCS by its short description."""
    days: Days = "end"
    missing: tuple[str, ...] = MISSING
    """Texts in cells that stand for no value; counted."""
    without: tuple[str, ...] = ()
    """Tables to leave out, e.g. `[icu/chartevents]`."""
    write: WriteConfig = Field(default_factory=WriteConfig)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OmopConfig:
    """`ehr-tokenize from omop`."""

    concept: Literal["standard", "source"] = "standard"
    """Which concept makes the code where both are there; the other one stands in for it."""
    unit: Literal["column", "code"] = "column"
    """Write the unit beside the value, or as the last part of the code as well."""
    days: Days = "end"
    midnight: Literal["day", "time"] = "day"
    """Whether 00:00:00 in a datetime means that only the day is known, as is custom in OMOP."""
    missing: tuple[str, ...] = MISSING
    """Texts in cells that stand for no value; counted. The vocabulary's own tables are read as they are."""
    without: tuple[str, ...] = ()
    """Tables to leave out, e.g. `[observation]`."""
    write: WriteConfig = Field(default_factory=WriteConfig)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ExtraColumn:
    """A further column of the output."""

    column: str
    type: Literal["text", "integer", "number"] = "text"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EventsConfig:
    """`ehr-tokenize from events`: which column holds what."""

    subject: str
    """Column of the subject. Integers stay as they are; other ids get a stable 63-bit hash, listed
    in metadata/source_subjects.parquet."""
    code: str
    """A column, or a template such as `LAB//{test}//{unit}`; a missing part becomes UNK, or what
    follows a bar: `{unit|NONE}`."""
    time: str | None = None
    """Column of the time; null: all events are static."""
    time_formats: tuple[str, ...] = ()
    """strptime formats, tried in turn; none: ISO 8601, with or without time of day."""
    value: str | None = None
    """Column of the number. What is no number there is an error, unless `text` names it too."""
    unit: str | None = None
    text: str | None = None
    static: str | None = None
    """Column that is true (1, true, yes, y, t) for static events, whatever their time."""
    split: str | None = None
    """Column with train, tuning or held_out, the same in all rows of a subject."""
    description: str | None = None
    """Column with a description of the code; the first in row order counts."""
    extras: dict[str, ExtraColumn] = Field(default_factory=dict)
    """Further columns of the output."""
    without_time: Literal["error", "drop", "static"] = "error"
    """A row that has no time and is not flagged static. Static means known from the beginning."""
    days: Days = "end"
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    """Null: a comma, or a tab in .tsv files."""
    encoding: str = "utf-8"
    missing: tuple[str, ...] = MISSING
    """Texts in cells that stand for no value; counted."""
    write: WriteConfig = Field(default_factory=WriteConfig)

    @model_validator(mode="after")
    def _coherent(self) -> "EventsConfig":
        if self.time is None and (self.static or self.time_formats):
            raise ValueError("static and time_formats need time")
        taken = sorted(set(self.extras) & set(_TAKEN))
        if taken:
            raise ValueError(f"extras.{taken[0]}: that column is made by the mapping itself")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PatientsJsonConfig:
    """`ehr-tokenize from patients-json`: what stands before the bare codes."""

    diagnosis: str = "DIAGNOSIS//ICD10CM//"
    prescription: str = "MEDICATION//ATC//"
    sex: str = "GENDER//"
    missing: tuple[str, ...] = MISSING
    """Texts that stand for no value; counted."""
    days: Days = "start"
    """Start: the format knows days only, so a day's events stay in one place, at midnight."""
    write: WriteConfig = Field(default_factory=WriteConfig)
