import json
from datetime import datetime
from pathlib import Path

import meds
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from ehr_eval.cli import main
from ehr_eval.frames import labelled_rows, read_subjects
from ehr_eval.tasks.config import LabelsConfig
from ehr_eval.tasks.label_tasks import read_labels
from ehr_eval.tasks.make import make_labels
from ehr_eval.tasks.registry import TASKS
from ehr_tracking.arrow.labels import read_labels as read_any
from ehr_tracking.arrow.meds import data_files
from ehr_tracking.arrow.splits import splits_by_hash
from ehr_tracking.contracts import SPLITS, ContractError
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import load_manifest, verify


def at(*args):
    return datetime(2020, *args)  # noqa: DTZ001 -- MEDS times have no zone


STORY = (
    (None, "GENDER//F"),
    (at(1, 1), "HOSPITAL_ADMISSION//EMERGENCY"),
    (at(1, 10), "HOSPITAL_DISCHARGE//HOME"),
    (at(3, 1), "HOSPITAL_ADMISSION//EMERGENCY"),
    (at(3, 3), "HOSPITAL_DISCHARGE//HOME"),
    (at(12, 1), "LAST//SEEN"),
)


def write_meds(directory, subjects=(1, 2, 3), files=1, splits=True, story=STORY):
    """Each subject: a stay of 9 days in January, one of 2 days in March, seen again in December."""
    for n in range(files):
        rows = [(s, t, c) for s in subjects[n::files] for t, c in story]
        path = directory / "data" / f"{n}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        schema = pa.schema(
            {"subject_id": pa.int64(), "time": pa.timestamp("us"), "code": pa.string()}
        )
        pq.write_table(
            pa.Table.from_pylist([dict(zip(schema.names, r, strict=True)) for r in rows], schema),
            path,
        )
    (directory / "metadata").mkdir(exist_ok=True)
    if splits:
        names = ["train", "tuning", "held_out"]
        table = {
            "subject_id": list(subjects),
            "split": [names[i % 3] for i in range(len(subjects))],
        }
        pq.write_table(pa.table(table), directory / "metadata" / "subject_splits.parquet")
    return directory


def write_labels(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {"subject_id": [1, 2], "prediction_time": [at(1, 5), at(1, 6)], **columns}
    pl.DataFrame(table).write_parquet(path)


def test_labels_are_a_sealed_artifact_in_the_schema_of_meds(tmp_path) -> None:
    summary = make_labels(write_meds(tmp_path / "meds"), tmp_path / "labels")
    assert summary.skipped.keys() >= {"abnormal_lab_next_visit", "mortality_1y"}
    counts = {
        (r["task"], r["split"]): (r["rows"], r["positives"]) for r in summary.counts.to_dicts()
    }
    assert counts["long_stay", "train"] == (2, 1)
    assert counts["readmission_30d", "held_out"] == (2, 0)
    for path in (tmp_path / "labels").rglob("labels.parquet"):
        meds.LabelSchema.validate(pq.read_table(path))
    about = json.loads((tmp_path / "labels" / "tasks.json").read_text())
    assert about["long_stay"]["splits"]["tuning"] == {"rows": 2, "positives": 1}
    assert about["long_stay"]["left_out"] == {}
    assert verify(tmp_path / "labels") == []
    assert load_manifest(tmp_path / "labels").inputs["meds"].contract == "meds/0.4"


def test_what_is_left_out_is_counted_by_reason_sealed_and_printed(tmp_path) -> None:
    story = [
        *STORY,
        (at(6, 1), "HOSPITAL_ADMISSION//EMERGENCY"),  # over within a day
        (at(6, 1, 9), "HOSPITAL_DISCHARGE//HOME"),
        (at(7, 1), "HOSPITAL_ADMISSION//EMERGENCY"),  # without an end
        (at(11, 29), "HOSPITAL_ADMISSION//EMERGENCY"),
        (at(11, 30), "HOSPITAL_DISCHARGE//HOME"),  # censored
    ]
    data = write_meds(
        tmp_path / "meds", story=sorted(story, key=lambda r: (r[0] is not None, r[0]))
    )
    arguments = ["labels", "--meds", str(data), "--out", str(tmp_path / "labels")]
    result = CliRunner().invoke(main, [*arguments, "-s", "rows_per_subject=2"])
    assert result.exit_code == 0, result.output
    about = json.loads((tmp_path / "labels" / "tasks.json").read_text())
    assert about["long_stay"]["left_out"] == {
        "over by the prediction time": 6,
        "no end is recorded": 3,
    }
    assert about["readmission_30d"]["left_out"] == {
        "censored": 3,
        "no end is recorded": 3,
        "beyond rows_per_subject": 3,
    }
    printed = [" ".join(line.split()) for line in result.output.splitlines()]
    for task, told in about.items():
        assert told["left_out"]
        for reason, rows in told["left_out"].items():
            assert f"{task} {reason} {rows} {rows // 3} {rows // 3} {rows // 3}" in printed


def test_every_stay_is_a_row_or_left_out_for_a_reason(tmp_path) -> None:
    done = make_labels(write_meds(tmp_path / "meds"), tmp_path / "labels")
    for task in ("long_stay", "readmission_30d"):
        found = done.counts.filter(task=task)["rows"].sum()
        left = done.left_out.filter(task=task)["rows"].sum()
        assert found + left == 6  # two stays of three subjects


@pytest.mark.parametrize("kind", [pa.int32(), pa.float64(), pa.large_string()])
def test_ids_of_stays_are_read_whatever_their_type(tmp_path, kind) -> None:
    data = write_meds(tmp_path / "meds")
    path = data / "data" / "0.parquet"
    ids = {at(1, 1): 5, at(3, 1): 6, at(1, 10): 6, at(3, 3): 5}
    column = [ids.get(t.as_py()) for t in pq.read_table(path)["time"]]
    named = pa.array(column, pa.int64()).cast(kind)
    if kind == pa.float64():  # as pandas writes numbers where some are missing
        named = pa.array([float("nan") if x is None else x for x in column], kind)
    pq.write_table(pq.read_table(path).append_column("hadm_id", named), path)
    make_labels(data, tmp_path / "labels")
    # the first stay lasts until March, the second ended before it began
    assert read_labels(tmp_path / "labels")["long_stay"].rows()[0] == (1, at(1, 2), True)
    assert read_labels(tmp_path / "labels")["long_stay"].height == 3


def test_read_labels_returns_what_was_made(tmp_path) -> None:
    make_labels(write_meds(tmp_path / "meds"), tmp_path / "labels")
    labels = read_labels(tmp_path / "labels")
    assert labels.keys() == {"long_stay", "readmission_30d"}
    assert labels["long_stay"].rows()[:2] == [(1, at(1, 2), True), (1, at(3, 2), False)]
    one = read_labels(tmp_path / "labels" / "long_stay")
    assert one.keys() == {"long_stay"}
    assert one["long_stay"].equals(labels["long_stay"])


def test_sealed_labels_that_were_changed_are_refused(tmp_path) -> None:
    sealed = tmp_path / "labels"
    make_labels(write_meds(tmp_path / "meds"), sealed)
    path = sealed / "long_stay" / "labels.parquet"
    table = pl.read_parquet(path)
    table.with_columns(~pl.col("boolean_value")).write_parquet(path)
    for labels in (sealed, sealed / "long_stay", path):
        with pytest.raises(ContractError, match=r"long_stay/labels\.parquet was changed"):
            read_labels(labels)
    arguments = ["counts", "--meds", tmp_path / "meds", "--labels", sealed, "--out", tmp_path / "c"]
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1


def test_the_same_labels_from_any_number_of_files_and_again(tmp_path) -> None:
    for name, files in (("a", 1), ("b", 3), ("c", 1)):
        write_meds(tmp_path / name, subjects=tuple(range(1, 8)), files=files)
        make_labels(tmp_path / name, tmp_path / f"labels-{name}")
    manifests = {n: (tmp_path / f"labels-{n}" / "manifest.json").read_bytes() for n in "ac"}
    assert manifests["a"] == manifests["c"]
    sums = [load_manifest(tmp_path / f"labels-{n}").files for n in "ab"]
    assert sums[0] == sums[1]


def test_a_cap_on_rows_draws_the_same_ones_for_any_company(tmp_path) -> None:
    config = LabelsConfig(rows_per_subject=1)
    alone = write_meds(tmp_path / "alone", subjects=(2,))
    make_labels(alone, tmp_path / "one", config)
    make_labels(
        write_meds(tmp_path / "meds", subjects=tuple(range(1, 30))), tmp_path / "all", config
    )
    labels = read_labels(tmp_path / "all")["long_stay"]
    assert labels["subject_id"].to_list() == list(range(1, 30))
    assert 0 < labels["boolean_value"].sum() < 29  # now the long stay, now the short one
    assert labels.filter(pl.col("subject_id") == 2).equals(
        read_labels(tmp_path / "one")["long_stay"]
    )


def test_the_task_of_the_guide_is_added_and_labelled(tmp_path, monkeypatch) -> None:
    guide = Path(__file__).parents[3] / "docs" / "tasks.md"
    code = guide.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    story = [(at(1, 1), "HOSPITAL_ADMISSION//E"), (at(1, 9), "HOSPITAL_DISCHARGE//HOME")]
    story += [(at(3, 1), "HOSPITAL_ADMISSION//E"), (at(3, 31), "MEDS_DEATH")]
    write_meds(tmp_path / "demo" / "meds", story=story)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ehr_eval.tasks.registry.TASKS", before := dict(TASKS))
    monkeypatch.setattr("ehr_eval.tasks.choice.TASKS", before)
    exec(code, {})
    labels = read_labels(tmp_path / "demo" / "mine")["death_30d"]
    assert labels.rows()[:2] == [(1, at(1, 1), False), (1, at(3, 1), True)]


def test_nothing_is_written_when_nothing_can_be(tmp_path) -> None:
    data = write_meds(tmp_path / "meds")
    with pytest.raises(
        UserError, match=r"for long_stay, no row .* \(6 over by the prediction time\)"
    ):
        make_labels(
            data, tmp_path / "out", LabelsConfig(tasks=("long_stay",), hours_after_admission=8000)
        )
    (tmp_path / "empty").mkdir()
    with pytest.raises(ContractError, match="is no MEDS data set"):
        make_labels(tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    make_labels(data, tmp_path / "out")
    with pytest.raises(UserError, match="--overwrite"):
        make_labels(data, tmp_path / "out")
    make_labels(data, tmp_path / "out", overwrite=True)


def test_aces_output_and_other_types_are_read(tmp_path) -> None:
    nulls = pl.Series([None, None])
    write_labels(
        tmp_path / "aces" / "icu" / "train" / "0.parquet",
        boolean_value=[True, False],
        integer_value=nulls.cast(pl.Int64),
        float_value=nulls.cast(pl.Float64),
        categorical_value=nulls.cast(pl.String),
    )
    write_labels(tmp_path / "aces" / "count" / "0.parquet", integer_value=[0, 1])
    write_labels(tmp_path / "aces" / "score" / "0.parquet", float_value=[1.0, 0.0])
    labels = read_labels(tmp_path / "aces")
    assert {name: t["boolean_value"].to_list() for name, t in labels.items()} == {
        "icu": [True, False],
        "count": [False, True],
        "score": [True, False],
    }
    assert labels["icu"].schema["prediction_time"] == pl.Datetime("us")


def test_values_that_are_not_binary_are_refused_in_one_line(tmp_path) -> None:
    write_labels(tmp_path / "tree" / "task" / "0.parquet", float_value=[0.0, 0.5])
    with pytest.raises(ContractError, match=r"task task has float_value = 0\.5 for subject 2 at"):
        read_labels(tmp_path / "tree")


def test_rows_are_the_union_of_tasks_of_any_kind_and_know_their_subjects(tmp_path) -> None:
    write_labels(tmp_path / "tree" / "stage" / "0.parquet", categorical_value=["i", "ii"])
    write_labels(
        tmp_path / "tree" / "died" / "0.parquet",
        prediction_time=[at(1, 5), at(1, 7)],
        boolean_value=[True, False],
    )
    subjects = pl.DataFrame({"subject_id": [3, 2, 1], "split": ["tuning", "train", "held_out"]})
    tables = read_any(tmp_path / "tree", reader="test 0")
    rows = labelled_rows(tables, subjects, where=tmp_path)
    assert rows.rows() == [
        (1, at(1, 5), "held_out"),
        (2, at(1, 6), "train"),
        (2, at(1, 7), "train"),
    ]
    with pytest.raises(ContractError, match="subject 2 is in more than one file or split"):
        labelled_rows(tables, pl.concat([subjects, subjects[1:2]]), where=tmp_path)
    with pytest.raises(ContractError, match=r"name 1 subjects .* the first 2"):
        labelled_rows(tables, subjects.filter(pl.col("subject_id") != 2), where=tmp_path)


def test_splits_are_the_data_sets_own_or_by_hash(tmp_path) -> None:
    named = write_meds(tmp_path / "named")
    found = read_subjects(named, data_files(named), seed=0).select("subject_id", "split")
    assert sorted(found.rows()) == [(1, "train"), (2, "tuning"), (3, "held_out")]
    bare = write_meds(tmp_path / "bare", splits=False)
    found = read_subjects(bare, data_files(bare), seed=0).sort("subject_id")
    hashed = splits_by_hash(found["subject_id"].to_numpy(), 0)
    assert found["split"].to_list() == [SPLITS[i] for i in hashed]


def test_the_command_prints_counts_and_what_was_skipped(tmp_path) -> None:
    data = write_meds(tmp_path / "meds")
    arguments = ["labels", "--meds", str(data), "--out", str(tmp_path / "labels")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "skipped abnormal_lab_next_visit: no code matches lab" in result.output
    assert "12 labels" in result.output
    one = CliRunner().invoke(main, [*arguments, "--overwrite", "--task", "long_stay"])
    assert "6 labels" in one.output
    assert CliRunner().invoke(main, arguments).exit_code == 2


def test_mimic_demo(mimic_demo, tmp_path) -> None:
    summary = make_labels(mimic_demo, tmp_path / "labels")
    labels = read_labels(tmp_path / "labels")
    assert labels.keys() >= {"in_hospital_mortality", "readmission_30d", "long_stay"}
    frames = [pl.read_parquet(f) for f in sorted(mimic_demo.glob("data/*/*.parquet"))]
    raw = pl.concat(f.select("subject_id", "time", "code", "hadm_id") for f in frames)
    # by a join of its own, through the admission number alone
    admitted = raw.filter(pl.col("code").str.starts_with("HOSPITAL_ADMISSION")).select(
        "subject_id", "hadm_id", start="time"
    )
    left = raw.filter(pl.col("code").str.starts_with("HOSPITAL_DISCHARGE")).select(
        "hadm_id", "code", end="time"
    )
    stays = admitted.join(left, on="hadm_id").filter(
        pl.col("end") > pl.col("start") + pl.duration(hours=24)
    )
    assert labels["long_stay"].height == pytest.approx(stays.height, abs=3)
    died = stays.filter(pl.col("code") == "HOSPITAL_DISCHARGE//DIED")
    positives = labels["in_hospital_mortality"]["boolean_value"].sum()
    assert died.height - 2 <= positives <= died.height
    assert summary.counts["rows"].sum() == sum(t.height for t in labels.values())
