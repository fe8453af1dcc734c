"""EHRSHOT's own files: labels, splits and shots, read as they are published."""

import json
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from ehr_eval.cli import main
from ehr_eval.heads.lr import LogisticRegressionConfig
from ehr_eval.protocol.config import EhrshotConfig
from ehr_eval.protocol.ehrshot import run_ehrshot
from ehr_eval.protocol.inputs import open_inputs
from ehr_eval.protocol.shots import draws_of, shots_of
from ehr_eval.protocol.taskrows import Draw
from ehr_eval.tasks.label_tasks import read_tasks
from ehr_tracking.contracts import ContractError

SMALL = EhrshotConfig(
    ks=(2, 4, -1), replicates=2, replicates_all=2, bootstraps=5,
    heads={"lr": LogisticRegressionConfig(c=(1.0,))},
)  # fmt: skip
START = datetime(2020, 1, 1, 23, 59)  # noqa: DTZ001 -- as in the files
SPLIT = ("train", "val", "test")


@pytest.fixture
def assets(tmp_path, toys):
    """`benchmark/` with a task of each kind, `person_id_map.csv`, and features."""
    rng = np.random.default_rng(0)
    rows = [(i, START + timedelta(days=30 * v)) for i in range(1, 61) for v in range(2)]
    values = {
        "guo_los": ("boolean", rng.random(len(rows)) < 0.4),
        "lab_anemia": ("categorical", rng.integers(0, 4, len(rows))),
        "chexpert": ("categorical", rng.integers(0, 1 << 14, len(rows))),
    }
    for task, (kind, value) in values.items():
        folder = tmp_path / "benchmark" / task
        folder.mkdir(parents=True)
        lines = [f"{i},{t.isoformat()},{v},{kind}" for (i, t), v in zip(rows, value, strict=True)]
        text = "\n".join(["patient_id,prediction_time,value,label_type", *lines])
        (folder / "labeled_patients.csv").write_text(text + "\n")
    people = [f"{i},{SPLIT[i % 3]}" for i in range(1, 61)]
    (tmp_path / "person_id_map.csv").write_text("\n".join(["omop_person_id,split", *people]) + "\n")
    meds = dict(zip(SPLIT, ("train", "tuning", "held_out"), strict=True))
    index = [(i, t, meds[SPLIT[i % 3]]) for i, t in rows]
    toys.features(tmp_path / "features", index, rng.normal(size=(len(rows), 3)))
    return tmp_path


def shot_file(folder, task, rows, ks=("2", "-1")):
    """As the benchmark's own script writes it; here of the first and last rows of each class."""
    draws = {}
    for k in ks:
        draws[k] = {}
        for replicate in ("0", "1"):
            one = {}
            for split, name in (("train", "train"), ("tuning", "val")):
                part = rows.filter(split=split).sort("subject_id", "prediction_time")
                if k != "-1":
                    kept = [part.filter(boolean_value=v) for v in (False, True)]
                    cut = slice(None, int(k)) if replicate == "0" else slice(-int(k), None)
                    part = pl.concat([p[cut] for p in kept])
                one[f"patient_ids_{name}_k"] = part["subject_id"].to_list()
                one[f"label_times_{name}_k"] = [t.isoformat() for t in part["prediction_time"]]
                one[f"label_values_{name}_k"] = part["boolean_value"].cast(pl.Int64).to_list()
                one[f"{name}_idxs"] = list(range(part.height))
            draws[k][replicate] = one
    (folder / "all_shots_data.json").write_text(json.dumps({task: draws}))


def labelled(assets, task):
    """Labels with their splits."""
    table = read_tasks(assets / "benchmark").tables[task]
    meds = pl.col("subject_id").mod(3).replace_strict({0: "train", 1: "tuning", 2: "held_out"})
    return table.with_columns(split=meds)


def test_severities_are_yes_from_1_and_an_x_ray_is_14_tasks(assets):
    found = read_tasks(assets / "benchmark").tables
    assert len(found) == 2 + 14
    raw = pl.read_csv(assets / "benchmark/lab_anemia/labeled_patients.csv")
    rows = found["lab_anemia"].sort("subject_id", "prediction_time")
    assert rows["boolean_value"].to_list() == (raw["value"] >= 1).to_list()
    assert rows["prediction_time"][0] == START
    bits = pl.read_csv(assets / "benchmark/chexpert/labeled_patients.csv")["value"]
    written = [f"{number:014b}" for number in bits]
    for name, place in (("no_finding", 0), ("pneumonia", 7), ("support_devices", 13)):
        of = found[f"chexpert_{name}"].sort("subject_id", "prediction_time")["boolean_value"]
        assert of.to_list() == [text[place] == "1" for text in written]


def test_the_meds_release_gives_the_same_tasks(assets, tmp_path):
    for task in ("guo_los", "lab_anemia", "chexpert"):
        raw = pl.read_csv(assets / f"benchmark/{task}/labeled_patients.csv", try_parse_dates=True)
        kind = "boolean_value" if task == "guo_los" else "integer_value"
        out = tmp_path / "meds/labels" / task
        out.mkdir(parents=True)
        raw.select(
            pl.col("patient_id").alias("subject_id"),
            pl.col("prediction_time").cast(pl.Datetime("us")),
            pl.col("value").alias(kind),
        ).write_parquet(out / "labels.parquet")
    ours, theirs = (read_tasks(p).tables for p in (assets / "benchmark", tmp_path / "meds/labels"))
    assert ours.keys() == theirs.keys()
    for task, table in ours.items():
        assert table.equals(theirs[task])


def test_shots_of_a_file_are_used_as_they_stand(assets):
    folder = assets / "benchmark/guo_los"
    rows = labelled(assets, "guo_los")
    shot_file(folder, "guo_los", rows)
    config = replace(SMALL, tasks=("guo_los",))
    found = open_inputs(
        assets / "benchmark", {"m": assets / "features"}, {}, config,
        splits=assets / "person_id_map.csv", shots=assets / "benchmark",
    )  # fmt: skip
    (task,) = found.tasks
    assert draws_of(task, config) == [Draw(2, 0), Draw(2, 1), Draw(-1, 0), Draw(-1, 1)]  # no k = 4
    named = json.loads((folder / "all_shots_data.json").read_text())["guo_los"]["2"]["1"]
    drawn = shots_of(task, Draw(2, 1), config)
    for split, at, name in (("train", drawn.train, "train"), ("tuning", drawn.tuning, "val")):
        assert sorted(task.splits[split].subject_id[at]) == sorted(named[f"patient_ids_{name}_k"])
    order = np.random.RandomState(1).permutation(4)
    expected = np.array(named["patient_ids_train_k"])[order]
    np.testing.assert_array_equal(task.splits["train"].subject_id[drawn.train], expected)


def test_shots_that_were_written_and_are_read_give_the_same_results(assets):
    labels, features = assets / "benchmark", {"m": assets / "features"}
    config = replace(SMALL, tasks=("guo_los", "lab_anemia"))
    drawn = run_ehrshot(labels, features, assets / "a", config, shots=assets / "shots")
    named = run_ehrshot(labels, features, assets / "b", config, shots_from=assets / "shots")
    for name in ("results", "groups"):
        ours, theirs = (pl.read_parquet(p / f"{name}.parquet") for p in (drawn, named))
        assert ours.equals(theirs)


def write_meds(root):
    """Events an hour before each prediction time, and the splits of the map as MEDS names them."""
    times = [START + timedelta(days=30 * v, hours=-1) for v in range(2)]
    rows = [(i, time, "VISIT") for i in range(1, 61) for time in times]
    names = dict(zip(SPLIT, ("train", "tuning", "held_out"), strict=True))
    split = [(i, names[SPLIT[i % 3]]) for i in range(1, 61)]
    for path, table, columns in (
        ("data/0", rows, ("subject_id", "time", "code")),
        ("metadata/subject_splits", split, ("subject_id", "split")),
    ):
        (root / path).parent.mkdir(parents=True)
        pl.DataFrame(table, columns, orient="row").write_parquet(root / f"{path}.parquet")


def test_the_commands_take_ehrshots_folder(assets):
    command = [
        "ehrshot", "--labels", assets / "benchmark", "--splits", assets / "person_id_map.csv",
        "--features", f"m={assets / 'features'}", "--out", assets / "results", "--workers", "1",
        "-s", "ks=[-1]", "-s", "replicates_all=1", "-s", "bootstraps=0", "-s", "heads={p: {kind: prototype}}",
    ]  # fmt: skip
    done = CliRunner().invoke(main, [str(word) for word in command])
    assert done.exit_code == 0, done.output
    groups = pl.read_parquet(assets / "results/groups.parquet")
    sizes = dict(groups.filter(metric="brier").select("group", "tasks").iter_rows())
    assert sizes == {
        "Operational": 1,
        "Labs": 1,
        "Chest X-ray": 14,
        "all tasks": 16,
        "mean of groups": 16,
    }
    write_meds(assets / "meds")
    given = ["--labels", assets / "benchmark", "--meds", assets / "meds"]
    tasks = ["chexpert_pneumonia", "lab_anemia"]
    asked = [
        f"--predictions=r={assets / 'results'}",
        "-s",
        "bootstraps=0",
        "-s",
        f"tasks=[{','.join(tasks)}]",
    ]
    for command, more in (
        ("judge", asked),
        ("strata", asked),
        (
            "audit",
            ["--results", assets / "results", "-s", "checks=[contradictions,times,fitted_on]"],
        ),
    ):
        line = [command, *given, *more, "--out", assets / command]
        done = CliRunner().invoke(main, [str(word) for word in line])
        assert done.exit_code == 0, done.output
    judged = pl.read_parquet(assets / "judge/results.parquet").filter(recalibration="platt")
    assert judged["task"].unique().sort().to_list() == tasks
    assert set(tasks) <= set(pl.read_parquet(assets / "strata/strata.parquet")["task"])


def _unknown_row(assets):
    path = assets / "benchmark/guo_los/all_shots_data.json"
    tree = json.loads(path.read_text())
    tree["guo_los"]["2"]["0"]["patient_ids_train_k"][0] = 999
    path.write_text(json.dumps(tree))


def _other_outcome(assets):
    path = assets / "benchmark/guo_los/all_shots_data.json"
    tree = json.loads(path.read_text())
    values = tree["guo_los"]["2"]["0"]["label_values_val_k"]
    values[0] = 1 - values[0]
    path.write_text(json.dumps(tree))


def _no_split(assets):
    path = assets / "person_id_map.csv"
    path.write_text(path.read_text().replace("5,test\n", "", 1))


def _leak(assets):
    path = assets / "person_id_map.csv"
    path.write_text(path.read_text().replace("3,train\n", "3,test\n", 1))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            _unknown_row,
            "k 2, replicate 0 names 1 rows that are no labels of train, the first subject 999",
        ),
        (_other_outcome, "has another outcome than the labels"),
        (_no_split, "names no split of 1 subjects of task guo_los, the first 5"),
        (_leak, "puts subject 3 in held_out, but"),
    ],
)
def test_what_does_not_fit_is_one_line(assets, spoil, said):
    shot_file(assets / "benchmark/guo_los", "guo_los", labelled(assets, "guo_los"))
    spoil(assets)
    with pytest.raises(ContractError) as e:
        run_ehrshot(
            assets / "benchmark", {"m": assets / "features"}, assets / "r", replace(SMALL, tasks=("guo_los",)),
            splits=assets / "person_id_map.csv", shots_from=assets / "benchmark",
        )  # fmt: skip
    assert said in str(e.value)
    assert len(str(e.value).splitlines()) == 1
    assert not (assets / "r").exists()


def test_values_that_are_none_are_told_by_line(assets):
    path = assets / "benchmark/guo_los/labeled_patients.csv"
    path.write_text(
        path.read_text().replace(",boolean\n", ",boolean\n", 1).replace("True", "maybe", 1)
    )
    found = read_tasks(assets / "benchmark")
    assert "guo_los" not in found.tables
    assert "value = " in found.left_out["guo_los"]
    assert "neither true, false nor a whole number" in found.left_out["guo_los"]
