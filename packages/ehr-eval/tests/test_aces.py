"""ACES tasks of simulated futures, labelled by ACES itself, beside shares counted by hand."""

from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from ehr_eval.cli import main
from ehr_tracking.contracts import TRAJECTORIES
from ehr_tracking.manifest import new_artifact, seal, verify

pytest.importorskip("aces")
FIRST = datetime(2020, 1, 1)  # noqa: DTZ001 -- MEDS times have no zone
TASK = """
predicates:
  out: {code: OUT}
  "in": {code: IN}
trigger: out
windows:
  input: {start: null, end: trigger, start_inclusive: true, end_inclusive: true, index_timestamp: end}
  target: {start: input.end, end: start + 30d, start_inclusive: false, end_inclusive: true, label: "in"}
"""


def at(day):
    return FIRST + timedelta(days=day)


def trajectories(out, futures):
    """(subject, day) -> a list of futures, each a list of (day, code)."""
    events = [
        (s, at(d), n, at(day), code, None)
        for (s, d), mine in futures.items()
        for n, future in enumerate(mine)
        for day, code in future
    ]
    ends = [
        (s, at(d), n, "horizon", 5, at(d + 60))
        for (s, d), mine in futures.items()
        for n in range(len(mine))
    ]
    key = {"subject_id": pl.Int64, "prediction_time": pl.Datetime("us"), "sample": pl.Int64}
    event = {"time": pl.Datetime("us"), "code": pl.String, "numeric_value": pl.Float32}
    end = {"reason": pl.String, "tokens": pl.Int64, "until": pl.Datetime("us")}
    with new_artifact(out, TRAJECTORIES) as partial:
        for name, rows, more in (("events", events, event), ("futures", ends, end)):
            (partial / name).mkdir()
            frame = pl.DataFrame(rows, {**key, **more}, orient="row")
            frame.write_parquet(partial / name / "00000.parquet")
        seal(partial, TRAJECTORIES, producer="test 0", config={})
    return out


def test_a_risk_is_the_share_of_futures_that_aces_labels_positive(tmp_path):
    story = [(1, 0, "IN"), (1, 5, "OUT"), (1, 6, "IN"), (2, 0, "IN"), (2, 4, "OUT")]
    story += [(3, 0, "IN"), (3, 2, "OUT")]
    rows = [(s, at(d), c, None) for s, d, c in story]
    schema = {"subject_id": pl.Int64, "time": pl.Datetime("us"), "code": pl.String}
    (tmp_path / "meds/data").mkdir(parents=True)
    pl.DataFrame(rows, {**schema, "numeric_value": pl.Float32}, orient="row").write_parquet(
        tmp_path / "meds/data/0.parquet"
    )
    (tmp_path / "meds/metadata").mkdir()
    pl.DataFrame(
        {"subject_id": [1, 2, 3], "split": ["held_out", "held_out", "tuning"]}
    ).write_parquet(tmp_path / "meds/metadata/subject_splits.parquet")
    (tmp_path / "labels/readmission").mkdir(parents=True)
    pl.DataFrame(
        {
            "subject_id": [1, 2, 3],
            "prediction_time": [at(5), at(4), at(2)],
            "boolean_value": [True, False, False],
        }
    ).write_parquet(tmp_path / "labels/readmission/labels.parquet")
    futures = {
        (1, 5): [[(9, "IN")], [(7, "X")], [(35, "IN")], [(36, "IN")]],  # until day 35
        (2, 4): [[], [(5, "OUT")], [(3000, "IN")], [(40, "IN")]],
    }
    trajectories(tmp_path / "futures", futures)
    (tmp_path / "task.yaml").write_text(TASK)
    given = {"trajectories": "futures", "meds": "meds", "labels": "labels", "task": "task.yaml"}
    line = ["aces", *(f"--{k}={tmp_path / v}" for k, v in given.items())]
    done = CliRunner().invoke(main, [*line, f"--out={tmp_path / 'out'}"])
    assert done.exit_code == 0, done.output
    assert verify(tmp_path / "out") == []
    found = pl.read_parquet(tmp_path / "out/readmission/held_out.parquet")
    assert found["predicted_boolean_probability"].to_list() == [0.5, 0.0]
    assert found["boolean_value"].to_list() == [True, False]
    assert found["tokens"].to_list() == [20, 20]
    assert not (tmp_path / "out/tuning").exists()
    trajectories(tmp_path / "more", {**futures, (3, 2): [[(4, "IN")], []]})
    line[1] = f"--trajectories={tmp_path / 'more'}"
    done = CliRunner().invoke(main, [*line, f"--out={tmp_path / 'beside'}"])
    assert done.exit_code == 0, done.output
    assert pl.read_parquet(tmp_path / "beside/readmission/held_out.parquet").equals(found)
    tuning = pl.read_parquet(tmp_path / "beside/tuning/readmission/tuning.parquet")
    assert tuning["predicted_boolean_probability"].to_list() == [0.5]
    (tmp_path / "task.yaml").write_text("predicates: {}")
    done = CliRunner().invoke(main, [*line, f"--out={tmp_path / 'other'}"])
    assert done.exit_code == 2
    assert "task.yaml is no ACES task" in done.output


OURS = """
name: ours
doc: The same.
start: {code: ^OUT$}
outcome: [{code: ^IN$}]
horizon_days: 30
censored: negative
"""
PREDICATES = """
predicates:
  out: {code: {regex: ^OUT}}
  "in": {code: {any: [IN, ARRIVES]}}
"""


@pytest.fixture(scope="module")
def meds(tmp_path_factory):
    """Subjects who come and go at random; some in a second file, where a code is another."""
    folder, rng = tmp_path_factory.mktemp("aces") / "meds", np.random.default_rng(3)
    (folder / "data").mkdir(parents=True)
    for file, code in enumerate(("IN", "ARRIVES")):
        rows = []
        for subject in range(40):
            day = 0.0
            for _ in range(rng.integers(1, 6)):
                rows.append((100 * file + subject, at(day), code, None))
                rows.append((100 * file + subject, at(day + 2), "OUT", None))
                day += float(rng.choice([2, 20, 31.5, 32, 80]))
        schema = {"subject_id": pl.Int64, "time": pl.Datetime("us"), "code": pl.String}
        frame = pl.DataFrame(rows, {**schema, "numeric_value": pl.Float32}, orient="row")
        frame.unique().sort("subject_id", "time").write_parquet(folder / f"data/{file}.parquet")
    return folder


def labels(meds, out, *words, code=0):
    line = ["labels", "--meds", meds, "--out", out, *words]
    done = CliRunner().invoke(main, [str(word) for word in line])
    assert done.exit_code == code, done.output
    return done.output


def read(path):
    return pl.read_parquet(path / "labels.parquet").sort("subject_id", "prediction_time")


def test_labels_of_an_aces_file_are_those_of_our_own_file_of_the_same_task(tmp_path, meds):
    (tmp_path / "again.yaml").write_text(TASK)
    (tmp_path / "ours.yaml").write_text(OURS)
    out = tmp_path / "labels"
    said = labels(
        meds, out, "--aces", tmp_path / "again.yaml", "--task-file", tmp_path / "ours.yaml"
    )
    theirs, ours = read(out / "again"), read(out / "ours")
    assert theirs.equals(ours)
    assert 0 < ours["boolean_value"].sum() < ours.height
    assert verify(out) == []
    assert "again" in said
    (tmp_path / "predicates.yaml").write_text(PREDICATES)
    (tmp_path / "bare.yaml").write_text(TASK.partition("trigger")[1] + TASK.partition("trigger")[2])
    words = ("--aces", tmp_path / "bare.yaml", "--predicates", tmp_path / "predicates.yaml")
    labels(meds, tmp_path / "wide", *words)
    wide = read(tmp_path / "wide/bare").filter(pl.col("subject_id") >= 100)
    assert wide["boolean_value"].any()  # who arrives by the other code


def test_one_of_several_codes_may_be_missing(tmp_path, meds):
    either = TASK.replace(
        '"in": {code: IN}',
        'come: {code: IN}\n  moved: {code: NEVER}\n  "in": {expr: "or(come, moved)"}',
    )
    (tmp_path / "either.yaml").write_text(either)
    (tmp_path / "plain.yaml").write_text(TASK)
    words = ("--aces", tmp_path / "either.yaml", "--aces", tmp_path / "plain.yaml")
    labels(meds, tmp_path / "labels", *words)
    assert read(tmp_path / "labels/either").equals(read(tmp_path / "labels/plain"))


def test_an_unknown_predicate_is_one_line_and_other_tasks_go_on(tmp_path, meds):
    (tmp_path / "good.yaml").write_text(TASK)
    (tmp_path / "unknown.yaml").write_text(TASK.replace('label: "in"', "label: dies"))
    (tmp_path / "absent.yaml").write_text(TASK.replace("code: IN", "code: NEVER"))
    words = [
        word for n in ("good", "unknown", "absent") for word in ("--aces", tmp_path / f"{n}.yaml")
    ]
    said = labels(meds, tmp_path / "labels", *words).splitlines()
    skipped = [line for line in said if line.startswith("skipped ")]
    assert [line.split(":")[0] for line in skipped] == ["skipped unknown", "skipped absent"]
    assert "dies" in skipped[0]
    assert "no code of the data set is predicate in" in skipped[1]
    assert read(tmp_path / "labels/good").height > 0
    said = labels(meds, tmp_path / "none", *words[2:], code=2)
    assert said.startswith("Error: no task can be labelled: unknown: ")
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "none").exists()
    assert "give --aces FILE" in labels(meds, tmp_path / "none", "--predicates", "x", code=2)
