# ruff: noqa: DTZ007 -- MEDS times have no zone
"""Patients in JSON to MEDS and back."""

import json
from datetime import datetime

import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_tokenize.cli import main
from ehr_tokenize.meds.check import check
from ehr_tokenize.sources.config import PatientsJsonConfig
from ehr_tokenize.sources.patients_json import from_patients_json, to_patients_json
from ehr_tokenize.sources.subjects import hashed
from ehr_tokenize.synthetic.cohort import synthesize, synthesize_json
from ehr_tokenize.synthetic.config import SynthConfig
from ehr_tracking.errors import UserError

PATIENTS = [
    {
        "patient_id": "P0001",
        "birth_date": "1950-06-01",
        "sex": "F",
        "diagnoses": [
            {"code": "I10", "date": "2020-02-20"},
            {"code": "E11.65", "date": "2020-01-15"},
        ],
        "prescriptions": [{"code": "N02BE01", "date": "2020-01-16"}],
    },
    {
        "patient_id": "2",
        "diagnoses": [],
        "prescriptions": [{"code": "A10BA02", "date": "2021-01-01"}],
    },
]
CONFIG = PatientsJsonConfig()


def write(path, patients):
    path.write_text(json.dumps({"patients": patients}))
    return path


def test_rows_are_as_worked_out_by_hand(tmp_path, is_valid_meds):
    result = CliRunner().invoke(
        main,
        [
            "from",
            "patients-json",
            str(write(tmp_path / "p.json", PATIENTS)),
            "--out",
            str(tmp_path / "out"),
        ],
    )
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[:3] == [
        "patients: 2 rows, 2 events",
        "diagnoses: 2 rows, 2 events",
        "prescriptions: 2 rows, 2 events",
    ]
    frames = [pl.read_parquet(p) for p in (tmp_path / "out").glob("data/*/*.parquet")]
    got = (
        pl.concat(frames)
        .sort("subject_id", maintain_order=True)
        .select("subject_id", "time", "code")
    )
    one, day = hashed("P0001"), "%Y-%m-%d"
    assert got.rows() == [
        (2, datetime.strptime("2021-01-01", day), "MEDICATION//ATC//A10BA02"),
        (one, None, "GENDER//F"),
        (one, datetime.strptime("1950-06-01", day), "MEDS_BIRTH"),
        (one, datetime.strptime("2020-01-15", day), "DIAGNOSIS//ICD10CM//E11.65"),
        (one, datetime.strptime("2020-01-16", day), "MEDICATION//ATC//N02BE01"),
        (one, datetime.strptime("2020-02-20", day), "DIAGNOSIS//ICD10CM//I10"),
    ]
    assert not [f for f in check(tmp_path / "out").findings if f.check not in {"birth", "splits"}]
    is_valid_meds(tmp_path / "out")


DAYS = st.dates().map(lambda d: d.isoformat())
ENTRIES = st.lists(
    st.fixed_dictionaries(
        {"code": st.from_regex(r"[A-Z][0-9]{2}(\.[0-9]{1,3})?", fullmatch=True), "date": DAYS}
    ),
    max_size=5,
    unique_by=lambda e: (e["code"], e["date"]),
)
PATIENT = st.fixed_dictionaries(
    {
        "patient_id": st.from_regex(r"[A-Za-z0-9-]{1,12}", fullmatch=True),
        "diagnoses": ENTRIES.filter(bool),
        "prescriptions": ENTRIES,
    },
    optional={"birth_date": DAYS, "sex": st.sampled_from(["F", "M", "U"])},
)


@settings(max_examples=25)
@given(st.lists(PATIENT, min_size=1, max_size=6, unique_by=lambda p: p["patient_id"]))
def test_patients_come_back(tmp_path_factory, patients):
    folder = tmp_path_factory.mktemp("patients")
    from_patients_json(write(folder / "p.json", patients), folder / "out", CONFIG)
    assert to_patients_json(folder / "out", folder / "back.json") == len(patients)
    back = json.loads((folder / "back.json").read_text())["patients"]
    for patient in patients:
        for name in ("diagnoses", "prescriptions"):
            patient[name] = sorted(patient[name], key=lambda e: (e["date"], e["code"]))
    assert back == sorted(patients, key=lambda p: p["patient_id"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "p.json: not JSON"),
        ("[]", 'p.json: expected {"patients": [...]}'),
        ('{"patients": [1]}', "patients[0]: not an object"),
        ('{"patients": [{"diagnoses": []}]}', "patients[0]: patient_id is None, expected text"),
        (
            '{"patients": [{"patient_id": "a"}, {"patient_id": "a"}]}',
            "patients[1]: patient_id 'a' is there twice",
        ),
        ('{"patients": [{"patient_id": "a", "diagnoses": {}}]}', "holds no event"),
        (
            '{"patients": [{"patient_id": "a", "diagnoses": 3}]}',
            "patients[0].diagnoses: not a list",
        ),
        (
            '{"patients": [{"patient_id": "a", "diagnoses": [{"code": "I10", "date": "2020-02-30"}]}]}',
            "patients[0].diagnoses[0]: date is '2020-02-30', expected a date like 2020-01-15",
        ),
        (
            '{"patients": [{"patient_id": "a", "prescriptions": [{"code": "", "date": "2020-02-03"}]}]}',
            "patients[0].prescriptions[0]: code is '', expected text",
        ),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(tmp_path, content, message):
    (tmp_path / "p.json").write_text(content)
    command = ["from", "patients-json", str(tmp_path / "p.json"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert {p.name for p in tmp_path.iterdir()} == {"p.json"}


def test_what_is_not_read_is_named(tmp_path):
    patient = {
        **PATIENTS[1],
        "zip": "123",
        "diagnoses": [{"code": "I10", "date": "2020-01-01", "by": "x"}],
    }
    done = from_patients_json(write(tmp_path / "p.json", [patient]), tmp_path / "out", CONFIG)
    assert "not read: diagnoses.by, zip" in done.lines()


def test_patients_that_hold_nothing_are_counted(tmp_path):
    """They have no place in MEDS; a synthetic cohort has some."""
    nobody = [{"patient_id": f"N{i}", "diagnoses": [], "prescriptions": []} for i in range(3)]
    done = from_patients_json(write(tmp_path / "p.json", PATIENTS + nobody), tmp_path / "o", CONFIG)
    assert done.written.subjects == 2
    assert "left out 3 patients without any event: MEDS has no such subjects" in done.lines()


def test_a_synthetic_cohort_in_json_is_that_in_meds(tmp_path):
    """`synth --format json` and back: the diagnoses and medication of the cohort written as MEDS."""
    config = SynthConfig(num_patients=60, seed=4, novel_prob=0.01)
    synthesize(tmp_path / "meds", config)
    synthesize_json(tmp_path / "p.json", config)
    from_patients_json(tmp_path / "p.json", tmp_path / "back", CONFIG)

    def told(root):
        found = pl.concat(pl.read_parquet(p) for p in root.glob("data/*/*.parquet"))
        kept = found.filter(pl.col("code").str.contains(r"^(DIAGNOSIS//ICD10CM|MEDICATION//ATC)//"))
        return kept.select("subject_id", pl.col("time").dt.date(), "code").unique()

    names = pl.read_parquet(tmp_path / "back/metadata/source_subjects.parquet")
    number = pl.col("source_id").str.slice(1).cast(pl.Int64)
    back = told(tmp_path / "back").join(names, on="subject_id").with_columns(subject_id=number)
    expected = told(tmp_path / "meds")
    assert len(expected) > 500
    assert (
        back.select(expected.columns).sort(expected.columns).equals(expected.sort(expected.columns))
    )


def test_texts_that_stand_for_no_value_are_none_and_counted(tmp_path):
    patient = {
        "patient_id": "P1",
        "sex": "NA",
        "birth_date": "NaT",
        "diagnoses": [{"code": "I10", "date": "2020-01-01"}],
    }
    source = tmp_path / "p.json"
    source.write_text(json.dumps({"patients": [patient]}))
    done = from_patients_json(source, tmp_path / "out", PatientsJsonConfig())
    (path,) = (tmp_path / "out").glob("data/*/*.parquet")
    assert pl.read_parquet(path)["code"].to_list() == ["DIAGNOSIS//ICD10CM//I10"]
    assert done.tallies["patients"].missing == {("sex", "NA"): 1, ("birth_date", "NaT"): 1}
    patient["diagnoses"][0]["code"] = "NULL"
    source.write_text(json.dumps({"patients": [patient]}))
    with pytest.raises(
        UserError, match=r"patients\[0\]\.diagnoses\[0\]: code is None, expected text"
    ):
        from_patients_json(source, tmp_path / "again", PatientsJsonConfig())
