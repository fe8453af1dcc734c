"""The tasks of EHRSHOT and FoMoH on a small OMOP CDM, through our own source: every answer worked out by hand."""

from pathlib import Path

import polars as pl
import pytest

from ehr_eval.tasks.choice import Asked
from ehr_eval.tasks.config import LabelsConfig
from ehr_eval.tasks.make import LabelsSummary, make_labels
from ehr_tokenize.sources.config import OmopConfig
from ehr_tokenize.sources.omop import from_omop

IP, OP, ICU, MMOL, MG, GDL = 9201, 9202, 32037, 8753, 8840, 8713
HT, MILD_HT, AMI, CKD, KALIUM, SODIUM, GLUCOSE, HB, PLATELETS = 1, 2, 3, 4, 10, 11, 12, 13, 14
CONCEPTS = {
    IP: "Visit/IP", OP: "Visit/OP", ICU: "Visit/OMOP4822460", MMOL: "UCUM/mmol/L", MG: "UCUM/mg/dL",
    GDL: "UCUM/g/dL", HT: "SNOMED/59621000", MILD_HT: "SNOMED/1201005", AMI: "SNOMED/57054005",
    CKD: "SNOMED/709044004", KALIUM: "LOINC/2823-3", SODIUM: "LOINC/2951-2", GLUCOSE: "LOINC/2345-7",
    HB: "LOINC/718-7", PLATELETS: "LOINC/777-3", 22: "LOINC/LP416145-3", 23: "LOINC/LP392452-1",
    24: "SNOMED/38341003", 25: "SNOMED/22298006", 26: "SNOMED/44054006", 27: "RxNorm/6809", 28: "ATC/A10B",
    29: "SNOMED/194828000",
}  # fmt: skip
BELOW = [(HT, MILD_HT), (24, HT), (24, MILD_HT), (22, GLUCOSE), (23, HB), (25, AMI), (28, 27)]
VISITS = [  # visit, person, concept, start, end
    (1, 1, IP, "2020-01-01 10:00:00", "2020-01-09 12:00:00"),  # 8 days; intensive care on the third
    (2, 1, IP, "2020-02-01 08:00:00", "2020-02-01 20:00:00"),  # a day
    (3, 1, IP, "2020-02-20 08:00:00", "2020-02-27 08:00:00"),  # 7 days to the minute
    (4, 2, IP, "2020-03-01 08:00:00", "2020-03-05 09:00:00"),  # intensive care on its first day
    (5, 2, IP, "2020-03-05 18:00:00", "2020-03-07 09:00:00"),  # again that day
    (6, 2, OP, "2021-06-01 08:00:00", "2021-06-01 09:00:00"),
    (7, 2, IP, "2022-09-01 08:00:00", "2022-09-08 09:00:00"),
    (8, 3, OP, "2015-01-01 08:00:00", "2015-01-01 09:00:00"),
    (9, 3, OP, "2017-06-01 08:00:00", "2017-06-01 09:00:00"),  # nothing in the two years before
    (10, 3, OP, "2017-09-01 08:00:00", "2017-09-01 09:00:00"),
    (11, 3, OP, "2018-03-01 08:00:00", "2018-03-01 09:00:00"),
    (12, 3, IP, "2018-12-01 08:00:00", "2018-12-09 08:00:00"),  # dies in it
]
UNITS = [
    (11, 1, ICU, "2020-01-03 09:00:00", "2020-01-04 09:00:00", 1),
    (12, 2, ICU, "2020-03-01 12:00:00", "2020-03-02 09:00:00", 4),
]
CONDITIONS = [  # person, concept, time, visit
    (1, MILD_HT, "2020-06-01 10:00:00", None),
    (2, CKD, "2020-03-02 10:00:00", 4),
    (2, MILD_HT, "2020-03-06 10:00:00", 5),
    (2, HT, "2021-01-10 10:00:00", None),
    (2, AMI, "2022-09-02 10:00:00", 7),
    (3, CKD, "2015-01-01 08:30:00", 8),
    (3, 29, "2017-08-01 10:00:00", None),  # angina
    (3, 26, "2017-10-01 10:00:00", None),  # diabetes, its drug a year later
    (3, HT, "2018-06-01 10:00:00", None),
    (3, AMI, "2018-09-15 10:00:00", None),  # outside of every visit
    (3, AMI, "2018-12-02 10:00:00", 12),
]
RESULTS = [  # person, concept, time, value, unit, text
    (1, KALIUM, "2020-01-02 08:00:30", 5.6, MMOL, None),
    (1, KALIUM, "2020-01-02 10:00:00", 7.5, MMOL, None),
    (1, KALIUM, "2020-01-02 12:00:00", 99.0, MG, None),  # 5.5 mmol/L
    (1, KALIUM, "2020-01-02 14:00:00", 9.0, GDL, None),  # no unit of potassium
    (1, KALIUM, "2020-01-02 16:00:00", None, None, "Normal"),
    (1, GLUCOSE, "2020-01-02 08:00:00", 70.2, MG, None),  # just above 3.9
    (1, GLUCOSE, "2020-01-02 09:00:00", 3.9, MMOL, None),
    (1, GLUCOSE, "2020-01-02 10:00:00", 50.0, MG, None),
    (1, SODIUM, "2020-01-02 08:00:00", 135.0, None, None),
    (1, SODIUM, "2020-01-02 09:00:00", 135.1, MMOL, None),
    (1, HB, "2020-01-02 08:00:00", 12.0, GDL, None),
    (1, HB, "2020-01-02 09:00:00", 6.9, GDL, None),
    (1, PLATELETS, "2020-01-02 08:00:00", 99.0, None, None),
]


def write_cdm(root: Path) -> Path:
    root.mkdir()
    tables = {
        "person": pl.DataFrame({"person_id": [1, 2, 3], "gender_concept_id": [0, 0, 0], "year_of_birth": [1950, 1960, 1970]}),
        "death": pl.DataFrame({"person_id": [3], "death_datetime": ["2018-12-09 07:00:00"]}),
        "drug_exposure": pl.DataFrame(
            {"person_id": [3], "drug_concept_id": [27], "drug_exposure_start_datetime": ["2018-10-01 10:00:00"]}
        ),
        "visit_occurrence": table(
            ["visit_occurrence_id", "person_id", "visit_concept_id", "visit_start_datetime", "visit_end_datetime"], VISITS
        ),
        "visit_detail": table(
            ["visit_detail_id", "person_id", "visit_detail_concept_id", "visit_detail_start_datetime",
             "visit_detail_end_datetime", "visit_occurrence_id"], UNITS
        ),
        "condition_occurrence": table(
            ["person_id", "condition_concept_id", "condition_start_datetime", "visit_occurrence_id"], CONDITIONS
        ),
        "measurement": table(
            ["person_id", "measurement_concept_id", "measurement_datetime", "value_as_number", "unit_concept_id",
             "value_as_string"], RESULTS
        ),
        "concept": pl.DataFrame(
            [(id_, name, *name.split("/", 1)) for id_, name in CONCEPTS.items()],
            ["concept_id", "concept_name", "vocabulary_id", "concept_code"],
            orient="row",
        ),
        "concept_ancestor": pl.DataFrame(
            [(*pair, 1) for pair in BELOW],
            ["ancestor_concept_id", "descendant_concept_id", "min_levels_of_separation"],
            orient="row",
        ),
    }  # fmt: skip
    for name, rows in tables.items():
        rows.write_csv(root / f"{name}.csv")
    return root


def table(columns: list[str], rows: list[tuple[object, ...]]) -> pl.DataFrame:
    return pl.DataFrame(rows, columns, orient="row", infer_schema_length=None)


@pytest.fixture(scope="module")
def cdm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cdm(tmp_path_factory.mktemp("omop") / "cdm")


@pytest.fixture(scope="module")
def made(cdm: Path) -> LabelsSummary:
    root = cdm.parent
    from_omop(cdm, root / "meds", OmopConfig())
    asked = Asked(collections=["ehrshot", "fomoh"])
    return make_labels(root / "meds", root / "labels", LabelsConfig(recurrence=True), asked=asked)


def rows(
    made: LabelsSummary, task: str, *, of: str = "boolean_value"
) -> dict[tuple[int, str], object]:
    """(subject, prediction time) -> answer."""
    found = pl.read_parquet(made.path / task / "labels.parquet")
    return {(s, f"{t:%Y-%m-%d %H:%M:%S}"): v for s, t, v in found.select("subject_id", "prediction_time", of).iter_rows()}  # fmt: skip


def test_operational_outcomes(made: LabelsSummary) -> None:
    assert rows(made, "guo_los") == {
        (1, "2020-01-01 23:59:00"): True,
        (
            1,
            "2020-02-20 23:59:00",
        ): True,  # 7 days are enough; the day of the second stay asks nothing
        (2, "2020-03-01 23:59:00"): False,
        (2, "2020-03-05 23:59:00"): False,
        (2, "2022-09-01 23:59:00"): True,
        (3, "2018-12-01 23:59:00"): True,
    }
    assert rows(made, "guo_icu") == {
        (1, "2020-01-01 23:59:00"): True,
        (1, "2020-02-20 23:59:00"): False,
        (2, "2020-03-05 23:59:00"): False,
        (2, "2022-09-01 23:59:00"): False,
        (3, "2018-12-01 23:59:00"): False,
    }
    assert rows(made, "guo_readmission") == {
        (1, "2020-01-09 23:59:00"): True,
        (1, "2020-02-01 23:59:00"): True,
        (1, "2020-02-27 23:59:00"): False,
        (2, "2020-03-07 23:59:00"): False,  # the last ones of all are censored, by death as well
    }
    left = made.left_out.filter(task="guo_readmission").select("left_out", "rows").rows()
    assert sorted(left) == [("censored", 2), ("what is excluded is there already", 1)]


def test_results_of_the_laboratory_in_their_units_one_minute_before(made: LabelsSummary) -> None:
    assert rows(made, "lab_hyperkalemia", of="severity") == {
        (1, "2020-01-02 07:59:00"): 1,
        (1, "2020-01-02 09:59:00"): 3,
        (1, "2020-01-02 11:59:00"): 0,
        (1, "2020-01-02 15:59:00"): 0,
    }
    assert list(rows(made, "lab_hyperkalemia").values()) == [True, True, False, False]
    assert list(rows(made, "lab_hypoglycemia", of="severity").values()) == [0, 1, 3]
    assert list(rows(made, "lab_hyponatremia", of="severity").values()) == [1, 0]
    assert list(rows(made, "lab_anemia", of="severity").values()) == [0, 3]
    assert list(rows(made, "lab_thrombocytopenia", of="severity").values()) == [2]


def test_units_as_a_part_of_codes_make_the_same_labels(made: LabelsSummary, cdm: Path) -> None:
    from_omop(cdm, cdm.parent / "coded", OmopConfig(unit="code"))
    tasks = [path.name for path in made.path.glob("lab_*")]
    config = LabelsConfig(tasks=tuple(tasks))
    coded = make_labels(cdm.parent / "coded", cdm.parent / "again", config)
    assert len(tasks) == 5
    for task in tasks:
        assert rows(coded, task, of="severity") == rows(made, task, of="severity")


def test_new_diagnoses_apart_from_those_that_come_again(made: LabelsSummary) -> None:
    assert rows(made, "new_hypertension") == {
        (1, "2020-01-09 23:59:00"): True,
        (1, "2020-02-01 23:59:00"): True,
        (1, "2020-02-27 23:59:00"): True,
        (
            2,
            "2020-03-05 23:59:00",
        ): True,  # the next day comes too soon, but ten months later counts
    }
    assert rows(made, "recurrence.new_hypertension") == {
        (2, "2020-03-07 23:59:00"): True,
        (2, "2022-09-08 23:59:00"): False,
        (3, "2018-12-09 23:59:00"): False,
    }
    assert set(rows(made, "new_acutemi").values()) == {False}


def test_phenotypes_are_asked_at_visits_of_those_at_risk_with_two_years_of_record(
    made: LabelsSummary,
) -> None:
    assert rows(made, "fomoh_hypertension") == {
        (3, "2017-09-01 08:00:00"): True,
        (3, "2018-03-01 08:00:00"): True,
    }
    left = made.left_out.filter(task="fomoh_hypertension").select("left_out", "rows").rows()
    # all visits of the first, those of the second but the last, the first of the third
    assert dict(left) == {
        "too short a record by then": 7,
        "the outcome is there already": 2,
        "nothing recorded lately": 1,
    }
    assert rows(made, "fomoh_ami") == {  # in a hospital, no more than a year on
        (2, "2022-09-01 08:00:00"): True,  # at risk by hypertension coded twice
        (3, "2017-09-01 08:00:00"): False,
        (3, "2018-03-01 08:00:00"): True,
        (3, "2018-12-01 08:00:00"): True,
    }
    assert rows(made, "fomoh_t2dm") == {  # with the drug, in October 2018
        (2, "2022-09-01 08:00:00"): False,  # at risk by age
        (3, "2017-09-01 08:00:00"): False,
        (3, "2018-03-01 08:00:00"): True,
    }


def test_outcomes_of_stays_after_two_days(made: LabelsSummary) -> None:
    two, three = (2, "2022-09-03 08:00:00"), (3, "2018-12-03 08:00:00")
    assert rows(made, "fomoh_long_stay") == {two: True, three: True}
    assert rows(made, "fomoh_in_hospital_mortality") == {two: False, three: True}
    assert "no code matches outcome" in made.skipped["fomoh_celiac"]
    assert max(map(len, made.skipped.values())) < 300
