"""The world in which order and timing alone carry the risk: its events, labels and risks."""

import hashlib
import math
from datetime import timedelta
from itertools import pairwise

import meds
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from sklearn.metrics import roc_auc_score

from ehr_tokenize.cli import main
from ehr_tokenize.meds.check import check
from ehr_tokenize.synthetic.sequence.block import BLOCK, NAMES, draw_block
from ehr_tokenize.synthetic.sequence.config import SequenceConfig
from ehr_tokenize.synthetic.sequence.world import synthesize

SIZE = 500
FUROSEMIDE, METOPROLOL, AMIODARONE = (
    f"MEDICATION//ATC//{x}" for x in ("C03CA01", "C07AB02", "C01BD01")
)
MORPHINE, CEFTRIAXONE = "MEDICATION//ATC//N02AA01", "MEDICATION//ATC//J01DD04"
HYPERGLYCEMIA, PNEUMONIA = "DIAGNOSIS//ICD10CM//E11.65", "DIAGNOSIS//ICD10CM//J18.9"
HEMOGLOBIN = "LAB//LOINC//718-7//g/dL"
OUTCOMES = {
    "order_30d": ("DIAGNOSIS//ICD10CM//I48.0", 30),
    "recency_7d": ("DIAGNOSIS//ICD10CM//J96.01", 7),
    "interval_60d": ("DIAGNOSIS//ICD10CM//N17.9", 60),
    "trend_30d": ("DIAGNOSIS//ICD10CM//K92.2", 30),
    "response_14d": ("DIAGNOSIS//ICD10CM//A41.9", 14),
    "mortality_90d": ("MEDS_DEATH", 90),
}
OTHER = {
    "order_effect": 1.0,
    "recency_effect": 3.0,
    "recency_hours": 9.0,
    "interval_effect": 5.0,
    "interval_days": 20.0,
    "trend_effect": -1.0,
    "trend_rate": 0.7,
    "response_effect": 2.0,
    "response_hours": 1.5,
    "mixed_effect": 2.0,
}
"""Every setting that a risk depends on, each other than its default."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("sequence") / "meds"
    synthesize(out, SequenceConfig(num_patients=SIZE, seed=3), risks=True)
    return out


def events(out):
    """subject_id -> its events (time, code, value), dated ones alone, as they are in the files."""
    table = pl.concat([pl.read_parquet(p) for p in sorted((out / "data").rglob("*.parquet"))])
    found = {}
    for subject, *event in table.drop_nulls("time").iter_rows():
        found.setdefault(subject, []).append(tuple(event))
    return found


def rows_of(out, task):
    return pl.read_parquet(out / "risks" / f"{task}.parquet")


def logistic(x):
    return 1 / (1 + math.exp(-x))


def expected_risks(past, config):
    """The risks as docs/synthetic.md states them, from the events up to the prediction time."""
    now = past[-1][0]
    last = {code: time for time, code, _ in past}
    hours = lambda since: (now - since) / timedelta(hours=1)  # noqa: E731
    pairs = sum(
        last[one] < last[two]
        for one, two in (
            (FUROSEMIDE, METOPROLOL), (METOPROLOL, AMIODARONE), (FUROSEMIDE, AMIODARONE),
        )
    )  # fmt: skip
    fresh = math.exp(-hours(last[MORPHINE]) / config.recency_hours)
    recent = math.exp(-hours(last[HYPERGLYCEMIA]) / 24 / config.interval_days)
    measured = [(-hours(time), value) for time, code, value in past if code == HEMOGLOBIN]
    slope = np.polyfit(*zip(*measured[-3:], strict=True), 1)[0]
    falling = math.tanh(-slope / config.trend_rate)
    limit = last[PNEUMONIA] + timedelta(hours=config.response_hours)
    treated = any(c == CEFTRIAXONE and last[PNEUMONIA] < t <= limit for t, c, _ in past)
    return {
        "order_30d": logistic(-6.4 + config.order_effect * pairs),
        "recency_7d": logistic(-6.0 + config.recency_effect * fresh),
        "interval_60d": logistic(-6.0 + config.interval_effect * recent),
        "trend_30d": logistic(-2.4 + config.trend_effect * falling),
        "response_14d": logistic(-4.0 + config.response_effect * (not treated)),
        "mortality_90d": logistic(
            -5.6 + config.mixed_effect * ((not treated) * (1 + falling) / 2 + pairs / 3 * fresh)
        ),
    }


def discharges(record):
    return [i for i, (_, code, _) in enumerate(record) if code.startswith("HOSPITAL_DISCHARGE")]


def assert_risks_follow_from_the_past(out, config):
    risk = {task: {row[:2]: row[3:] for row in rows_of(out, task).iter_rows()} for task in OUTCOMES}
    count = 0
    for subject, record in events(out).items():
        for i in discharges(record):
            count += 1
            key = (subject, record[i][0])
            for task, expected in expected_risks(record[: i + 1], config).items():
                assert risk[task][key] == pytest.approx((expected, expected), abs=1e-9)
    assert {len(of_task) for of_task in risk.values()} == {count}
    return count


def test_risks_are_the_stated_functions_of_the_written_past_alone(world) -> None:
    assert assert_risks_follow_from_the_past(world, SequenceConfig()) > 3 * SIZE


def test_every_setting_of_a_risk_acts_as_stated(tmp_path) -> None:
    config = SequenceConfig(num_patients=60, stays=(1, 3), **OTHER)
    synthesize(tmp_path / "meds", config, risks=True)
    assert_risks_follow_from_the_past(tmp_path / "meds", config)


def test_labels_follow_from_events_and_every_window_is_whole(world) -> None:
    for task, (code, days) in OUTCOMES.items():
        expected = {}
        for subject, record in events(world).items():
            last, dead = record[-1][0], record[-1][1] == meds.death_code
            for i in discharges(record):
                now = record[i][0]
                until = now + timedelta(days=days)
                came = any(c == code and now < t <= until for t, c, _ in record)
                assert came or dead or last >= until
                expected[subject, now] = came
        found = {row[:2]: row[2] for row in rows_of(world, task).iter_rows()}
        assert found == expected
        labels = pq.read_table(world / "labels" / task / "labels.parquet")
        meds.LabelSchema.validate(labels)
        kept = rows_of(world, task).select("subject_id", "prediction_time", "boolean_value")
        assert pl.from_arrow(labels).select(kept.columns).equals(kept)


def test_outcomes_are_as_frequent_as_true_risks_say() -> None:
    block = draw_block(SequenceConfig(num_patients=BLOCK, seed=8), 0)
    for task, risk in block.risk.items():
        label = block.label[task]
        assert 0.02 < label.mean() < 0.3
        assert 0.8 < roc_auc_score(label, risk) < 0.9
        fifths = np.searchsorted(np.quantile(risk, [0.2, 0.4, 0.6, 0.8]), risk)
        for fifth in np.unique(fifths):
            mine = risk[fifths == fifth]
            off = label[fifths == fifth].sum() - mine.sum()
            assert abs(off) < 4 * math.sqrt((mine * (1 - mine)).sum())


def test_what_is_there_does_not_tell_without_when() -> None:
    """Numbers of events, and levels whatever their order, are no better than a coin."""
    block = draw_block(SequenceConfig(num_patients=BLOCK, seed=8), 0)
    rows, code = block.rows, np.array(NAMES)[block.rows.code]
    end = np.full(len(rows.code), -1)
    at = np.searchsorted(block.subject * 10**9 + block.end, rows.subject * 10**9 + rows.minute)
    inside = (at < len(block.end)) & (
        block.subject[np.minimum(at, len(block.end) - 1)] == rows.subject
    )
    inside[inside] &= block.end[at[inside]] - rows.minute[inside] < 24 * 60
    end[inside] = at[inside]
    count = {c: np.bincount(end[(code == c) & inside], minlength=len(block.end)) for c in set(code)}
    for once in (FUROSEMIDE, METOPROLOL, AMIODARONE, PNEUMONIA, CEFTRIAXONE):
        assert set(count[once].tolist()) == {1}
    mine = (code == HEMOGLOBIN) & inside
    mean = np.bincount(end[mine], rows.value[mine]) / count[HEMOGLOBIN]
    for task, guess in (
        ("recency_7d", count[MORPHINE]), ("trend_30d", count[HEMOGLOBIN]), ("trend_30d", mean),
    ):  # fmt: skip
        positive = block.label[task].sum()
        assert abs(roc_auc_score(block.label[task], guess) - 0.5) < 4 * 0.29 / math.sqrt(positive)


def test_windows_do_not_overlap_and_visits_open_and_close_in_turn(world) -> None:
    for record in events(world).values():
        ends = [record[i][0] for i in discharges(record)]
        assert all(b - a > timedelta(days=90) for a, b in pairwise(ends))
        depth = 0
        for _, code, _ in record[1:]:
            if code == meds.death_code:
                continue
            step = code.startswith(("VISIT_START", "HOSPITAL_ADMISSION"))
            step -= code.startswith(("VISIT_END", "HOSPITAL_DISCHARGE"))
            assert depth or step == 1
            depth += step
            assert depth in (0, 1)
        assert depth == 0
        times = [time for time, _, _ in record]
        assert times == sorted(times)
        assert meds.death_code not in [code for _, code, _ in record[:-1]]


def test_it_is_meds_and_every_code_is_described(world) -> None:
    report = check(world)
    assert not report.findings
    listed = pl.read_parquet(world / meds.code_metadata_filepath)
    assert not listed["description"].null_count()
    assert {p for parents in listed["parent_codes"] for p in parents} <= set(listed["code"])
    codes = {code for record in events(world).values() for _, code, _ in record}
    assert codes <= set(listed["code"])


def test_with_no_effect_there_is_nothing_to_learn() -> None:
    off = dict.fromkeys([name for name in OTHER if name.endswith("effect")], 0.0)
    block = draw_block(SequenceConfig(num_patients=50, **off), 0)
    assert all(len(set(risk.tolist())) == 1 for risk in block.risk.values())


def digest(out):
    return {
        str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(out.rglob("*"))
        if p.is_file()
    }


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(world, tmp_path) -> None:
    for name, seed in (("again", 3), ("other", 4)):
        synthesize(tmp_path / name, SequenceConfig(num_patients=SIZE, seed=seed), risks=True)
    assert digest(tmp_path / "again") == digest(world)
    assert digest(tmp_path / "other") != digest(world)


@pytest.mark.dist
def test_the_number_of_workers_changes_no_byte(tmp_path) -> None:
    config = SequenceConfig(num_patients=BLOCK + 50, seed=1)
    synthesize(tmp_path / "one", config, risks=True)
    synthesize(tmp_path / "two", config, risks=True, workers=2)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


def test_the_command_makes_either_world_and_refuses_what_one_lacks(tmp_path) -> None:
    out = str(tmp_path / "meds")
    words = ["synth", "--world", "sequence", "--num-patients", "7", "--out", out]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert "7 subjects" in done.output
    assert not (tmp_path / "meds" / "labels").exists()
    for more, message in (
        (["--format", "json"], "--format json is not for --world sequence"),
        (["--novel-prob", "0.1"], "--novel-prob is not for --world sequence"),
        (["-s", "burden_death=1"], "unknown key burden_death"),
        (["-s", "stays=[5,2]"], "the fewest come first"),
        (["-s", "response_hours=9"], "response_hours = 9"),
        ([], "--overwrite"),
    ):
        refused = CliRunner().invoke(main, [*words, *more])
        assert refused.exit_code == 2
        assert message in refused.output
    again = CliRunner().invoke(main, ["synth", "--num-patients", "5", "--overwrite", "--out", out])
    assert again.exit_code == 0, again.output
