# ruff: noqa: DTZ001 -- MEDS times have no zone
"""An OMOP CDM to MEDS, against rows worked out by hand."""

from datetime import datetime

import polars as pl
import pytest
from click.testing import CliRunner

from ehr_tokenize.cli import main
from ehr_tokenize.meds.check import check
from ehr_tokenize.sources.config import OmopConfig
from ehr_tokenize.sources.omop import from_omop
from ehr_tracking.errors import UserError

D, T = pl.Date, pl.Datetime("us")
CDM = {
    "person": (
        {"person_id": int, "gender_concept_id": int, "year_of_birth": int, "month_of_birth": int,
         "day_of_birth": int, "race_concept_id": int},
        [(1, 8532, 1970, 5, None, 0), (2, 8507, 1980, None, None, 0)],
    ),
    "death": ({"person_id": int, "death_date": D}, [(1, "2021-06-01")]),
    "visit_occurrence": (
        {"visit_occurrence_id": int, "person_id": int, "visit_concept_id": int, "visit_start_date": D,
         "visit_start_datetime": T, "visit_end_date": D, "visit_end_datetime": T},
        [(100, 1, 9201, "2020-01-01", "2020-01-01 08:00:00", "2020-01-03", None)],
    ),
    "condition_occurrence": (
        {"person_id": int, "condition_concept_id": int, "condition_start_date": D,
         "condition_start_datetime": T, "condition_source_concept_id": int, "condition_source_value": str,
         "visit_occurrence_id": int},
        [(1, 201826, "2020-01-01", "2020-01-01 00:00:00", 45533019, "E11.9", 100),
         (1, 0, "2020-01-02", None, 0, "odd", 100),
         (1, 0, "2020-01-02", None, 45533019, "E11.9", 100),
         (2, 77, "2020-01-02", None, 0, None, None)],
    ),
    "drug_exposure": (
        {"person_id": int, "drug_concept_id": int, "drug_exposure_start_date": D},
        [(1, 1503297, "2020-01-02"), (1, 1503297, None)],
    ),
    "measurement": (
        {"person_id": int, "measurement_concept_id": int, "measurement_date": D, "measurement_datetime": T,
         "value_as_number": float, "value_as_concept_id": int, "unit_concept_id": int,
         "unit_source_value": str, "value_source_value": str},
        [(1, 3023103, "2020-01-01", "2020-01-01 09:30:00", 4.5, None, 8753, "mmol", "4.5"),
         (1, 3023103, "2020-01-01", "2020-01-01 10:00:00", None, None, None, "mmol", ">9"),
         (1, 3019550, "2020-01-01", "2020-01-01 10:30:00", None, 45884084, 0, None, None)],
    ),
    "concept": (
        {"concept_id": int, "concept_name": str, "vocabulary_id": str, "concept_code": str},
        [(8532, "FEMALE", "Gender", "F"), (8507, "MALE", "Gender", "M"), (9201, "Inpatient Visit", "Visit", "IP"),
         (201826, "Type 2 diabetes mellitus", "SNOMED", "44054006"), (201820, "Diabetes", "SNOMED", "73211009"),
         (4008576, "Disease", "SNOMED", "64572001"), (45533019, "Type 2 DM", "ICD10CM", "E11.9"),
         (1503297, "metformin", "RxNorm", "6809"), (3023103, "Potassium", "LOINC", "2823-3"),
         (3019550, "Test", "LOINC", "0001-1"), (45884084, "Positive", "LOINC", "LA6576-8"),
         (8753, "millimole per liter", "UCUM", "mmol/L")],
    ),
    "concept_ancestor": (
        {"ancestor_concept_id": int, "descendant_concept_id": int, "min_levels_of_separation": int},
        [(201820, 201826, 1), (4008576, 201826, 2), (4008576, 201820, 1), (201826, 201826, 0)],
    ),
    "concept_relationship": (
        {"concept_id_1": int, "concept_id_2": int, "relationship_id": str},
        [(45533019, 201826, "Maps to"), (201826, 45533019, "Mapped from")],
    ),
    "note": ({"note_id": int}, [(1,)]),
}  # fmt: skip
TYPES = {int: pl.Int64, str: pl.String, float: pl.Float64}


def frame(name):
    columns, rows = CDM[name]
    text = pl.DataFrame(
        rows,
        schema={c: pl.String if t in (D, T) else TYPES[t] for c, t in columns.items()},
        orient="row",
    )
    return text


def typed(name):
    columns, _ = CDM[name]
    dates = [pl.col(c).str.to_date() for c, t in columns.items() if t == D]
    return frame(name).with_columns(
        *dates, *(pl.col(c).str.to_datetime() for c, t in columns.items() if t == T)
    )


def upper_csv(root):
    """As a database exports it, the vocabulary as Athena ships it."""
    root.mkdir()
    for name in CDM:
        table = frame(name).rename(str.upper)
        if name.startswith("concept"):
            table.write_csv(root / f"{name.upper()}.csv", separator="\t", quote_style="never")
        else:
            table.write_csv(root / f"{name.upper()}.csv")
    return root


def lower_parquet(root):
    """With measurement in parts."""
    (root / "measurement").mkdir(parents=True)
    for name in CDM:
        if name == "measurement":
            typed(name)[:2].write_parquet(root / name / "b.parquet")
            typed(name)[2:].write_parquet(root / name / "a.parquet")
        else:
            typed(name).write_parquet(root / f"{name}.parquet")
    return root


def read(out):
    frames = [pl.read_parquet(p) for p in sorted(out.glob("data/*/*.parquet"))]
    return pl.concat(frames).sort("subject_id", maintain_order=True)


def codes(out):
    return {r[0]: r[1:] for r in pl.read_parquet(out / "metadata/codes.parquet").rows()}


def at(month, day, hour=23, minute=59, second=59, year=2020):
    return datetime(year, month, day, hour, minute, second)


def test_every_row_is_as_worked_out_by_hand(tmp_path, is_valid_meds):
    done = from_omop(upper_csv(tmp_path / "cdm"), tmp_path / "out", OmopConfig())
    is_valid_meds(tmp_path / "out")
    number = pytest.approx(4.5)
    assert read(tmp_path / "out").rows() == [
        (1, None, "Gender/F", None, None, None, None),
        (1, at(5, 1, 0, 0, 0, year=1970), "MEDS_BIRTH", None, None, None, None),
        (1, at(1, 1, 8, 0, 0), "VISIT_START//Visit/IP", None, None, 100, None),
        (1, at(1, 1, 9, 30, 0), "LOINC/2823-3", number, None, None, "mmol/L"),
        (1, at(1, 1, 10, 0, 0), "LOINC/2823-3", None, ">9", None, "mmol"),
        (1, at(1, 1, 10, 30, 0), "LOINC/0001-1", None, "Positive", None, None),
        (1, at(1, 1), "SNOMED/44054006", None, None, 100, None),
        (1, at(1, 2), "ICD10CM/E11.9", None, None, 100, None),
        (1, at(1, 2), "OMOP_SOURCE//odd", None, None, 100, None),
        (1, at(1, 2), "RxNorm/6809", None, None, None, None),
        (1, at(1, 3), "VISIT_END//Visit/IP", None, None, 100, None),
        (1, at(6, 1, year=2021), "MEDS_DEATH", None, None, None, None),
        (2, None, "Gender/M", None, None, None, None),
        (2, at(1, 1, 0, 0, 0, year=1980), "MEDS_BIRTH", None, None, None, None),
        (2, at(1, 2), "OMOP//77", None, None, None, None),
    ]
    lines = done.lines()
    assert (
        "drug_exposure: 2 rows, 1 events; left out: 1 without drug_exposure_start_datetime or drug_exposure_start_date"
        in lines
    )
    assert "kept as OMOP//<id>: 1 events whose concept CONCEPT lacks" in lines
    assert "kept by source value: 1 events without concept" in lines
    assert (
        "missing, gone on without: visit_detail, procedure_occurrence, device_exposure, observation"
        in lines
    )
    assert "not read: note" in lines
    known = codes(tmp_path / "out")
    assert known["SNOMED/44054006"] == ("Type 2 diabetes mellitus", ["SNOMED/73211009"])
    assert known["SNOMED/73211009"] == ("Diabetes", ["SNOMED/64572001"])
    assert known["ICD10CM/E11.9"] == ("Type 2 DM", ["SNOMED/44054006"])
    assert known["VISIT_START//Visit/IP"] == ("Inpatient Visit", ["Visit/IP"])
    assert known["OMOP//77"] == (None, None)
    assert not [f for f in check(tmp_path / "out").findings if f.check not in {"birth", "splits"}]


def test_csv_in_upper_case_and_parquet_in_lower_case_give_the_same_bytes(tmp_path):
    from_omop(upper_csv(tmp_path / "csv"), tmp_path / "one", OmopConfig())
    from_omop(lower_parquet(tmp_path / "parquet"), tmp_path / "two", OmopConfig())
    files = sorted(
        p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file()
    )
    assert len(files) >= 4
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


FURTHER = {
    "person": ["person_id,gender_concept_id,year_of_birth,race_concept_id,ethnicity_concept_id",
               "1,8532,1970,8527,38003564"],
    "visit_detail": [
        "visit_detail_id,person_id,visit_detail_concept_id,visit_detail_start_date,"
        "visit_detail_start_datetime,visit_detail_end_date,visit_detail_end_datetime,visit_occurrence_id",
        "5,1,32037,2020-01-01,2020-01-01 09:00:00,2020-01-02,2020-01-02 09:00:00,100"],
    "procedure_occurrence": [
        "person_id,procedure_concept_id,procedure_date,procedure_datetime,visit_occurrence_id",
        "1,2106000,2020-01-01,2020-01-01 10:00:00,100"],
    "device_exposure": [
        "person_id,device_concept_id,device_exposure_start_date,visit_occurrence_id",
        "1,2106001,2020-01-02,"],
    "observation": [
        "person_id,observation_concept_id,observation_date,observation_datetime,value_as_number,"
        "value_as_string,value_as_concept_id,unit_concept_id,unit_source_value",
        "1,4005823,2020-01-01,2020-01-01 11:00:00,0,,,8753,",
        "1,4005823,2020-01-01,2020-01-01 12:00:00,,smokes,,,",
        "1,4005823,2020-01-01,2020-01-01 13:00:00,,,45884084,0,"],
    "measurement": [
        "person_id,measurement_concept_id,measurement_date,measurement_datetime,operator_concept_id,"
        "value_as_number,unit_concept_id,unit_source_value",
        "1,3023103,2020-01-01,2020-01-01 14:00:00,4172704,9,0,mmol/l"],
    "concept": ["concept_id,concept_name,vocabulary_id,concept_code"] + [
        f"{i},{name},{vocabulary},{code}" for i, name, vocabulary, code in [
            (8532, "FEMALE", "Gender", "F"), (8527, "White", "Race", "5"),
            (38003564, "Not Hispanic", "Ethnicity", "Not Hispanic"), (32037, "Intensive Care", "Visit", "OMOP4822460"),
            (2106000, "ECG", "CPT4", "93000"), (2106001, "Stent", "HCPCS", "C1874"), (4005823, "Tobacco", "SNOMED", "110483000"),
            (45884084, "Positive", "LOINC", "LA6576-8"), (8753, "millimole per liter", "UCUM", "mmol/L"),
            (3023103, "Potassium", "LOINC", "2823-3")]],
}  # fmt: skip
LATER = {  # columns that 5.4 has in place of, or beside, those of 5.3: none of them makes an event
    "visit_detail": ("parent_visit_detail_id", "admitted_from_concept_id", "discharged_to_concept_id"),
    "procedure_occurrence": ("procedure_end_date", "procedure_end_datetime"),
    "device_exposure": ("production_id", "unit_concept_id", "unit_source_value"),
    "observation": ("value_source_value", "observation_event_id", "obs_event_field_concept_id"),
    "measurement": ("unit_source_concept_id", "measurement_event_id", "meas_event_field_concept_id"),
}  # fmt: skip
EARLIER = {
    "visit_detail": ("visit_detail_parent_id", "admitting_source_concept_id"),
    "measurement": ("measurement_time",),
}


@pytest.mark.parametrize("version", [EARLIER, LATER], ids=["5.3", "5.4"])
def test_the_other_tables_of_both_versions(tmp_path, version, is_valid_meds):
    (tmp_path / "cdm").mkdir()
    for name, (head, *rows) in FURTHER.items():
        more = version.get(name, ())
        lines = [",".join([head, *more]), *(",".join([r, *("" for _ in more)]) for r in rows)]
        (tmp_path / f"cdm/{name}.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "cdm/person.json").write_text("{}")  # not a second table
    from_omop(tmp_path / "cdm", tmp_path / "out", OmopConfig())
    is_valid_meds(tmp_path / "out")
    assert read(tmp_path / "out").rows() == [
        (1, None, "Ethnicity/Not Hispanic", None, None, None, None),
        (1, None, "Gender/F", None, None, None, None),
        (1, None, "Race/5", None, None, None, None),
        (1, at(1, 1, 0, 0, 0, year=1970), "MEDS_BIRTH", None, None, None, None),
        (1, at(1, 1, 9, 0, 0), "VISIT_DETAIL_START//Visit/OMOP4822460", None, None, 100, None),
        (1, at(1, 1, 10, 0, 0), "CPT4/93000", None, None, 100, None),
        (1, at(1, 1, 11, 0, 0), "SNOMED/110483000", 0.0, None, None, "mmol/L"),
        (1, at(1, 1, 12, 0, 0), "SNOMED/110483000", None, "smokes", None, None),
        (1, at(1, 1, 13, 0, 0), "SNOMED/110483000", None, "Positive", None, None),
        (1, at(1, 1, 14, 0, 0), "LOINC/2823-3", 9.0, None, None, "mmol/l"),
        (1, at(1, 2, 9, 0, 0), "VISIT_DETAIL_END//Visit/OMOP4822460", None, None, 100, None),
        (1, at(1, 2), "HCPCS/C1874", None, None, None, None),
    ]


def test_settings_change_what_they_say(tmp_path):
    cdm = lower_parquet(tmp_path / "cdm")
    from_omop(
        cdm,
        tmp_path / "out",
        OmopConfig(
            concept="source", unit="code", midnight="time", days="start", without=("death",)
        ),
    )
    got = read(tmp_path / "out")
    assert "MEDS_DEATH" not in got["code"]
    first = got.filter(pl.col("code") == "ICD10CM/E11.9")
    assert first["time"].to_list() == [at(1, 1, 0, 0, 0), at(1, 2, 0, 0, 0)]
    assert got.filter(pl.col("numeric_value").is_not_null())["code"].to_list() == [
        "LOINC/2823-3//mmol/L"
    ]
    assert codes(tmp_path / "out")["LOINC/2823-3//mmol/L"] == ("Potassium", ["LOINC/2823-3"])


def test_without_concept_the_ids_stay(tmp_path):
    cdm = upper_csv(tmp_path / "cdm")
    (cdm / "CONCEPT.csv").unlink()
    done = from_omop(cdm, tmp_path / "out", OmopConfig())
    got = set(read(tmp_path / "out")["code"])
    assert {"OMOP//201826", "VISIT_START//OMOP//9201", "OMOP//8532", "OMOP_SOURCE//odd"} <= got
    assert any(x.startswith("missing, gone on without: ") and "concept" in x for x in done.lines())
    # 1 visit, 3 conditions, 2 drugs, 3 measurements
    assert "kept as OMOP//<id>: 9 events whose concept CONCEPT lacks" in done.lines()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: (r / "PERSON.csv").write_text("PERSON_ID,YEAR_OF_BIRTH\n1,x\n"), r"PERSON\.csv row 1, column year_of_birth: 'x' is not a whole number"),
        (lambda r: (r / "DEATH.csv").write_text("PERSON_ID,DEATH_DATE\n1,2020-01-01\n1,soon\n"), r"DEATH\.csv row 2, column death_date: 'soon' is not a time"),
        (lambda r: (r / "MEASUREMENT.csv").write_text("PERSON_ID,X\n1,2\n"), r"MEASUREMENT\.csv: column measurement_datetime or measurement_date is missing"),
        (lambda r: (r / "measurement.parquet").write_bytes(b""), r"table measurement is there twice"),
        (lambda r: [p.unlink() for p in r.iterdir()], r"is no OMOP CDM"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_nothing_is_written(tmp_path, change, message):
    cdm = upper_csv(tmp_path / "cdm")
    change(cdm)
    with pytest.raises(UserError, match=message) as caught:
        from_omop(cdm, tmp_path / "out", OmopConfig())
    assert "\n" not in str(caught.value)
    result = CliRunner().invoke(main, ["from", "omop", str(cdm), "--out", str(tmp_path / "out")])
    assert (result.exit_code, len(result.stderr.strip().splitlines())) == (2, 1)
    assert {p.name for p in tmp_path.iterdir()} == {"cdm"}


@pytest.mark.parametrize("text", ["NA", "NULL", "None", r"\N", "NaN", "<NA>", "NaT"])
def test_what_stands_for_no_value_is_none_and_counted(tmp_path, text):
    cdm = tmp_path / "cdm"
    cdm.mkdir()
    (cdm / "person.csv").write_text(
        f"person_id,gender_concept_id,year_of_birth,month_of_birth,birth_datetime\n1,8507,1980,{text},{text}\n"
    )
    (cdm / "condition_occurrence.csv").write_text(
        "person_id,condition_concept_id,condition_start_date,condition_start_datetime,"
        f"condition_source_value,visit_occurrence_id\n1,0,2020-01-01,{text},{text},{text}\n"
    )
    done = from_omop(cdm, tmp_path / "out", OmopConfig())
    rows = pl.concat(pl.read_parquet(p) for p in (tmp_path / "out").glob("data/*/*.parquet"))
    assert rows["code"].to_list() == ["OMOP//8507", "MEDS_BIRTH", "OMOP//0"]
    assert rows["visit_id"].null_count() == 3
    assert done.tallies["condition_occurrence"].missing == {
        (column, text): 1
        for column in ("condition_start_datetime", "condition_source_value", "visit_occurrence_id")
    }
    assert f"1 {text} in birth_datetime, 1 {text} in month_of_birth" in done.lines()[0]
    line = "kept as OMOP//<id>: 1 static events (sex, race, ethnicity) whose concept CONCEPT lacks"
    assert line in done.lines()


def test_no_text_stands_for_no_value_where_none_is_named(tmp_path):
    cdm = tmp_path / "cdm"
    cdm.mkdir()
    (cdm / "condition_occurrence.csv").write_text(
        "person_id,condition_concept_id,condition_start_date,condition_source_value\n1,0,2020-01-01,NA\n"
    )
    from_omop(cdm, tmp_path / "out", OmopConfig(missing=()))
    (path,) = (tmp_path / "out").glob("data/*/*.parquet")
    assert pl.read_parquet(path)["code"].to_list() == ["OMOP_SOURCE//NA"]


def test_a_part_in_two_forms_is_refused(tmp_path):
    folder = tmp_path / "cdm" / "person"
    folder.mkdir(parents=True)
    for name in ("part.0.csv", "part.1.csv", "part.1.parquet"):
        (folder / name).write_text("person_id,year_of_birth\n")
    with pytest.raises(
        UserError, match=r"part\.1\.parquet: this part is there twice, also as .*part\.1\.csv"
    ):
        from_omop(tmp_path / "cdm", tmp_path / "out", OmopConfig())


def test_visits_that_cross_keep_their_ids_and_one_that_ends_before_it_begins_is_counted(tmp_path):
    cdm = tmp_path / "cdm"
    cdm.mkdir()
    head = "visit_occurrence_id,person_id,visit_concept_id,visit_start_date,visit_end_date"
    visits = [
        "7,1,0,2020-01-01,2020-01-05",
        "8,1,0,2020-01-03,2020-01-09",
        "9,1,0,2020-02-09,2020-02-01",
    ]
    (cdm / "visit_occurrence.csv").write_text("\n".join([head, *visits]) + "\n")
    done = from_omop(cdm, tmp_path / "out", OmopConfig())
    (path,) = (tmp_path / "out").glob("data/*/*.parquet")
    found = {
        (code.split("//")[0], visit): time.date().isoformat()
        for time, code, visit in pl.read_parquet(path)
        .select("time", "code", "visit_id")
        .iter_rows()
    }
    assert found["VISIT_END", 7] == "2020-01-05"
    assert found["VISIT_END", 8] == "2020-01-09"
    assert len(found) == 6
    line = "kept as they are: 1 with visit_end_datetime or visit_end_date before the beginning"
    assert line in done.lines()[0]
