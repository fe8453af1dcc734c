"""Predictions of other systems become ours: their columns found, their outcomes those of the labels."""

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from meds_evaluation.schema import PredictionSchema

from ehr_eval.cli import main
from ehr_eval.predictions import Draw, read_predictions
from ehr_tracking.contracts import PREDICTIONS
from ehr_tracking.manifest import load_manifest, verify

ROWS = [(1, 0, True), (1, 5, False), (4, 2, False), (9, 2, True)]
"""Subject, day, outcome; 9 alone is not held out."""
THEIRS = """patient;when;risk of death
1;01.01.2020;25
4;03.01.2020;50
1;06.01.2020;12,5
"""


@pytest.fixture
def wire(tmp_path, toys):
    toys.labels(tmp_path / "labels", {"died": [(s, toys.day(d), v) for s, d, v in ROWS]})
    (tmp_path / "meds" / "metadata").mkdir(parents=True)
    pl.DataFrame(
        {"subject_id": [1, 4, 9], "split": ["held_out", "held_out", "train"]}
    ).write_parquet(tmp_path / "meds" / "metadata" / "subject_splits.parquet")
    return tmp_path


def adopt(wire, *words, code=0):
    start = ["--labels", wire / "labels", "--out", wire / "out"]
    done = CliRunner().invoke(main, ["adopt", *map(str, [*words, *start])])
    assert done.exit_code == code, done.output
    return done.output if code == 0 else done.stderr


def written(wire):
    assert verify(wire / "out") == []
    assert load_manifest(wire / "out").contract == PREDICTIONS.tag
    table = pq.read_table(wire / "out" / "died" / "held_out.parquet")
    PredictionSchema.validate(table)
    return table.to_pydict()


def test_a_csv_file_with_any_columns_is_read_and_judged_like_ours(wire, toys):
    (wire / "theirs.csv").write_text(THEIRS.replace(",", "."))
    said = adopt(wire, wire / "theirs.csv", "--meds", wire / "meds", "-s", "subject=patient", "-s", "time=when",
                 "-s", "probability=risk of death", "-s", "scale=percent", "-s", "separator=;",
                 "-s", 'time_format="%d.%m.%Y"')  # fmt: skip
    assert "3 of 3 held-out labels of died are predicted" in said
    found = written(wire)
    assert found["predicted_boolean_probability"] == [0.25, 0.125, 0.5]
    assert found["boolean_value"] == [True, False, False]
    held_out = pl.DataFrame(
        [(s, toys.day(d), v) for s, d, v in ROWS[:3]],
        {"subject_id": pl.Int64, "prediction_time": pl.Datetime("us"), "boolean_value": pl.Boolean},
        orient="row",
    )
    [(draw, predicted)] = read_predictions(wire / "out", {"died": held_out})["died"].items()
    assert draw == Draw(-1, 0)
    assert predicted.probability.tolist() == [0.25, 0.125, 0.5]


def test_a_table_of_all_splits_with_logits_a_task_column_and_decisions(wire, toys):
    logits = [0.0, 2.0, -1.0, 5.0]
    pl.DataFrame(
        {"subject_id": [s for s, _, _ in ROWS], "prediction_time": [toys.day(d) for _, d, _ in ROWS],
         "z": logits, "called": [1, 1, 0, 1], "outcome": ["died"] * 4}
    ).write_parquet(wire / "theirs.parquet")  # fmt: skip
    said = adopt(wire, wire / "theirs.parquet", "--meds", wire / "meds", "-s", "probability=z", "-s", "scale=logit",
                 "-s", "decided=called", "-s", "task=outcome")  # fmt: skip
    assert "1 rows of other splits left out" in said
    found = written(wire)
    np.testing.assert_allclose(
        found["predicted_boolean_probability"], 1 / (1 + np.exp(-np.array(logits[:3])))
    )
    assert found["predicted_boolean_value"] == [True, True, False]


def test_tuning_rows_are_taken_where_all_are_predicted_and_judge_recalibrates_by_them(
    tmp_path, toys
):
    """Outcomes a third as likely as they say: both ways learn it of the tuning rows."""
    rng = np.random.default_rng(0)
    split = {s: ("train", "tuning", "held_out", "held_out")[s % 4] for s in range(400)}
    said = {s: float(p) for s, p in zip(split, rng.random(400).round(3), strict=True)}
    toys.labels(
        tmp_path / "labels",
        {"died": [(s, toys.day(0), bool(rng.random() < said[s] / 3)) for s in split]},
    )
    events = {"subject_id": [*split], "time": [toys.day(0)] * 400, "code": ["A"] * 400}
    for folder, name, table in (
        ("data", "0", events),
        ("metadata", "subject_splits", {"subject_id": [*split], "split": [*split.values()]}),
    ):
        (tmp_path / "meds" / folder).mkdir(parents=True)
        pl.DataFrame(table).write_parquet(tmp_path / "meds" / folder / f"{name}.parquet")
    lines = [f"{s},2020-01-01,{p}" for s, p in said.items() if split[s] != "train"]
    for name, kept in (("whole", lines), ("less", lines[1:])):  # the first is a tuning row
        (tmp_path / f"{name}.csv").write_text("\n".join([GOOD.splitlines()[0], *kept]))
        words = [
            "adopt",
            tmp_path / f"{name}.csv",
            "--labels",
            tmp_path / "labels",
            "--meds",
            tmp_path / "meds",
        ]
        done = CliRunner().invoke(main, [*map(str, words), f"--out={tmp_path / name}"])
        assert done.exit_code == 0, done.output
        told = (
            "and its 100 tuning labels" if name == "whole" else "99 rows of other splits left out"
        )
        assert told in done.output
        assert verify(tmp_path / name) == []
        assert (tmp_path / name / "tuning").exists() == (name == "whole")
    words = [f"--{n}={tmp_path / n}" for n in ("labels", "meds", "out")]
    done = CliRunner().invoke(
        main, ["judge", *words, f"--predictions=t={tmp_path / 'whole'}", "-s", "bootstraps=0"]
    )
    assert done.exit_code == 0, done.output
    found = pl.read_parquet(tmp_path / "out" / "results.parquet").filter(
        pl.col("group").is_null(), metric="brier"
    )
    brier = dict(found.select("recalibration", "value").iter_rows())
    assert brier.keys() == {"none", "platt", "isotonic"}
    assert max(brier["platt"], brier["isotonic"]) < brier["none"] - 0.05


GOOD = "subject_id,prediction_time,predicted_boolean_probability\n1,2020-01-01,0.5\n"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (GOOD.replace("0.5", "1.5"), [], "theirs.csv row 0: predicted_boolean_probability = 1.5, which is no prob"),
        (GOOD.replace("0.5", "?"), [], "predicted_boolean_probability = '?' (expected a number)"),
        (GOOD.replace("0.5", ""), [], "predicted_boolean_probability = None (expected a number)"),
        (GOOD.replace("1,2020", "x,2020"), [], "subject_id = 'x' (expected a whole number)"),
        (GOOD.replace("2020-01-01", "soon"), [], "prediction_time = 'soon' (expected a date or time)"),
        (GOOD, ["-s", "probability=p"], "has no column p; it has subject_id, prediction_time, predicted_boolean_"),
        (GOOD + "1,2020-01-01 00:00:00,0.5\n", [], "subject 1 at 2020-01-01 00:00:00 is predicted twice of task died"),
        (GOOD + "7,2020-01-01,0.5\n", [], "has no label of task died of subject 7 at 2020-01-01 00:00:00"),
        (GOOD, ["--task", "left"], "of which task is it? The labels have died"),
        (GOOD.splitlines()[0], [], "no label of task died is predicted"),
        (None, [], "theirs.csv"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(wire, text, options, message):
    if text is not None:
        (wire / "theirs.csv").write_text(text)
    said = adopt(wire, wire / "theirs.csv", *options, code=2)
    assert message in said
    assert len(said.splitlines()) == 1
    assert not (wire / "out").exists()
