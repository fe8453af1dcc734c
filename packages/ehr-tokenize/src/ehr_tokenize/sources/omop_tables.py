"""The tables of the OMOP CDM (5.3, 5.4) that hold events, and how each says what, when and how much."""

from dataclasses import dataclass

from ehr_tokenize.sources.mapping import END, INSIDE, START, Event, columns_of

CODE, UNIT, TEXT, BIRTH = "code", "unit", "text", "birth"
"""Columns that `omop` computes."""
VISIT = {"visit_id": "visit_occurrence_id"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table; each row has one concept."""

    name: str
    concept: str
    """Stem of its columns: `condition` for condition_concept_id, condition_source_value, ..."""
    events: tuple[Event, ...]
    value: bool = False
    """Whether it has value_as_number and its like, and units."""

    @property
    def required(self) -> tuple[str, ...]:
        """Columns that the CDM requires."""
        return ("person_id", f"{self.concept}_concept_id")

    @property
    def optional(self) -> tuple[str, ...]:
        """Columns that may be missing."""
        names = [f"{self.concept}_source_concept_id", f"{self.concept}_source_value"]
        if self.value:
            names += ["value_as_number", "value_as_string", "value_as_concept_id", "unit_concept_id",
                      "unit_source_value", "value_source_value"]  # fmt: skip
        made = {CODE, UNIT, TEXT, BIRTH}
        return tuple(
            dict.fromkeys([*names, *(c for c in columns_of(self.events) if c not in made)])
        )

    @property
    def times(self) -> tuple[str, ...]:
        """Columns of which one must be there."""
        return self.events[0].time


def _times(stem: str) -> tuple[str, str]:
    return f"{stem}_datetime", f"{stem}_date"


def _visits(name: str, stem: str) -> Table:
    return Table(
        name=name,
        concept=stem,
        events=(
            Event(code=f"{stem.upper()}_START//{{{CODE}}}", time=_times(f"{stem}_start"), rank=START, extra=VISIT),
            Event(code=f"{stem.upper()}_END//{{{CODE}}}", time=_times(f"{stem}_end"), rank=END, extra=VISIT,
                  after=_times(f"{stem}_start"),
                  optional=True),
        ),
    )  # fmt: skip


def _start(name: str, stem: str, time: str) -> Table:
    return Table(
        name=name, concept=stem, events=(Event(code=f"{{{CODE}}}", time=_times(time), extra=VISIT),)
    )


def _measured(name: str) -> Table:
    return Table(
        name=name,
        concept=name,
        value=True,
        events=(
            Event(
                code=f"{{{CODE}}}",
                time=_times(name),
                value="value_as_number",
                text=TEXT,
                both=True,
                extra={**VISIT, "unit": UNIT},
                rank=INSIDE,
            ),
        ),
    )


TABLES = (
    _visits("visit_occurrence", "visit"),
    _visits("visit_detail", "visit_detail"),
    _start("condition_occurrence", "condition", "condition_start"),
    _start("drug_exposure", "drug", "drug_exposure_start"),
    _start("procedure_occurrence", "procedure", "procedure"),
    _start("device_exposure", "device", "device_exposure_start"),
    _measured("measurement"),
    _measured("observation"),
)
PERSON = (
    Event(code="MEDS_BIRTH", time=(BIRTH,)),
    *(Event(code=f"{{{x}}}", needs=(x,), optional=True) for x in ("gender", "race", "ethnicity")),
)
DEATH = Event(code="MEDS_DEATH", time=_times("death"))
VOCABULARY = ("concept", "concept_ancestor", "concept_relationship")
