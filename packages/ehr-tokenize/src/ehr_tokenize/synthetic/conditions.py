"""The chronic conditions, laboratory tests and acute events of the synthetic cohort, with their effects.

Codes are real (ICD-10-CM, ATC, CPT, LOINC with UCUM units); the numbers are made up to be plausible
and are the generative model: `docs/synthetic.md` says how they enter it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Condition:
    """A chronic condition: latent, from its onset on worsening towards severity 1."""

    name: str
    stages: tuple[str, str, str]
    """ICD-10-CM codes for severity in [0, 1/3), [1/3, 2/3), [2/3, 1)."""
    drugs: tuple[str, str, str]
    """ATC codes, each given from the stage of the same place on."""
    hazard: float
    """Cumulative hazard of onset at the age of 60, with nothing else present."""
    shape: float
    """Weibull shape of the onset: the cumulative hazard grows as (age / 60) ** shape."""
    rate: float
    """Progression a year: severity = 1 - exp(-rate * years since onset)."""
    burden: float
    """Weight of its severity in a subject's burden, which drives visits, stays and death."""
    causes: Mapping[str, float] = field(default_factory=dict)
    """Earlier condition -> log hazard ratio of this one's onset once it is present."""
    male: float = 0.0
    """Log hazard ratio of onset in males."""


# A cause comes before what it causes.
CONDITIONS = (
    Condition(
        "hypertension", ("I10", "I11.9", "I16.0"), ("C09AA03", "C08CA01", "C07AB02"),
        hazard=0.9, shape=3.0, rate=0.05, burden=0.2,
    ),
    Condition(
        "diabetes", ("E11.9", "E11.65", "E11.40"), ("A10BA02", "A10BK01", "A10AE04"),
        hazard=0.16, shape=3.0, rate=0.06, burden=0.5,
    ),
    Condition(
        "hyperlipidemia", ("E78.5", "E78.2", "E78.01"), ("C10AA05", "C10AX09", "C10AX13"),
        hazard=0.5, shape=2.5, rate=0.04, burden=0.1, causes={"diabetes": 0.4},
    ),
    Condition(
        "depression", ("F32.A", "F33.1", "F33.2"), ("N06AB06", "N06AX11", "N05AH04"),
        hazard=0.2, shape=1.2, rate=0.06, burden=0.3, male=-0.5,
    ),
    Condition(
        "copd", ("J44.9", "J44.1", "J96.11"), ("R03AC02", "R03BB04", "H02AB06"),
        hazard=0.08, shape=4.0, rate=0.09, burden=0.8, male=0.3,
    ),
    Condition(
        "kidney_disease", ("N18.30", "N18.4", "N18.6"), ("A11CC04", "B03XA01", "V03AE02"),
        hazard=0.08, shape=4.0, rate=0.11, burden=0.8,
        causes={"hypertension": 0.9, "diabetes": 1.3},
    ),
    Condition(
        "ischemic_heart_disease", ("I25.10", "I25.119", "I25.5"), ("B01AC06", "C07AB02", "C01DA14"),
        hazard=0.07, shape=4.5, rate=0.09, burden=0.7,
        causes={"hypertension": 0.5, "diabetes": 0.7, "hyperlipidemia": 0.7}, male=0.5,
    ),
    Condition(
        "heart_failure", ("I50.9", "I50.22", "I50.84"), ("C03CA01", "C03DA01", "C09DX04"),
        hazard=0.02, shape=5.0, rate=0.16, burden=1.2,
        causes={"hypertension": 0.6, "ischemic_heart_disease": 1.6, "kidney_disease": 0.7},
    ),
    Condition(
        "atrial_fibrillation", ("I48.0", "I48.19", "I48.21"), ("B01AF02", "C01BD01", "C01AA05"),
        hazard=0.04, shape=5.5, rate=0.09, burden=0.4,
        causes={"hypertension": 0.4, "heart_failure": 1.3},
    ),
    Condition(
        "cancer", ("C18.9", "C77.2", "C78.7"), ("L01BC02", "L01XA03", "N02AA01"),
        hazard=0.04, shape=4.5, rate=0.25, burden=1.6,
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Lab:
    """A measurement; its value depends on the latent state, and noise is added to it."""

    loinc: str
    unit: str
    mean: float
    between: float
    """Standard deviation of a subject's own level."""
    within: float
    """Standard deviation of one measurement about it."""
    loads: Mapping[str, float] = field(default_factory=dict)
    """Condition -> change of the level at severity 1."""
    acute: float = 0.0
    """Change of the level for each unit of acute severity during a stay."""
    log: bool = False
    """Mean, deviations and changes are those of the logarithm; `mean` is the median itself."""
    decimals: int = 1
    clinic: float = 0.2
    """Probability of being measured at an outpatient visit with no relevant condition known."""
    ward: float = 0.5
    """Probability of being measured on a day in hospital."""
    vital: bool = False


LABS = (
    Lab("8480-6", "mm[Hg]", 122, 7, 9, {"hypertension": 24}, -5, decimals=0, clinic=0.7, ward=0.9, vital=True),
    Lab("8867-4", "{beats}/min", 72, 5, 7, {"atrial_fibrillation": 14, "heart_failure": 9}, 7, decimals=0, clinic=0.5, ward=0.9, vital=True),
    Lab("59408-5", "%", 97.5, 0.5, 0.9, {"copd": -6, "heart_failure": -2}, -1.2, decimals=0, clinic=0.2, ward=0.8, vital=True),
    Lab("39156-5", "kg/m2", 26.5, 4, 0.5, {"diabetes": 4}, clinic=0.3, ward=0.0, vital=True),
    Lab("4548-4", "%", 5.4, 0.25, 0.3, {"diabetes": 3.4}, clinic=0.10, ward=0.05),
    Lab("2345-7", "mg/dL", 97, 8, 14, {"diabetes": 95}, 14, decimals=0, clinic=0.2),
    Lab("2160-0", "mg/dL", 0.9, 0.16, 0.14, {"kidney_disease": 1.6, "heart_failure": 0.2}, 0.08, log=True, decimals=2, clinic=0.2),
    Lab("3094-0", "mg/dL", 14, 0.2, 0.2, {"kidney_disease": 1.3, "heart_failure": 0.3}, 0.08, log=True, decimals=0, clinic=0.1),
    Lab("2823-3", "mmol/L", 4.1, 0.2, 0.3, {"kidney_disease": 0.9}, 0.05, clinic=0.1),
    Lab("2951-2", "mmol/L", 140, 1.2, 1.8, {"heart_failure": -5}, -1.0, decimals=0, clinic=0.1),
    Lab("718-7", "g/dL", 14, 0.9, 0.5, {"kidney_disease": -2.8, "cancer": -3}, -0.4, clinic=0.15),
    Lab("6690-2", "10*3/uL", 7, 0.18, 0.18, {}, 0.22, log=True, clinic=0.1),
    Lab("1988-5", "mg/L", 2, 0.5, 0.4, {"cancer": 1.0, "copd": 0.6}, 0.8, log=True, clinic=0.05, ward=0.5),
    Lab("2524-7", "mmol/L", 1.1, 0.1, 0.2, {}, 0.3, log=True, clinic=0.0, ward=0.35),
    Lab("30934-4", "pg/mL", 30, 0.4, 0.4, {"heart_failure": 3.4, "atrial_fibrillation": 0.5}, 0.15, log=True, decimals=0, clinic=0.03, ward=0.2),
    Lab("10839-9", "ng/mL", 0.01, 0.3, 0.5, {"ischemic_heart_disease": 1.2}, 0.3, log=True, decimals=3, clinic=0.0, ward=0.2),
    Lab("2089-1", "mg/dL", 108, 15, 12, {"hyperlipidemia": 70}, decimals=0, clinic=0.12, ward=0.02),
)  # fmt: skip

KNOWN_BONUS = 0.5
"""Added to the probability of an outpatient measurement when a condition in its `loads` is known."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a subject is admitted: drawn with weight exp(weight + slope * acute severity)."""

    code: str
    weight: float
    slope: float
    condition: str | None = None
    """Its severity times 3 is added to the exponent."""


CAUSES = (
    Cause("J18.9", 0.5, 0.6, "copd"),
    Cause("A41.9", -1.2, 1.5),
    Cause("N39.0", 0.5, 0.0),
    Cause("N17.9", -0.7, 0.6, "kidney_disease"),
    Cause("J96.01", -1.5, 1.2, "copd"),
    Cause("I21.4", -0.5, 0.5, "ischemic_heart_disease"),
    Cause("I50.23", -2.0, 0.6, "heart_failure"),
    Cause("S72.001A", -0.5, 0.3),
    Cause("K92.2", -0.3, 0.4),
    Cause("R07.9", 0.8, -0.6),
    Cause("K35.80", 0.0, -0.2),
    Cause("M17.11", 0.5, -0.8),
)

COMPLAINTS = (
    "Z00.00", "J06.9", "M54.50", "Z23", "R05.9", "K21.9", "M25.561", "R51.9", "L30.9", "B34.9",
    "R10.9", "G47.00", "H10.9", "R42", "J30.9", "M79.10",
)  # fmt: skip
"""Minor reasons for an outpatient visit, drawn with weight 1 / rank."""

CLINIC_DRUGS = {"N02BE01": 0.10, "M01AE01": 0.08, "A02BC01": 0.10, "J01CA04": 0.06}
"""ATC code -> probability at an outpatient visit, for no condition above."""
WARD_DRUGS = {"B05BB01": 0.8, "B01AB05": 0.5, "N02BE01": 0.5, "J01DD04": 0.3, "A02BC01": 0.3}
"""ATC code -> probability in a stay."""

RACES = {"WHITE": 0.62, "BLACK": 0.14, "HISPANIC": 0.14, "ASIAN": 0.07, "OTHER": 0.03}
"""Independent of everything else in the model."""
