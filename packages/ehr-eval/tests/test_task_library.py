"""The library as a whole, the command that lists it, the cohort table, and tasks that need a table of their own."""

from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from ehr_eval.cli import main
from ehr_eval.tasks.by_file import label_by_file
from ehr_eval.tasks.chexpert import FINDINGS, bits
from ehr_eval.tasks.config import LabelsConfig
from ehr_eval.tasks.files import read_task_file
from ehr_eval.tasks.label_tasks import read_labels
from ehr_eval.tasks.library import collections, library_files
from ehr_eval.tasks.patterns import Codebook
from ehr_eval.tasks.record import Events
from ehr_tracking.manifest import verify

DOCS = Path(__file__).parents[3] / "docs" / "tasks.md"
FIRST = datetime(2020, 1, 1)  # noqa: DTZ001 -- MEDS times have no zone


def run(*words, code=0):
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == code, done.output
    return done.output


@pytest.mark.parametrize("path", library_files().values(), ids=lambda p: p.stem)
def test_each_task_says_what_it_is_and_has_codes_that_polars_can_search(path):
    task = read_task_file(path)
    assert task.name == path.stem
    assert "?" in task.doc
    assert task.source
    assert task.checked
    book = Codebook(["LAB//K"], {})
    assert [book.of(pattern) for group in task.groups().values() for pattern in group]
    assert f"| `{task.name}` |" in DOCS.read_text(encoding="utf-8")


def test_the_collections_are_those_that_are_promised():
    sizes = {name: len(tasks) for name, tasks in collections().items()}
    assert sizes == {
        "core": 6,
        "ehrshot": 14,
        "fomoh": 14,
        "mimic": 16,
        "mimic_values": 2,
        "sequence": 6,
    }
    assert len(library_files()) == sum(sizes.values())  # no name twice


@pytest.fixture
def meds(tmp_path):
    """Stays of two days, every 20 days, of six subjects; every other one has a hypertension."""
    rows = []
    for subject in range(6):
        for n in range(4):
            day = 20 * n
            rows += [
                (subject, day, "HOSPITAL_ADMISSION//A"),
                (subject, day + 2, "HOSPITAL_DISCHARGE//HOME"),
            ]
        rows.append((subject, 400, "MEDS_DEATH" if subject == 5 else "SEEN"))
        if subject % 2:
            rows.append((subject, 30, "DIAGNOSIS//ICD10CM//I10"))
    frame = pl.DataFrame(
        [(s, FIRST + timedelta(days=d), c, None) for s, d, c in rows],
        {"subject_id": pl.Int64, "time": pl.Datetime("us"), "code": pl.String, "numeric_value": pl.Float32},
        orient="row",
    )  # fmt: skip
    (tmp_path / "meds/data").mkdir(parents=True)
    (tmp_path / "meds/metadata").mkdir()
    frame.sort("subject_id", "time").write_parquet(tmp_path / "meds/data/0.parquet")
    split = ["train", "train", "train", "tuning", "tuning", "held_out"]
    pl.DataFrame({"subject_id": range(6), "split": split}).write_parquet(
        tmp_path / "meds/metadata/subject_splits.parquet"
    )
    return tmp_path / "meds"


def test_the_list_says_what_a_data_set_lacks_and_a_page_what_a_task_is(meds, tmp_path):
    listed = {line.split()[0]: line.split() for line in run("tasks", "--meds", meds).splitlines()}
    assert len(listed) == 1 + 58 + 3
    assert listed["readmission_30d"][1:3] == ["1", "core"]
    assert listed["readmission_30d"][-1] == "nothing"
    assert listed["guo_icu"][-3:] == ["start,", "start.until,", "outcome"]
    assert listed["time_to_death"][-1] == "nothing"
    page = run("tasks", "new_diagnosis_1y", "--meds", meds)
    assert "| asked | when a stay ends |" in page
    assert "| of whom | no outcome so far |" in page
    assert "**This data set** has what it takes." in page
    assert "lacks start (^ED_REGISTRATION)" in run("tasks", "ed_return_72h", "--meds", meds)
    assert run("tasks", "time_to_death").startswith("# time_to_death")
    assert "no task stroke in the library" in run("tasks", "stroke", code=2)
    copied = run("tasks", "guo_icu", "--copy", tmp_path / "mine").splitlines()[-2:]
    assert [Path(line).name for line in copied] == ["guo_icu.yaml", "guo_icu.csv"]
    assert read_task_file(tmp_path / "mine/guo_icu.yaml") == read_task_file("guo_icu")
    assert "exists already" in run("tasks", "guo_icu", "--copy", tmp_path / "mine", code=2)


def test_the_cohort_is_counted_by_split_and_reason_in_three_forms(meds, tmp_path):
    out = tmp_path / "labels"
    words = (
        "--task",
        "new_diagnosis_1y",
        "--task",
        "hospital_readmission",
        "-s",
        "recurrence=true",
    )
    run("labels", "--meds", meds, "--out", out, *words)
    assert verify(out) == []
    counts = {
        (r["task"], r["what"]): r["count"]
        for r in pl.read_parquet(out / "_cohort/cohort.parquet").filter(split="train").to_dicts()
    }
    # three subjects with four discharges each; the one with a diagnosis is new at two of them
    assert counts["hospital_readmission", "rows"] == 12
    assert counts["hospital_readmission", "positives"] == 9
    assert counts["hospital_readmission", "subjects"] == 3
    assert counts["new_diagnosis_1y", "the diagnosis is there already"] == 2
    told = (out / "_cohort/cohort.md").read_text()
    assert "| positives | 9 | 6 | 3 | 18 |" in told
    page = (out / "_cohort/cohort.html").read_text()
    assert page.count("<h2>") == 2
    assert "the diagnosis is there already" in page
    assert "http" not in page
    assert read_labels(out).keys() == {"hospital_readmission", "new_diagnosis_1y"}


def test_those_who_have_had_it_are_a_task_of_their_own(meds, tmp_path):
    file = library_files()["new_diagnosis_1y"]
    words = ("--task-file", file, "-s", "recurrence=true", "-s", "censored=negative")
    run("labels", "--meds", meds, "--out", tmp_path / "labels", *words)
    found = read_labels(tmp_path / "labels")
    new, again = found["new_diagnosis_1y"], found["recurrence.new_diagnosis_1y"]
    assert new.join(again, on=["subject_id", "prediction_time"]).height == 0
    assert new.height + again.height == 6 * 4
    assert set(again["subject_id"]) == {1, 3, 5}
    run("labels", "--meds", meds, "--out", tmp_path / "plain", *words[:2])
    plain = read_labels(tmp_path / "plain")
    assert plain.keys() == {"new_diagnosis_1y"}


def test_a_score_decides_where_it_is_tabulated():
    story = [
        (0, "ICU_ADMISSION//M", None), (1, "SOFA", 8.0), (3, "ICU_DISCHARGE//M", None),
        (9, "ICU_ADMISSION//M", None), (10, "SOFA", 7.0), (11, "ICU_DISCHARGE//M", None),
        (19, "ICU_ADMISSION//M", None), (21, "ICU_DISCHARGE//M", None), (22, "SOFA", 9.0),
    ]  # fmt: skip
    events = pl.DataFrame(
        [(1, FIRST + timedelta(days=d), c, v) for d, c, v in story],
        {"subject_id": pl.Int64, "time": pl.Datetime("us"), "code": pl.String, "numeric_value": pl.Float32},
        orient="row",
    )  # fmt: skip
    found = label_by_file(Events(events), read_task_file("sofa"), LabelsConfig())
    assert found.sort("prediction_time")["boolean_value"].to_list()[:2] == [True, False]
    assert found["left_out"].to_list()[2] == "nothing decides"
    score = label_by_file(Events(events), read_task_file("sofa_score"), LabelsConfig())
    one = score.filter(pl.col("left_out").is_null()).sort("prediction_time")
    assert one["float_value"].to_list() == [8, 7]
    assert score["left_out"].to_list()[2] == "nothing decides"


def test_chest_x_rays_are_fourteen_tasks_a_day_before_the_report(meds, tmp_path):
    header = "\t".join(["patient_id", "start", *FINDINGS])
    rows = [
        "5\t2020-01-10 08:00:00" + "\t1" + "\t0" * 12 + "\t-1",
        "5\t2020-01-01 12:00:00" + "\t1" * 14,
    ]
    (tmp_path / "reports.tsv").write_text("\n".join([header, *rows]) + "\n")
    out = tmp_path / "labels"
    said = run("labels", "--meds", meds, "--out", out, "--chexpert", tmp_path / "reports.tsv")
    found = read_labels(out)
    assert len(found) == 14
    assert "nothing is recorded by then" in said  # the second report is of the first day
    for name, answer in (("no_finding", True), ("edema", False), ("support_devices", False)):
        day = FIRST + timedelta(days=8, hours=8)
        assert found[f"chexpert_{name}"].rows() == [(5, day, answer)]
    number = int("".join("1" if i in (0, 13) else "0" for i in range(14)), 2)
    assert [name for name, yes in bits(number).items() if yes] == ["No Finding", "Support Devices"]
    with pytest.raises(ValueError, match="16384 is not 14 answers"):
        bits(1 << 14)
    (tmp_path / "reports.csv").write_text("subject_id,time,Edema\n5,2020-01-10,1\n")
    words = ("--chexpert", tmp_path / "reports.csv", "--overwrite")
    assert "column No Finding is missing" in run(
        "labels", "--meds", meds, "--out", out, *words, code=2
    )
    assert len(read_labels(out)) == 14  # what was there is as it was
