import hashlib
import json
from pathlib import Path

import meds
import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from ehr_tokenize.cli import main
from ehr_tokenize.synthetic import codes
from ehr_tokenize.synthetic.block import draw_block
from ehr_tokenize.synthetic.cohort import synthesize
from ehr_tokenize.synthetic.conditions import CAUSES, COMPLAINTS, CONDITIONS, LABS
from ehr_tokenize.synthetic.config import SynthConfig
from ehr_tokenize.synthetic.course import DAYS, simulate
from ehr_tokenize.synthetic.disease import sample_latent
from ehr_tokenize.synthetic.records import CODE_ID, VOCABULARY
from ehr_tracking.errors import UserError

SIZE = 400
NOTHING_TO_LEARN = {
    "frailty_onset": 0,
    "frailty_events": 0,
    "burden_outpatient": 0,
    "burden_admission": 0,
    "burden_death": 0,
    "burden_acute": 0,
    "readmission": 0,
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    out = tmp_path_factory.mktemp("synth") / "meds"
    synthesize(out, SynthConfig(num_patients=SIZE, seed=3))
    return out


def tables(cohort):
    return {p.parent.name: pq.read_table(p) for p in sorted((cohort / "data").rglob("*.parquet"))}


def digest(directory):
    files = sorted(p for p in directory.rglob("*") if p.is_file())
    return {
        str(p.relative_to(directory)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
    }


def test_meds_itself_accepts_every_file(cohort) -> None:
    for table in tables(cohort).values():
        meds.DataSchema.validate(table)
    meds.SubjectSplitSchema.validate(pq.read_table(cohort / meds.subject_splits_filepath))
    meds.CodeMetadataSchema.validate(pq.read_table(cohort / meds.code_metadata_filepath))
    about = json.loads((cohort / meds.dataset_metadata_filepath).read_text())
    meds.DatasetMetadataSchema.validate(about)
    assert about["meds_version"].startswith("0.4")


def test_subjects_are_contiguous_sorted_and_in_the_file_of_their_split(cohort) -> None:
    splits = pq.read_table(cohort / meds.subject_splits_filepath).to_pydict()
    split_of = dict(zip(splits["subject_id"], splits["split"], strict=True))
    seen = []
    for split, table in tables(cohort).items():
        subject = table["subject_id"].to_numpy()
        time = table["time"].to_numpy().astype("datetime64[us]")
        first = np.flatnonzero(np.diff(subject, prepend=-1))
        seen += subject[first].tolist()
        assert {split_of[s] for s in subject[first].tolist()} == {split}
        same = subject[1:] == subject[:-1]
        static = np.isnat(time)
        assert not (same & ~static[:-1] & static[1:]).any()
        assert (time[1:] >= time[:-1])[same & ~static[:-1]].all()
    assert sorted(seen) == list(range(1, SIZE + 1))  # each once: contiguous, in one file


def test_every_code_and_every_parent_is_described(cohort) -> None:
    listed = pq.read_table(cohort / meds.code_metadata_filepath).to_pydict()
    names = listed["code"]
    assert len(names) == len(set(names))
    assert all(listed["description"])
    assert {p for parents in listed["parent_codes"] for p in parents} <= set(names)
    for table in tables(cohort).values():
        assert set(table["code"].to_pylist()) <= set(names)


def test_the_tables_name_only_codes_that_have_a_title() -> None:
    icd = {s for c in CONDITIONS for s in c.stages} | {c.code for c in CAUSES} | set(COMPLAINTS)
    assert icd <= set(codes.ICD10CM)
    assert {d for c in CONDITIONS for d in c.drugs} <= set(codes.ATC)
    assert {x.loinc for x in LABS} == set(codes.LOINC)
    names = [c.name for c in CONDITIONS]
    for i, condition in enumerate(CONDITIONS):  # a cause comes before what it causes
        assert {names.index(x) for x in condition.causes} <= set(range(i))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(cohort, tmp_path) -> None:
    synthesize(tmp_path / "again", SynthConfig(num_patients=SIZE, seed=3))
    synthesize(tmp_path / "other", SynthConfig(num_patients=SIZE, seed=4))
    assert digest(tmp_path / "again") == digest(cohort)
    assert digest(tmp_path / "other") != digest(cohort)


def test_blocks_are_independent_streams() -> None:
    config = SynthConfig(num_patients=4096, seed=0)
    first, second = draw_block(config, 0).rows, draw_block(config, 1).rows
    assert not np.array_equal(first.minute[:500], second.minute[:500])


def test_visits_open_and_close_in_turn_and_nothing_follows_death() -> None:
    rows = draw_block(SynthConfig(num_patients=SIZE, seed=1), 0).rows
    text = np.array(VOCABULARY)[rows.code]
    opens = np.char.startswith(text, "VISIT_START") | np.char.startswith(text, "HOSPITAL_ADMISSION")
    closes = np.char.startswith(text, "VISIT_END") | np.char.startswith(text, "HOSPITAL_DISCHARGE")
    depth = np.cumsum(opens.astype(int) - closes)
    assert set(depth.tolist()) == {0, 1}
    assert (np.bincount(rows.subject, opens) == np.bincount(rows.subject, closes)).all()
    last = np.append(rows.subject[1:] != rows.subject[:-1], True)
    assert (text == codes.DEATH).sum() > 10
    assert last[text == codes.DEATH].all()
    died = np.flatnonzero(text == codes.DIED)
    assert (text[died + 1] == codes.DEATH).all()
    assert (rows.minute[died + 1] == rows.minute[died]).all()
    inside = ~opens & ~closes & (depth == 0)
    outside = {x.split("//")[0] for x in np.unique(text[inside])}
    assert outside == {"GENDER", "RACE", "MEDS_BIRTH", "MEDS_DEATH"}


def test_a_drug_of_one_condition_follows_its_first_diagnosis() -> None:
    rows = draw_block(SynthConfig(num_patients=SIZE, seed=1), 0).rows
    for name, drug in (("diabetes", "A10BA02"), ("depression", "N06AB06"), ("copd", "R03AC02")):
        condition = next(c for c in CONDITIONS if c.name == name)
        coded = np.isin(rows.code, [CODE_ID[codes.diagnosis(x)] for x in condition.stages])
        given = rows.code == CODE_ID[codes.medication(drug)]
        first = np.full(SIZE, np.iinfo(np.int64).max)
        np.minimum.at(first, rows.subject[coded], rows.minute[coded])
        assert given.sum() > 20
        assert (rows.minute[given] >= first[rows.subject[given]]).all()


def test_onset_has_the_stated_distribution() -> None:
    male = np.zeros(20_000, bool)
    latent = sample_latent(np.random.default_rng(0), male, SynthConfig(frailty_onset=0))
    condition = CONDITIONS[0]  # it has no causes
    for age in (40.0, 60.0, 75.0):
        expected = 1 - np.exp(-condition.hazard * (age / 60) ** condition.shape)
        found = (latent.onset[:, 0] <= age).mean()
        assert abs(found - expected) < 4 * np.sqrt(expected * (1 - expected) / len(male))


def course(size=3000, **settings):
    config = SynthConfig(**settings)
    rng = np.random.default_rng(5)
    latent = sample_latent(rng, rng.random(size) < 0.5, config)
    entry = rng.uniform(40, 80, size)
    return config, latent, entry, entry + 5, simulate(rng, latent, entry, entry + 5, config)


def at_risk(entry, end, done):
    """Midpoints of 2-day steps outside stays: subject, age, days since the last stay, its row."""
    e = done.encounters
    out = np.where(np.isnan(done.death), end, done.death)
    stays = np.flatnonzero(e.stay)
    step = 2 / DAYS
    parts = []
    for i in range(len(entry)):
        grid = np.arange(entry[i] + step / 2, out[i], step)
        mine = stays[e.subject[stays] == i]
        begin, finish = e.age[mine], e.age[mine] + e.days[mine] / DAYS
        last = np.searchsorted(begin, grid) - 1
        free = (last < 0) | (grid > finish[last] if len(mine) else False)
        grid, last = grid[free], last[free]
        since = np.where(last >= 0, grid - (finish[last] if len(mine) else 0), np.inf) * DAYS
        acute = np.where(last >= 0, e.acute[mine][last] if len(mine) else 0, -np.inf)
        parts.append((np.full(len(grid), i), grid, since, acute))
    return [np.concatenate(x) for x in zip(*parts, strict=True)], step


def test_admissions_and_deaths_come_at_the_stated_rates() -> None:
    # the number of events minus the integral of their stated rate has mean 0 and variance the integral
    config, latent, entry, end, done = course(1200)
    (subject, age, since, acute), step = at_risk(entry, end, done)
    years = np.maximum(age[:, None] - latent.onset[subject], 0)
    weights = np.array([c.burden for c in CONDITIONS])
    burden = (1 - np.exp(-latent.rate[subject] * years)) @ weights
    after = np.exp(-since / config.readmission_days) / (1 + np.exp(-1.5 * (acute - 0.5)))
    admission = 0.10 * np.exp(0.65 * burden + 0.3 * latent.frailty[subject] + 3.0 * after)
    death = 0.005 * np.exp(0.05 * (age - 60) + 0.9 * burden + 1.5 * after)
    e = done.encounters
    outside = np.isin(np.arange(len(entry)), e.subject[e.died], invert=True)
    for rate, count in (
        (admission, e.stay.sum()),
        (death, (outside & ~np.isnan(done.death)).sum()),
    ):
        expected = rate.sum() * step
        assert count > 50
        assert abs(count - expected) < 4 * np.sqrt(expected) + 0.02 * expected  # 2%: the grid


def test_deaths_depend_on_age_burden_and_the_last_stay_as_stated() -> None:
    # the same with weights: each part of the rate is told from a wrong one by what it multiplies
    config, latent, entry, end, done = course(8000, death_rate=0.05, admission_rate=0.5)
    (subject, age, since, acute), step = at_risk(entry, end, done)
    years = np.maximum(age[:, None] - latent.onset[subject], 0)
    burden = (1 - np.exp(-latent.rate[subject] * years)) @ np.array([c.burden for c in CONDITIONS])
    after = np.exp(-since / config.readmission_days) / (1 + np.exp(-1.5 * (acute - 0.5)))
    rate = 0.05 * np.exp(0.05 * (age - 60) + 0.9 * burden + 1.5 * after) * step
    outside = np.isin(
        np.arange(len(entry)), done.encounters.subject[done.encounters.died], invert=True
    )
    died = np.flatnonzero(outside & ~np.isnan(done.death))
    last = np.searchsorted(subject, died, side="right") - 1  # at risk until the death
    assert len(died) > 2000
    for weight in (np.ones(len(age)), (age - 60) / 10, burden, after):
        difference = weight[last].sum() - (weight * rate).sum()
        grid = 0.01 * np.abs(weight * rate).sum()
        assert abs(difference) < 4 * np.sqrt((weight**2 * rate).sum()) + grid


def test_men_have_conditions_at_the_stated_ratio() -> None:
    condition = next(c for c in CONDITIONS if c.male and not c.causes)
    config = SynthConfig(frailty_onset=0)
    for male in (True, False):
        latent = sample_latent(np.random.default_rng(0), np.full(20_000, male), config)
        found = (latent.onset[:, CONDITIONS.index(condition)] <= 60).mean()
        expected = -np.expm1(-condition.hazard * np.exp(condition.male * male))
        assert abs(found - expected) < 4 * np.sqrt(expected * (1 - expected) / 20_000)


def test_frailty_brings_conditions_earlier_as_stated() -> None:
    male = np.zeros(20_000, bool)
    latent = sample_latent(np.random.default_rng(0), male, SynthConfig())
    condition = CONDITIONS[0]  # it has no causes
    chance = -np.expm1(-condition.hazard * np.exp(0.4 * latent.frailty))
    for some in (latent.frailty < -0.5, latent.frailty > 0.5):
        n, expected = some.sum(), chance[some].mean()
        found = (latent.onset[some, 0] <= 60).mean()
        assert abs(found - expected) < 4 * np.sqrt(expected * (1 - expected) / n)


def admissions_by_burden(**settings):
    _, latent, entry, end, done = course(**settings)
    everyone = np.arange(len(entry))
    burden = latent.burden(everyone, entry)
    count = np.bincount(done.encounters.subject, done.encounters.stay, minlength=len(entry))
    years = np.where(np.isnan(done.death), end, done.death) - entry
    high = burden > np.quantile(burden, 0.75)
    low = burden < np.quantile(burden, 0.25)
    return (count[high].sum() / years[high].sum()) / (count[low].sum() / years[low].sum())


def test_history_matters_and_with_no_effects_it_does_not() -> None:
    assert admissions_by_burden() > 3
    assert 0.8 < admissions_by_burden(**NOTHING_TO_LEARN) < 1.25


def test_the_state_at_a_stay_predicts_death_within_a_year_but_not_perfectly() -> None:
    _, latent, _, end, done = course(6000)
    e = done.encounters
    rows = np.flatnonzero(e.stay & ~e.died & (e.age + 1.3 < end[e.subject]))
    out = e.age[rows] + e.days[rows] / DAYS
    dies = np.nan_to_num(done.death[e.subject[rows]], nan=np.inf) <= out + 1
    risk = latent.burden(e.subject[rows], out) * 0.9 + 0.05 * out
    rank = np.argsort(np.argsort(risk)) + 1.0
    n, p = len(rows), dies.sum()
    auroc = (rank[dies].sum() - p * (p + 1) / 2) / (p * (n - p))
    assert p > 100
    assert 0.7 < auroc < 0.95


def test_noise_spreads_laboratory_values_about_the_latent_level() -> None:
    potassium = CODE_ID["LAB//LOINC//2823-3//mmol/L"]
    spread = {}
    for noise in (0.0, 3.0):
        rows = draw_block(SynthConfig(num_patients=SIZE, seed=2, noise=noise), 0).rows
        values = rows.value[rows.code == potassium]
        assert np.isfinite(values).all()
        spread[noise] = values.std()
    assert spread[3.0] > 1.5 * spread[0.0] > 0


def test_an_existing_output_is_replaced_only_when_asked_and_only_if_it_is_ours(tmp_path) -> None:
    config = SynthConfig(num_patients=5)
    out = tmp_path / "meds"
    synthesize(out, config)
    before = digest(out)
    with pytest.raises(UserError, match="--overwrite"):
        synthesize(out, SynthConfig(num_patients=6))
    assert digest(out) == before
    assert synthesize(out, SynthConfig(num_patients=6), overwrite=True).subjects == 6
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="not a data set that we wrote"):
        synthesize(tmp_path / "mine", config, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["meds", "mine"]


def test_the_command_writes_what_it_says(tmp_path: Path) -> None:
    out = tmp_path / "meds"
    arguments = ["synth", "--num-patients", "7", "--seed", "1", "--out", str(out)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "7 subjects" in result.output
    assert pq.read_table(out / meds.subject_splits_filepath).num_rows == 7
    assert CliRunner().invoke(main, arguments).exit_code == 2
    wrong = CliRunner().invoke(main, [*arguments, "-s", "burden=1"])
    assert wrong.exit_code == 2
    assert "unknown key burden" in wrong.output


def test_novel_codes_are_not_counted_among_those_with_descriptions(tmp_path: Path) -> None:
    out = tmp_path / "meds"
    words = ["synth", "--num-patients", "7", "--novel-prob", "0.5", "--out", str(out)]
    said = CliRunner().invoke(main, words).output
    rows = pq.read_table(out / meds.code_metadata_filepath)["description"]
    novel = rows.null_count
    assert novel > 0
    assert f"{len(rows) - novel:,} codes with descriptions, {novel:,} novel ones" in said
