"""Tasks as YAML: the same labels as the functions of the built-in ones, cases by hand, and refusals."""

from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from ehr_eval.cli import main
from ehr_eval.tasks.by_file import label_by_file
from ehr_eval.tasks.config import LabelsConfig
from ehr_eval.tasks.course import read_course
from ehr_eval.tasks.files import StartConfig, TaskFile, read_task_file
from ehr_eval.tasks.labelers import ROW
from ehr_eval.tasks.library import LIBRARY
from ehr_eval.tasks.patterns import EventPattern
from ehr_eval.tasks.record import Events
from ehr_eval.tasks.registry import TASKS
from ehr_tracking.config import ConfigError

RECIPES = LIBRARY / "core"
SIX = [name for name, task in TASKS.items() if not task.timed]
FIRST = datetime(2020, 1, 1)  # noqa: DTZ001 -- MEDS times have no zone
LAB = "LAB//LOINC//2823-3//mmol/L"


def frame(rows):
    schema = {
        "subject_id": pl.Int64,
        "time": pl.Datetime("us"),
        "code": pl.String,
        "numeric_value": pl.Float32,
    }
    return pl.DataFrame(rows, schema, orient="row")


@pytest.fixture(scope="module")
def events():
    """Stays with transfers, visits, diagnoses, measurements at one time, deaths at and after discharge."""
    rng = np.random.default_rng(5)
    rows = []
    for subject in range(150):
        clock = FIRST + timedelta(days=float(rng.integers(0, 400)))

        for _ in range(rng.integers(1, 9)):
            stay = rng.random() < 0.6
            begins = "HOSPITAL_ADMISSION//EMERGENCY" if stay else "VISIT_START//OUTPATIENT"
            rows.append((subject, clock, begins, None))
            length = timedelta(days=float(rng.choice([0, 0.5, 2, 7, 9])))
            for _ in range(rng.integers(0, 3)):
                code = rng.choice([LAB, "DIAGNOSIS//ICD10CM//I10", "DIAGNOSIS//ICD10CM//Z00"])
                value = float(rng.choice([4.0, 5.0, 5.5])) if code == LAB else None
                rows.append((subject, clock, str(code), value))
                clock += length / 3 * float(rng.integers(0, 2))
            clock += length
            dies = rng.random() < 0.08
            if stay:
                left = "DIED" if dies and rng.random() < 0.7 else "HOME"
                rows.append((subject, clock, f"HOSPITAL_DISCHARGE//{left}", None))
            elif rng.random() < 0.9:
                rows.append((subject, clock, "VISIT_END//OUTPATIENT", None))
            if dies:
                clock += timedelta(hours=float(rng.choice([0, 0, 900])))
                rows.append((subject, clock, "MEDS_DEATH", None))
                break
            clock += timedelta(hours=float(rng.choice([0.5, 24, 800, 9000])))
    return frame(rows)


@pytest.mark.parametrize("censored", ["exclude", "negative"])
@pytest.mark.parametrize("name", SIX)
def test_the_files_of_the_built_in_tasks_label_as_their_functions_do(events, name, censored):
    config = LabelsConfig(censored=censored)
    task = read_task_file(RECIPES / f"{name}.yaml")
    assert task.name == name

    def rows(found):
        return found.filter(pl.col("left_out").is_null()).select(ROW).sort(ROW)

    expected = rows(TASKS[name].labeler(read_course(events, config), config))
    assert rows(label_by_file(Events(events), task, config)).equals(expected)
    assert 0 < expected["boolean_value"].sum() < expected.height


def hour(n):
    return FIRST + timedelta(hours=n)


@pytest.mark.parametrize(
    ("more", "answer"),
    [
        ([(5, "BAD", None)], True),
        ([(10, "BAD", None)], True),  # the end of the horizon belongs to it
        ([(10.1, "BAD", None)], False),
        ([(0, "BAD", None)], False),  # what is visible is no outcome
        ([(3, "OVER", None), (5, "BAD", None)], False),
        ([(3, "OVER", None), (3, "BAD", None)], True),  # at one moment
        ([(4, "K", 6.0)], True),
        ([(4, "K", 5.0)], False),
        ([(4, "K", None)], False),
        ([(4, "K", float("nan"))], False),
    ],
)
def test_an_outcome_is_after_the_question_within_the_horizon_and_before_what_ends_it(more, answer):
    task = TaskFile(
        name="t",
        doc="",
        start=StartConfig(code="^ASK"),
        outcome=(EventPattern(code="^BAD"), EventPattern(code="^K$", above=5)),
        stop=(EventPattern(code="^OVER"),),
        horizon_days=10 / 24,
    )
    story = [(0, "ASK", None), *more, (99, "SEEN", None)]
    found = label_by_file(
        Events(frame([(1, hour(h), c, v) for h, c, v in story])), task, LabelsConfig()
    )
    assert found["boolean_value"].to_list() == [answer]
    assert found["left_out"].to_list() == [None]


def test_without_what_decides_there_is_no_answer():
    task = TaskFile(
        name="t",
        doc="",
        start=StartConfig(code="^ASK"),
        outcome=(EventPattern(code="^K$", above=5),),
        given=(EventPattern(code="^K$"),),
    )
    rows = [
        (subject, hour(h), code, value)
        for subject, story in enumerate(
            [
                [(0, "ASK", None), (1, "K", 4.0), (2, "K", 6.0)],
                [(0, "ASK", None), (1, "K", 6.0)],
                [(0, "ASK", None), (1, "K", 4.0), (1, "K", 6.0)],  # of one moment the highest
                [(0, "ASK", None), (1, "OTHER", None)],
            ]
        )
        for h, code, value in story
    ]
    found = label_by_file(Events(frame(rows)), task, LabelsConfig()).sort("subject_id")
    assert found["boolean_value"].to_list()[:3] == [False, True, True]
    assert found["left_out"].to_list() == [None, None, None, "nothing decides"]


GOOD = "name: t\ndoc: d\nstart: {code: A}\noutcome: [{code: B}]\nhorizon_days: 3\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD + "horizon: 3\n", "unknown key horizon"),
        (GOOD.replace("{code: B}", "{code: B, over: 3}"), "unknown key outcome.0.over"),
        (GOOD.replace("days: 3", "days: 0"), "horizon_days = 0"),
        (GOOD.replace("horizon_days: 3\n", ""), "the wait has no end"),
        (GOOD.replace("[{code: B}]", "[]"), "name at least one code"),
        (GOOD.replace("{code: A}", "{code: A, at: end}"), "start.until has to be set"),
        (GOOD.replace("code: B", "code: '('"), "no regular expression"),
    ],
)
def test_a_file_that_is_no_task_is_refused_in_one_line_that_names_it(tmp_path, text, said):
    path = tmp_path / "task.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as e:
        read_task_file(path)
    assert said in str(e.value)
    assert str(path) in str(e.value)
    assert "\n" not in str(e.value)


def test_the_command_labels_by_files_alone_or_beside_built_in_tasks(tmp_path, events):
    (tmp_path / "meds" / "data").mkdir(parents=True)
    events.write_parquet(tmp_path / "meds" / "data" / "0.parquet")

    def run(*words, code=0):
        given = ["labels", "--meds", tmp_path / "meds", *words]
        done = CliRunner().invoke(main, [str(w) for w in given])
        assert done.exit_code == code, done.output
        return done.output

    mine = LIBRARY / "mimic" / "hospital_readmission.yaml"
    run("--task-file", mine, "--out", tmp_path / "one")
    assert [p.name for p in (tmp_path / "one").glob("[!_]*/")] == ["hospital_readmission"]
    run("--task-file", mine, "--task", "readmission_30d", "--out", tmp_path / "two")
    one, other = (
        pl.read_parquet(tmp_path / "two" / name / "labels.parquet")
        for name in ("hospital_readmission", "readmission_30d")
    )
    assert one.equals(other)
    sofa = LIBRARY / "mimic" / "sofa.yaml"
    said = run("--task-file", sofa, "--out", tmp_path / "three", code=2)
    assert "task sofa does not fit this data set: no code matches start = ^ICU" in said
    assert not (tmp_path / "three").exists()
