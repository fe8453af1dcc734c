# ruff: noqa: DTZ001 -- MEDS times have no zone
"""MIMIC-IV as released to MEDS: a tiny release worked out by hand, and the public demo."""

import csv
import gzip
import io
from datetime import datetime

import polars as pl
import pytest
from click.testing import CliRunner

from ehr_tokenize.cli import main
from ehr_tokenize.meds.check import check
from ehr_tokenize.sources.config import LabsConfig, MimicConfig, WriteConfig
from ehr_tokenize.sources.mimic import from_mimic
from ehr_tracking.errors import UserError

TABLES = {
    "hosp/patients": [
        "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod",
        "1,F,40,2150,2008 - 2010,2151-06-30",
        "2,M,91,2160,2008 - 2010,",
        "3,F,30,2150,2008 - 2010,2150-02-05",
    ],
    "hosp/admissions": [
        "subject_id,hadm_id,admittime,dischtime,deathtime,admission_type,admission_location,"
        "discharge_location,insurance,language,marital_status,race,edregtime,edouttime",
        "1,11,2150-01-01 10:00:00,2150-01-03 12:00:00,,EW EMER.,EMERGENCY ROOM,HOME,Other,,,WHITE,"
        "2150-01-01 08:00:00,2150-01-01 10:00:00",
        "3,31,2150-02-01 10:00:00,2150-02-05 07:30:00,2150-02-05 07:30:00,URGENT,,DIED,,,,,,",
    ],
    "hosp/diagnoses_icd": [
        "subject_id,hadm_id,seq_num,icd_code,icd_version",
        "1,11,1,E1165,10",
        "1,11,2,0030,9",
        "2,99,1,I10,10",
    ],
    "hosp/labevents": [
        "labevent_id,subject_id,hadm_id,itemid,charttime,storetime,value,valuenum,valueuom,priority",
        "1,1,11,50971,2150-01-01 11:00:00,2150-01-01 12:34:00,5.1,5.1,mEq/L,STAT",
        "2,1,,51464,2150-01-01 11:00:00,2150-01-01 12:00:00,NEG,,,",
        "3,1,,50971,2150-01-01 11:00:00,,4.9,4.9,mEq/L,",
    ],
    "hosp/prescriptions": [
        "subject_id,hadm_id,pharmacy_id,starttime,stoptime,drug_type,drug,ndc",
        "1,11,500,2150-01-01 12:00:00,,BASE,Bag,0",
        "1,11,500,2150-01-01 12:00:00,,MAIN,Insulin,00002821501",
        "1,11,501,2150-01-01 12:00:00,2150-01-02 12:00:00,MAIN,Water,0",
    ],
    "hosp/emar": [
        "subject_id,hadm_id,pharmacy_id,charttime,medication,event_txt",
        "1,11,500,2150-01-01 13:00:00,Insulin,Administered",
        "1,11,,2150-01-01 13:00:00,Insulin,",
    ],
    "hosp/omr": [
        "subject_id,chartdate,seq_num,result_name,result_value",
        "1,2150-01-02,1,Blood Pressure,120/80",
        "1,2150-01-02,1,Weight (Lbs),150.5",
    ],
    "hosp/microbiologyevents": [
        "subject_id,hadm_id,chartdate,charttime,spec_itemid,spec_type_desc,storedate,storetime,"
        "test_itemid,test_name,org_itemid,org_name,ab_itemid,ab_name,dilution_text,dilution_value,"
        "interpretation",
        "1,11,2150-01-01 00:00:00,,70012,BLOOD CULTURE,2150-01-03 00:00:00,,90201,Culture,80002,"
        "ESCHERICHIA COLI,90008,CEFAZOLIN,<=4,4,S",
    ],
    "hosp/d_icd_diagnoses": ["icd_code,icd_version,long_title", "E1165,10,Type 2 with hyperglycemia",
                             "E11,10,Type 2 diabetes"],
    "hosp/d_labitems": ["itemid,label,fluid,category", "50971,Potassium,Blood,Chemistry"],
    "icu/inputevents": [
        "subject_id,hadm_id,stay_id,starttime,endtime,itemid,amount,amountuom,rate,rateuom,patientweight",
        "1,11,7,2150-01-01 14:00:00,2150-01-01 15:00:00,225158,50,ml,50,mL/hour,80",
    ],
}  # fmt: skip


@pytest.fixture
def release(tmp_path):
    root = tmp_path / "mimic"
    for name, lines in TABLES.items():
        path = root / f"{name}.csv.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))
    return root


def rewrite(release, name, lines):
    (release / f"{name}.csv.gz").write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))


def read(out):
    frames = [pl.read_parquet(p) for p in sorted(out.glob("data/*/*.parquet"))]
    return pl.concat(frames).sort("subject_id", maintain_order=True)


def at(month, day, hour=0, minute=0, second=0, year=2150):
    return datetime(year, month, day, hour, minute, second)


def test_every_row_is_as_worked_out_by_hand(release, tmp_path, is_valid_meds):
    done = from_mimic(release, tmp_path / "out", MimicConfig())
    is_valid_meds(tmp_path / "out")
    got = read(tmp_path / "out").rows()
    day = at(1, 2, 23, 59, 59)
    culture = at(1, 3, 23, 59, 59)
    assert got == [
        (1, None, "GENDER//F", None, None, None, None, None),
        (1, at(1, 1, year=2110), "MEDS_BIRTH", None, None, None, None, None),
        (1, at(1, 1, 8), "ED_REGISTRATION", None, None, None, None, None),
        (1, at(1, 1, 10), "HOSPITAL_ADMISSION//EW EMER.//EMERGENCY ROOM", None, None, 11, None, None),
        (1, at(1, 1, 10), "INSURANCE//Other", None, None, 11, None, None),
        (1, at(1, 1, 10), "RACE//WHITE", None, None, 11, None, None),
        (1, at(1, 1, 10), "ED_OUT", None, None, None, None, None),
        (1, at(1, 1, 11), "LAB//SPECIMEN_COLLECTED//50971//STAT", None, None, 11, None, None),
        (1, at(1, 1, 11), "LAB//SPECIMEN_COLLECTED//50971//UNK", None, None, None, None, None),
        (1, at(1, 1, 11), "LAB//SPECIMEN_COLLECTED//51464//UNK", None, None, None, None, None),
        (1, at(1, 1, 12), "LAB//RESULT//51464//UNK", None, "NEG", None, None, None),
        (1, at(1, 1, 12), "MEDICATION//START//Bag//UNK", None, None, 11, None, None),
        (1, at(1, 1, 12), "MEDICATION//START//Insulin//00002821501", None, None, 11, None, None),
        (1, at(1, 1, 12), "MEDICATION//START//Water//UNK", None, None, 11, None, None),
        (1, at(1, 1, 12, 34), "LAB//RESULT//50971//mEq/L", pytest.approx(5.1), None, 11, None, "mEq/L"),
        (1, at(1, 1, 13), "MEDICATION//Insulin//Administered//00002821501", None, None, 11, None, None),
        (1, at(1, 1, 13), "MEDICATION//Insulin//UNK//UNK", None, None, 11, None, None),
        (1, at(1, 1, 14), "INFUSION_START//225158", 50.0, None, 11, 7, "mL/hour"),
        (1, at(1, 1, 14), "SUBJECT_WEIGHT_AT_INFUSION//KG", 80.0, None, 11, 7, None),
        (1, at(1, 1, 15), "INFUSION_END//225158", 50.0, None, 11, 7, "ml"),
        (1, at(1, 1, 23, 59, 59), "MICROBIOLOGY//SPECIMEN_COLLECTED//90201//70012", None, None, 11, None, None),
        (1, at(1, 2, 12), "MEDICATION//STOP//Water//UNK", None, None, 11, None, None),
        (1, day, "Blood Pressure", None, "120/80", None, None, None),
        (1, day, "Weight (Lbs)", 150.5, None, None, None, None),
        (1, at(1, 3, 12), "DIAGNOSIS//ICD//10//E1165", None, None, 11, None, None),
        (1, at(1, 3, 12), "DIAGNOSIS//ICD//9//0030", None, None, 11, None, None),
        (1, at(1, 3, 12), "HOSPITAL_DISCHARGE//HOME", None, None, 11, None, None),
        (1, culture, "MICROBIOLOGY//RESULT//90201//80002", None, "ESCHERICHIA COLI", 11, None, None),
        (1, culture, "MICROBIOLOGY//SUSCEPTIBILITY//80002//90008//S", 4.0, None, 11, None, None),
        (1, at(6, 30, 23, 59, 59, year=2151), "MEDS_DEATH", None, None, None, None, None),
        (2, None, "GENDER//M", None, None, None, None, None),
        (2, at(1, 1, year=2069), "MEDS_BIRTH", None, None, None, None, None),
        (3, None, "GENDER//F", None, None, None, None, None),
        (3, at(1, 1, year=2120), "MEDS_BIRTH", None, None, None, None, None),
        (3, at(2, 1, 10), "HOSPITAL_ADMISSION//URGENT//UNK", None, None, 31, None, None),
        (3, at(2, 5, 7, 30), "HOSPITAL_DISCHARGE//DIED", None, None, 31, None, None),
        (3, at(2, 5, 7, 30), "MEDS_DEATH", None, None, None, None, None),
    ]  # fmt: skip
    lines = done.lines()
    assert "hosp/labevents: 3 rows, 5 events; left out: 1 without storetime" in lines
    assert "hosp/diagnoses_icd: 3 rows, 2 events; left out: 1 without discharge" in lines
    missing = next(x for x in lines if x.startswith("missing, gone on without: "))
    assert "hosp/pharmacy" in missing
    assert "icu/chartevents" in missing
    codes = {r[0]: r[1:] for r in pl.read_parquet(tmp_path / "out/metadata/codes.parquet").rows()}
    assert codes["DIAGNOSIS//ICD//10//E1165"] == ("Type 2 with hyperglycemia", ["ICD10CM/E11.65"])
    assert codes["ICD10CM/E11.65"] == ("Type 2 with hyperglycemia", ["ICD10CM/E11.6"])
    assert codes["ICD10CM/E11.6"] == (None, ["ICD10CM/E11"])
    assert codes["ICD10CM/E11"] == ("Type 2 diabetes", None)
    assert codes["DIAGNOSIS//ICD//9//0030"] == (None, ["ICD9CM/003.0"])
    assert codes["LAB//RESULT//50971//mEq/L"] == ("Potassium, Blood", None)
    assert codes["MEDICATION//START//Insulin//00002821501"] == (None, ["NDC/00002821501"])
    assert codes["MICROBIOLOGY//RESULT//90201//80002"][0] == "Culture: ESCHERICHIA COLI"


FURTHER = {
    "hosp/patients": ["subject_id,gender,anchor_age,anchor_year,dod", "1,F,40,2150,"],
    "hosp/admissions": [
        TABLES["hosp/admissions"][0],
        "1,11,2150-01-01 10:00:00,2150-01-03 12:00:00,,URGENT,,,,,,,,"],
    "hosp/transfers": [
        "subject_id,hadm_id,transfer_id,eventtype,careunit,intime,outtime",
        "1,11,1,admit,Medicine,2150-01-01 10:01:00,2150-01-03 12:00:00",
        "1,11,2,discharge,,2150-01-03 12:00:00,"],
    "hosp/services": ["subject_id,hadm_id,transfertime,prev_service,curr_service",
                      "1,11,2150-01-01 10:02:00,,MED"],
    "hosp/drgcodes": ["subject_id,hadm_id,drg_type,drg_code,description,drg_severity,drg_mortality",
                      "1,11,HCFA,003,ECMO OR TRACH,,"],
    "hosp/procedures_icd": ["subject_id,hadm_id,seq_num,chartdate,icd_code,icd_version",
                            "1,11,1,2150-01-01,0039,9"],
    "hosp/hcpcsevents": ["subject_id,hadm_id,chartdate,hcpcs_cd,seq_num,short_description",
                         "1,11,2150-01-01,G0378,1,Observation"],
    "hosp/pharmacy": ["subject_id,hadm_id,pharmacy_id,starttime,stoptime,medication",
                      "1,11,500,2150-01-01 11:00:00,2150-01-01 11:30:00,Insulin"],
    "hosp/prescriptions": [
        TABLES["hosp/prescriptions"][0],
        "1,11,500,2150-01-01 12:00:00,,MAIN,Insulin,00002821501"],
    "icu/icustays": ["subject_id,hadm_id,stay_id,first_careunit,last_careunit,intime,outtime,los",
                     "1,11,7,MICU,SICU,2150-01-01 13:00:00,2150-01-02 13:00:00,1.0"],
    "icu/d_items": ["itemid,label,unitname", "220045,Heart Rate,bpm", "225402,EKG,None"],
    "icu/chartevents": [
        "subject_id,hadm_id,stay_id,charttime,storetime,itemid,value,valuenum,valueuom,warning",
        "1,11,7,2150-01-01 14:00:00,2150-01-01 14:30:00,220045,0,0,bpm,0",
        "1,11,7,2150-01-01 15:00:00,2150-01-01 15:30:00,223900,No Response,1,,0",
        "1,11,7,2150-01-01 16:00:00,,224650,Frequent,,,0"],
    "icu/datetimeevents": ["subject_id,hadm_id,stay_id,charttime,itemid,value",
                           "1,11,7,2150-01-01 17:00:00,224288,2149-12-30 00:00:00"],
    "icu/procedureevents": ["subject_id,hadm_id,stay_id,starttime,endtime,itemid",
                            "1,11,7,2150-01-01 18:00:00,2150-01-01 18:01:00,225402"],
    "icu/outputevents": ["subject_id,hadm_id,stay_id,charttime,itemid,value,valueuom",
                         "1,11,7,2150-01-01 19:00:00,226559,0,ml"],
}  # fmt: skip


def test_the_other_tables_too_chartevents_among_them(tmp_path, is_valid_meds):
    """Uncompressed, as some unpack the release; chartevents is in no public demo."""
    for name, lines in FURTHER.items():
        path = tmp_path / f"mimic/{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
    done = from_mimic(tmp_path / "mimic", tmp_path / "out", MimicConfig())
    is_valid_meds(tmp_path / "out")
    got = read(tmp_path / "out").drop("subject_id", "hadm_id").rows()
    day = at(1, 1, 23, 59, 59)
    assert got == [
        (None, "GENDER//F", None, None, None, None),
        (at(1, 1, year=2110), "MEDS_BIRTH", None, None, None, None),
        (at(1, 1, 10), "HOSPITAL_ADMISSION//URGENT//UNK", None, None, None, None),
        (at(1, 1, 10, 1), "TRANSFER_TO//admit//Medicine", None, None, None, None),
        (at(1, 1, 10, 2), "SERVICE//MED", None, None, None, None),
        (at(1, 1, 11), "MEDICATION//START//Insulin//00002821501", None, None, None, None),
        (at(1, 1, 11, 30), "MEDICATION//STOP//Insulin//00002821501", None, None, None, None),
        (at(1, 1, 13), "ICU_ADMISSION//MICU", None, None, 7, None),
        (at(1, 1, 14), "LAB//220045//bpm", 0.0, None, 7, "bpm"),
        (at(1, 1, 15), "LAB//223900//UNK", 1.0, None, 7, None),
        (at(1, 1, 16), "LAB//224650//UNK", None, "Frequent", 7, None),
        (at(1, 1, 17), "DATETIME//224288", None, "2149-12-30 00:00:00", 7, None),
        (at(1, 1, 18), "PROCEDURE//START//225402", None, None, 7, None),
        (at(1, 1, 18, 1), "PROCEDURE//END//225402", None, None, 7, None),
        (at(1, 1, 19), "SUBJECT_FLUID_OUTPUT//226559//ml", 0.0, None, 7, "ml"),
        (day, "HCPCS//G0378", None, None, None, None),
        (at(1, 2, 13), "ICU_DISCHARGE//SICU", None, None, 7, None),
        (at(1, 3, 12), "TRANSFER_TO//discharge//UNK", None, None, None, None),
        (at(1, 3, 12), "DRG//HCFA//003", None, "ECMO OR TRACH", None, None),
        (at(1, 3, 12), "PROCEDURE//ICD//9//0039", None, None, None, None),
        (at(1, 3, 12), "HOSPITAL_DISCHARGE//UNK", None, None, None, None),
    ]  # fmt: skip
    assert done.tallies["icu/chartevents"].events == 3
    codes = {r[0]: r[1:] for r in pl.read_parquet(tmp_path / "out/metadata/codes.parquet").rows()}
    assert codes["LAB//220045//bpm"] == ("Heart Rate", None)
    assert codes["PROCEDURE//START//225402"] == ("EKG", None)
    assert codes["DRG//HCFA//003"] == ("ECMO OR TRACH", ["MS-DRG/003"])
    assert codes["PROCEDURE//ICD//9//0039"] == (None, ["ICD9Proc/00.39"])


def test_results_at_draw_time_only_where_asked_for(release, tmp_path):
    from_mimic(
        release, tmp_path / "out", MimicConfig(labs=LabsConfig(time="draw", specimens=False))
    )
    got = read(tmp_path / "out").filter(pl.col("code").str.starts_with("LAB"))
    assert got["time"].unique().to_list() == [at(1, 1, 11)]
    assert sorted(got["code"]) == ["LAB//RESULT//50971//mEq/L"] * 2 + ["LAB//RESULT//51464//UNK"]


def test_a_wrong_cell_is_named_by_file_row_column_and_value(release, tmp_path):
    lines = TABLES["hosp/labevents"]
    rewrite(release, "hosp/labevents", [*lines, lines[1].replace("5.1,5.1", "high,high")])
    out = tmp_path / "out"
    result = CliRunner().invoke(main, ["from", "mimic", str(release), "--out", str(out)])
    assert result.exit_code == 2
    assert result.stderr.endswith(
        "labevents.csv.gz row 4, column valuenum: 'high' is not a number\n"
    )
    assert not out.exists()
    assert not list(tmp_path.glob(".out*"))


def test_a_missing_column_and_a_directory_that_is_no_release_are_named(release, tmp_path):
    rewrite(release, "hosp/emar", ["subject_id,hadm_id"])
    with pytest.raises(UserError, match=r"emar\.csv\.gz: column medication is missing"):
        from_mimic(release, tmp_path / "out", MimicConfig())
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is no MIMIC-IV: no hosp/patients"):
        from_mimic(tmp_path / "empty", tmp_path / "out", MimicConfig())
    with pytest.raises(UserError, match="without: icu/chartevent is none of"):
        from_mimic(release, tmp_path / "out", MimicConfig(without=("icu/chartevent",)))


def test_the_order_of_rows_in_a_table_does_not_show(release, tmp_path):
    from_mimic(release, tmp_path / "one", MimicConfig())
    for name, lines in TABLES.items():
        if name != "hosp/prescriptions":
            rewrite(release, name, [lines[0], *reversed(lines[1:])])
    from_mimic(release, tmp_path / "two", MimicConfig())
    files = sorted(
        p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file()
    )
    assert files
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.fixture(scope="module")
def demo(mimic_raw, tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "meds"
    return mimic_raw, out, from_mimic(mimic_raw, out, MimicConfig())


def raw_rows(raw, name):
    with gzip.open(raw / f"{name}.csv.gz", "rt", encoding="utf-8") as f:
        return list(csv.DictReader(io.StringIO(f.read())))


def test_demo_is_whole_and_valid(demo, is_valid_meds):
    raw, out, done = demo
    is_valid_meds(out)
    report = check(out)
    assert not report.refused
    assert report.subjects == done.written.subjects == 100
    assert "missing, gone on without: icu/chartevents" in done.lines()
    for table, tally in done.tallies.items():
        assert tally.rows == len(raw_rows(raw, table)), table
    once = {"hosp/transfers", "hosp/services", "hosp/diagnoses_icd", "hosp/procedures_icd", "hosp/drgcodes",
            "hosp/hcpcsevents", "hosp/emar", "hosp/omr", "icu/datetimeevents", "icu/outputevents"}  # fmt: skip
    for table in once:
        assert done.tallies[table].events == done.tallies[table].rows, table
    assert done.written.events + done.written.duplicates == sum(
        t.events for t in done.tallies.values()
    )
    labs = raw_rows(raw, "hosp/labevents")
    assert done.tallies["hosp/labevents"].dropped == {
        "storetime": sum(not r["storetime"] for r in labs)
    }


FAMILIES = ["MEDS_BIRTH", "MEDS_DEATH", "GENDER", "ED_REGISTRATION", "ED_OUT", "HOSPITAL_ADMISSION",
            "HOSPITAL_DISCHARGE", "INSURANCE", "MARITAL_STATUS", "RACE", "TRANSFER_TO", "DIAGNOSIS", "DRG",
            "ICU_ADMISSION", "ICU_DISCHARGE", "LAB//RESULT", "PROCEDURE//ICD", "SUBJECT_FLUID_OUTPUT",
            "Blood Pressure", "Weight (Lbs)", "BMI (kg/m2)", "Height (Inches)", "HCPCS", "INFUSION_START",
            "INFUSION_END", "PROCEDURE//START", "PROCEDURE//END"]  # fmt: skip


def family(frame, prefix):
    return frame.filter((pl.col("code") == prefix) | pl.col("code").str.starts_with(f"{prefix}//"))


def test_demo_agrees_with_another_extraction(demo, mimic_demo):
    """MIMIC_IV_MEDS also keeps equal events once; it stamps dates at the start of their day."""
    number = pl.col("code").str.extract(r"^DRG//\w+//(\d+)$").str.zfill(3)
    mended = (  # it reads DRG codes as integers, and takes a blank for a unit
        pl.col("code").str.replace(r"^LAB//RESULT//(\d+)// $", "LAB//RESULT//${1}//UNK"),
        pl.col("code").str.extract(r"^(DRG//\w+//)\d+$") + number,
    )
    ours = read(demo[1])
    theirs = pl.concat(
        (pl.read_parquet(p) for p in sorted(mimic_demo.glob("data/*/*.parquet"))),
        how="diagonal_relaxed",
    ).with_columns(code=pl.coalesce(mended[1], mended[0]))
    key = ["subject_id", pl.col("time").dt.date(), "code"]
    differing = {}
    for prefix in FAMILIES:
        a, b = (family(f, prefix).select(key).unique() for f in (ours, theirs))
        if prefix == "HCPCS":
            a, b = a.drop("code").unique(), b.drop("code").unique()
        if not a.sort(a.columns).equals(b.sort(b.columns)):
            differing[prefix] = (len(a), len(b))
    assert differing == {}
    result = (
        family(f, "LAB//RESULT").select("subject_id", "time", "code", "numeric_value")
        for f in (ours, theirs)
    )
    a, b = (f.unique().sort(f.columns) for f in result)
    assert a.equals(b)
    for prefix in ("HOSPITAL_ADMISSION", "HOSPITAL_DISCHARGE", "MEDS_DEATH", "ICU_ADMISSION"):
        assert len(family(ours, prefix)) == len(family(theirs, prefix))


def test_demo_keeps_leading_zeros_and_result_times(demo):
    raw, out, _ = demo
    ours = read(out)
    ndc = (
        ours.filter(pl.col("code").str.starts_with("MEDICATION"))["code"]
        .str.extract(r"//(\d+)$")
        .drop_nulls()
    )
    assert set(ndc.str.len_chars().unique()) == {11}
    assert ndc.str.starts_with("0").any()
    assert set(ndc.unique()) <= {r["ndc"] for r in raw_rows(raw, "hosp/prescriptions")}
    row = next(
        r
        for r in raw_rows(raw, "hosp/labevents")
        if r["storetime"] > r["charttime"] and r["valuenum"]
    )
    found = ours.filter(
        (pl.col("subject_id") == int(row["subject_id"]))
        & pl.col("code").str.starts_with(f"LAB//RESULT//{row['itemid']}//")
        & (pl.col("time") == datetime.fromisoformat(row["storetime"]))
    )
    assert pytest.approx(float(row["valuenum"]), rel=1e-6) in found["numeric_value"].to_list()


def test_demo_small_shards_hold_the_same_events(demo, tmp_path):
    raw, out, _ = demo
    config = MimicConfig(write=WriteConfig(events_per_shard=20_000))
    from_mimic(raw, tmp_path / "small", config)
    assert len(list((tmp_path / "small").glob("data/train/*.parquet"))) > 5
    assert read(tmp_path / "small").equals(read(out))


def test_codes_as_mimic_iv_meds_has_them_are_all_of_its_own(mimic_raw, mimic_demo, tmp_path):
    """In shares by family: of its codes, ours has all; ours has none more where it has the family."""
    config = MimicConfig(codes="mimic_iv_meds", without=("hosp/services", "icu/datetimeevents"))
    from_mimic(mimic_raw, tmp_path / "out", config)
    codes = {}
    for name, root in (("ours", tmp_path / "out"), ("theirs", mimic_demo)):
        for path in root.glob("data/*/*.parquet"):
            for code in pl.read_parquet(path, columns=["code"])["code"].unique():
                codes.setdefault(code.split("//")[0], {}).setdefault(name, set()).add(code)
    del codes["MICROBIOLOGY"]  # which the other does not read
    share = {
        family: len(c.get("ours", set()) & c.get("theirs", set())) / len(set().union(*c.values()))
        for family, c in codes.items()
    }
    assert len(share) > 30
    assert {f: s for f, s in share.items() if s < 1} == {}


def test_codes_of_the_other_kind_keep_their_parents(release, tmp_path):
    from_mimic(
        release, tmp_path / "out", MimicConfig(codes="mimic_iv_meds", without=("hosp/hcpcsevents",))
    )
    codes = pl.read_parquet(tmp_path / "out/metadata/codes.parquet")
    row = codes.row(
        by_predicate=pl.col("code") == "MEDICATION//START//Insulin//2821501", named=True
    )
    assert row["parent_codes"] == ["NDC/00002821501"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_in_two_forms_is_refused(release, tmp_path, suffix):
    (release / f"hosp/omr{suffix}").write_bytes(b"subject_id\n")
    with pytest.raises(UserError, match=r"omr.*: table omr is there twice, also as .*omr\.csv"):
        from_mimic(release, tmp_path / "out", MimicConfig())
    assert not (tmp_path / "out").exists()
