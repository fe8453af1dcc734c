"""What the tables of MIMIC-IV say: one entry a table, one `Event` for each thing a row tells.

Codes are built as those of MIMIC_IV_MEDS wherever it has one; where that loses something (leading zeros
of NDC and DRG, which it reads as integers; HCPCS, of which it takes the short description) they are as
the release writes them, unless the config says otherwise. `docs/sources/mimic.md` is the user's
view of this table.
"""

from dataclasses import dataclass, field

from ehr_tokenize.sources.config import MimicConfig
from ehr_tokenize.sources.mapping import BILLING, END, START, Event

_ADMISSION = {"hadm_id": "hadm_id"}
_STAY = {"hadm_id": "hadm_id", "stay_id": "stay_id"}
DISCHARGE, NDC, DRG, BIRTH, DEATH = "discharge", "product", "group", "birth", "death"
"""Columns that `mimic` computes from other tables or columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table and its events."""

    name: str
    """E.g. `hosp/labevents`."""
    events: tuple[Event, ...]
    joins: tuple[str, ...] = ()
    """Computed columns that its events read."""
    keys: tuple[str, ...] = ()
    """Columns that the computed ones are made from."""
    days: frozenset[str] = field(default_factory=frozenset)
    """Columns that hold a day only."""


def tables(config: MimicConfig) -> tuple[Table, ...]:
    """Every table that is read, in the order in which they are reported."""
    return (*_PEOPLE, *_BILLING, _hcpcs(config), *_laboratory(config), *_MEDICATION, *_OTHER, *_ICU)


def _at(code: str, time: str, **more: object) -> Event:
    return Event(code=code, time=(time,), extra=_ADMISSION, **more)  # type: ignore[arg-type]


_PEOPLE = (
    Table(
        name="hosp/patients",
        events=(
            Event(code="MEDS_BIRTH", time=(BIRTH,)),
            Event(code="GENDER//{gender}", needs=("gender",)),
            Event(code="MEDS_DEATH", time=(DEATH,), optional=True),
        ),
        joins=(BIRTH, DEATH),
        keys=("anchor_age", "anchor_year", "dod"),
        days=frozenset({"dod"}),
    ),
    Table(
        name="hosp/admissions",
        events=(
            Event(code="ED_REGISTRATION", time=("edregtime",), optional=True, rank=START),
            Event(code="ED_OUT", time=("edouttime",), optional=True, rank=END),
            _at(
                "HOSPITAL_ADMISSION//{admission_type}//{admission_location}",
                "admittime",
                rank=START,
            ),
            _at("INSURANCE//{insurance}", "admittime", needs=("insurance",), optional=True),
            _at("LANGUAGE//{language}", "admittime", needs=("language",), optional=True),
            _at(
                "MARITAL_STATUS//{marital_status}",
                "admittime",
                needs=("marital_status",),
                optional=True,
            ),
            _at("RACE//{race}", "admittime", needs=("race",), optional=True),
            _at(
                "HOSPITAL_DISCHARGE//{discharge_location}",
                "dischtime",
                rank=END,
                after=("admittime",),
            ),
        ),
    ),
    Table(
        name="hosp/transfers",
        events=(_at("TRANSFER_TO//{eventtype}//{careunit}", "intime", rank=START),),
    ),
    Table(
        name="hosp/services",
        events=(_at("SERVICE//{curr_service}", "transfertime", needs=("curr_service",)),),
    ),
)
_BILLING = (
    Table(
        name="hosp/diagnoses_icd",
        events=(
            _at(
                "DIAGNOSIS//ICD//{icd_version}//{icd_code}",
                DISCHARGE,
                needs=("icd_code",),
                rank=BILLING,
            ),
        ),
        joins=(DISCHARGE,),
        keys=("hadm_id",),
    ),
    Table(
        name="hosp/procedures_icd",
        events=(
            _at(
                "PROCEDURE//ICD//{icd_version}//{icd_code}",
                DISCHARGE,
                needs=("icd_code",),
                rank=BILLING,
            ),
        ),
        joins=(DISCHARGE,),
        keys=("hadm_id",),
    ),
    Table(
        name="hosp/drgcodes",
        events=(
            _at(
                f"DRG//{{drg_type}}//{{{DRG}}}",
                DISCHARGE,
                needs=("drg_code",),
                text="description",
                rank=BILLING,
                description="{description}",
            ),
        ),
        joins=(DISCHARGE, DRG),
        keys=("hadm_id", "drg_code"),
    ),
)


def _hcpcs(config: MimicConfig) -> Table:
    column = "short_description" if config.codes == "mimic_iv_meds" else "hcpcs_cd"
    return Table(
        name="hosp/hcpcsevents",
        events=(_at(f"HCPCS//{{{column}}}", "chartdate", needs=(column,), rank=BILLING),),
        days=frozenset({"chartdate"}),
    )


def _laboratory(config: MimicConfig) -> tuple[Table, ...]:
    drawn = config.labs.time == "draw"
    at = ("charttime",) if drawn else ("storetime",)
    culture = ("charttime", "chartdate") if drawn else ("storetime", "storedate")
    lab = [
        Event(
            code="LAB//RESULT//{itemid}//{valueuom}",
            time=at,
            value="valuenum",
            text="value",
            extra={**_ADMISSION, "unit": "valueuom"},
        )
    ]
    micro = [
        Event(
            code="MICROBIOLOGY//RESULT//{test_itemid}//{org_itemid|NONE}",
            time=culture,
            text="org_name",
            extra=_ADMISSION,
            description="{test_name}: {org_name|no organism}",
        ),
        Event(
            code="MICROBIOLOGY//SUSCEPTIBILITY//{org_itemid}//{ab_itemid}//{interpretation}",
            time=culture,
            value="dilution_value",
            text="dilution_text",
            extra=_ADMISSION,
            needs=("ab_itemid",),
            optional=True,
            description="{org_name}, {ab_name}: {interpretation}",
        ),
    ]
    if config.labs.specimens:
        lab.append(_at("LAB//SPECIMEN_COLLECTED//{itemid}//{priority}", "charttime"))
        micro.append(
            Event(
                code="MICROBIOLOGY//SPECIMEN_COLLECTED//{test_itemid}//{spec_itemid}",
                time=("charttime", "chartdate"),
                extra=_ADMISSION,
                description="{test_name}, {spec_type_desc}",
            )
        )
    return (
        Table(name="hosp/labevents", events=tuple(lab)),
        Table(
            name="hosp/microbiologyevents",
            events=tuple(micro),
            days=frozenset({"chartdate", "storedate"}),
        ),
    )


_MEDICATION = (
    Table(
        name="hosp/pharmacy",
        events=(
            _at(f"MEDICATION//START//{{medication}}//{{{NDC}}}", "starttime"),
            _at(f"MEDICATION//STOP//{{medication}}//{{{NDC}}}", "stoptime", optional=True),
        ),
        joins=(NDC,),
        keys=("pharmacy_id",),
    ),
    Table(
        name="hosp/emar",
        events=(_at(f"MEDICATION//{{medication}}//{{event_txt}}//{{{NDC}}}", "charttime"),),
        joins=(NDC,),
        keys=("pharmacy_id",),
    ),
)
PRESCRIPTIONS = Table(
    name="hosp/prescriptions",
    events=(
        _at(f"MEDICATION//START//{{drug}}//{{{NDC}}}", "starttime"),
        _at(f"MEDICATION//STOP//{{drug}}//{{{NDC}}}", "stoptime", optional=True),
    ),
    joins=(NDC,),
    keys=("ndc",),
)
"""Gives the NDC of pharmacy and emar; its own events are written where pharmacy is missing."""
_OTHER = (
    Table(
        name="hosp/omr",
        events=(
            Event(
                code="{result_name}",
                time=("chartdate",),
                needs=("result_name",),
                value="result_value",
                lenient=True,
                text="result_value",
            ),
        ),
        days=frozenset({"chartdate"}),
    ),
)
_ICU = (
    Table(
        name="icu/icustays",
        events=(
            Event(
                code="ICU_ADMISSION//{first_careunit}", time=("intime",), extra=_STAY, rank=START
            ),
            Event(
                code="ICU_DISCHARGE//{last_careunit}",
                time=("outtime",),
                extra=_STAY,
                rank=END,
                after=("intime",),
            ),
        ),
    ),
    Table(
        name="icu/chartevents",
        events=(
            Event(
                code="LAB//{itemid}//{valueuom}",
                time=("charttime",),
                value="valuenum",
                text="value",
                extra={**_STAY, "unit": "valueuom"},
            ),
        ),
    ),
    Table(
        name="icu/datetimeevents",
        events=(Event(code="DATETIME//{itemid}", time=("charttime",), text="value", extra=_STAY),),
    ),
    Table(
        name="icu/procedureevents",
        events=(
            Event(code="PROCEDURE//START//{itemid}", time=("starttime",), extra=_STAY),
            Event(code="PROCEDURE//END//{itemid}", time=("endtime",), extra=_STAY),
        ),
    ),
    Table(
        name="icu/inputevents",
        events=(
            Event(
                code="INFUSION_START//{itemid}",
                time=("starttime",),
                value="rate",
                extra={**_STAY, "unit": "rateuom"},
            ),
            Event(
                code="INFUSION_END//{itemid}",
                time=("endtime",),
                value="amount",
                extra={**_STAY, "unit": "amountuom"},
            ),
            Event(
                code="SUBJECT_WEIGHT_AT_INFUSION//KG",
                time=("starttime",),
                value="patientweight",
                needs=("patientweight",),
                optional=True,
                extra=_STAY,
            ),
        ),
    ),
    Table(
        name="icu/outputevents",
        events=(
            Event(
                code="SUBJECT_FLUID_OUTPUT//{itemid}//{valueuom}",
                time=("charttime",),
                value="value",
                extra={**_STAY, "unit": "valueuom"},
            ),
        ),
    ),
)
