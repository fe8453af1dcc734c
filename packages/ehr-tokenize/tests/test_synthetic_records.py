"""What a synthetic record holds: real codes, comorbidity, demographics, measurements and their lack."""

import csv
import gzip
import io

import numpy as np
import polars as pl
import pytest

from ehr_tokenize.synthetic import codes
from ehr_tokenize.synthetic.block import LAST_DAY, draw_block
from ehr_tokenize.synthetic.conditions import CONDITIONS, LABS, RACES
from ehr_tokenize.synthetic.config import SynthConfig
from ehr_tokenize.synthetic.disease import sample_latent
from ehr_tokenize.synthetic.records import CODE_ID
from ehr_tokenize.synthetic.rows import DAY

NAMES = [c.name for c in CONDITIONS]
# in ICD-10-CM since October 2020 or 2021: newer than the release of MIMIC-IV
NEWER = {"F32.A", "M54.50", "N18.30", "R05.9", "R51.9"}


def dictionary(raw, name):
    text = gzip.decompress((raw / f"hosp/{name}.csv.gz").read_bytes()).decode()
    return list(csv.DictReader(io.StringIO(text)))


def test_diagnoses_have_the_titles_of_the_official_list(mimic_raw):
    rows = dictionary(mimic_raw, "d_icd_diagnoses")
    titles = {r["icd_code"]: r["long_title"] for r in rows if r["icd_version"] == "10"}
    assert len(titles) > 90_000
    ours = {c: t for c, t in codes.ICD10CM.items() if c not in NEWER}
    assert ours == {c: titles[c.replace(".", "")] for c in ours}


def test_measurements_and_procedures_are_in_real_data(mimic_raw, mimic_demo):
    listed = pl.read_parquet(mimic_demo / "metadata/codes.parquet")
    rows = listed.select("parent_codes", "description").drop_nulls().iter_rows()
    names = {parent: text for parents, text in rows for parent in parents}
    known = {c: t for c, t in codes.LOINC.items() if f"LOINC/{c}" in names}
    assert len(known) >= 10
    assert known == {c: names[f"LOINC/{c}"] for c in known}
    cpt = {r["code"] for r in dictionary(mimic_raw, "d_hcpcs")}
    assert codes.CPT.keys() <= cpt


@pytest.mark.parametrize(("name", "n_causes"), [("kidney_disease", 2), ("heart_failure", 3)])
def test_a_condition_comes_at_the_stated_rate_once_its_causes_are_there(name, n_causes):
    """Onsets minus the integral of their hazard up to them: mean 0, variance the integral."""
    size, last, step = 4000, 80.0, 0.1
    rng = np.random.default_rng(3)
    latent = sample_latent(rng, np.zeros(size, bool), SynthConfig(frailty_onset=0))
    condition = CONDITIONS[NAMES.index(name)]
    assert len(condition.causes) == n_causes
    onset = latent.onset[:, NAMES.index(name)]
    age = np.arange(step / 2, last, step)
    present = {x: latent.onset[:, NAMES.index(x)][:, None] <= age[None] for x in condition.causes}
    base = condition.hazard * condition.shape / 60 * (age / 60) ** (condition.shape - 1)
    log_ratio = sum(present[x] * ratio for x, ratio in condition.causes.items())
    hazard = base * np.exp(log_ratio) * (age[None] < onset[:, None]) * step
    ill = np.any(list(present.values()), axis=0)
    for part in (ill, ~ill):  # with a cause, and without any
        cell = np.clip((onset / step).astype(int), 0, len(age) - 1)
        came = ((onset < last) & part[np.arange(size), cell]).sum()
        expected = (hazard * part).sum()
        assert expected > 25
        assert abs(came - expected) < 4 * np.sqrt(expected)


@pytest.fixture(scope="module")
def block():
    return draw_block(SynthConfig(num_patients=1500, seed=6), 0)


def test_demographics_have_the_stated_shares(block):
    n = len(block.male)
    text = np.array(list(CODE_ID))[block.rows.code]
    sd = 4 * np.sqrt(0.25 / n)
    assert abs((text == "GENDER//M").sum() / n - 0.5) < sd
    assert ((text == "GENDER//M") | (text == "GENDER//F")).sum() == n
    for race, share in RACES.items():
        assert abs((text == f"RACE//{race}").sum() / n - share) < sd
    first = np.full(n, np.iinfo(np.int64).max)
    seen = block.rows.minute > block.birth[block.rows.subject]
    np.minimum.at(first, block.rows.subject[seen], block.rows.minute[seen])
    age = ((first - block.birth) / (365.25 * DAY))[first < LAST_DAY]
    assert age.min() >= 18
    assert abs(np.median(age) - 53) < 3  # entry at 52 ± 17, the first visit some months later


def at_visits(block):
    """Outpatient visits: subject, and which codes of a measurement each has."""
    rows, names = block.rows, np.array(list(CODE_ID))
    text = names[rows.code]
    opens = np.flatnonzero(text == codes.VISIT_START)
    closes = np.flatnonzero(text == codes.VISIT_END)
    return rows.subject[opens], [set(text[a:b]) for a, b in zip(opens, closes, strict=True)]


def test_a_measurement_is_missing_as_often_as_stated(block):
    """Leukocytes depend on no condition, so nothing makes them likelier than `clinic`."""
    _, found = at_visits(block)
    lab = next(x for x in LABS if x.loinc == "6690-2")
    assert lab.loads == {}
    code = f"LAB//LOINC//{lab.loinc}//{lab.unit}"
    assert code in CODE_ID
    share = np.mean([code in x for x in found])
    assert abs(share - lab.clinic) < 4 * np.sqrt(lab.clinic * (1 - lab.clinic) / len(found))


def test_a_measurement_is_ordered_more_often_once_its_condition_is_known(block):
    subject, found = at_visits(block)
    code = "LAB//LOINC//4548-4//%"
    diabetic = {codes.diagnosis(x) for x in CONDITIONS[NAMES.index("diabetes")].stages}
    known = set()
    shares = {True: [], False: []}
    for who, held in zip(subject, found, strict=True):
        shares[who in known].append(code in held)
        if held & diabetic:
            known.add(who)
    assert len(shares[True]) > 300
    assert np.mean(shares[True]) > 3 * np.mean(shares[False]) > 0


def test_values_follow_the_latent_state(block):
    """Haemoglobin A1c rises with the severity of diabetes, by the stated load."""
    rows, i = block.rows, NAMES.index("diabetes")
    at = np.flatnonzero(rows.code == CODE_ID["LAB//LOINC//4548-4//%"])
    age = (rows.minute[at] - block.birth[rows.subject[at]]) / (365.25 * DAY)
    years = np.maximum(age - block.latent.onset[rows.subject[at], i], 0)
    severity = -np.expm1(-block.latent.rate[rows.subject[at], i] * years)
    assert (severity > 0).sum() > 200
    slope, level = np.polyfit(severity, rows.value[at], 1)
    lab = next(x for x in LABS if x.loinc == "4548-4")
    assert level == pytest.approx(lab.mean, abs=0.1)
    assert slope == pytest.approx(lab.loads["diabetes"], abs=0.4)
    spread = np.std(rows.value[at] - level - slope * severity)
    assert spread == pytest.approx(np.hypot(lab.between, lab.within), rel=0.15)
