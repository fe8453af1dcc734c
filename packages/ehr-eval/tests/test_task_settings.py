"""Settings of task files, each on a few events whose answer is plain: when it is asked, of whom, and of what codes."""

from datetime import datetime, timedelta

import polars as pl
import pytest
import yaml

from ehr_eval.generate.rules import matches
from ehr_eval.generate.spelling import Told
from ehr_eval.generate.wait import Wait
from ehr_eval.tasks.by_file import label_by_file
from ehr_eval.tasks.config import LabelsConfig
from ehr_eval.tasks.files import TaskFile, read_task_file
from ehr_eval.tasks.patterns import Codebook, EventPattern
from ehr_eval.tasks.record import Events
from ehr_tracking.config import ConfigError, validate
from ehr_tracking.errors import UserError

FIRST = datetime(2020, 1, 1)  # noqa: DTZ001 -- MEDS times have no zone
STAY = {"code": "^IN", "until": "^OUT"}
BASIC = {
    "name": "t",
    "doc": "",
    "outcome": [{"code": "^BAD"}],
    "horizon_days": 5,
    "censored": "negative",
}


def labelled(start, *story, parents=None, config=None, **more):
    """Of subject 1: day of prediction -> answer, or why there is none; a story is (day, code[, value, unit])."""
    task = validate(TaskFile, {**BASIC, "start": start, **more}, where="test")
    rows = [(1, FIRST + timedelta(days=r[0]), r[1], *((*r[2:], None, None)[:2])) for r in story]
    schema = {"subject_id": pl.Int64, "time": pl.Datetime("us"), "code": pl.String, "numeric_value": pl.Float32, "unit": pl.String}  # fmt: skip
    events = pl.DataFrame(rows, schema, orient="row")
    book = Codebook(events["code"].unique(), parents or {})
    found = label_by_file(Events(events), task, config or LabelsConfig(), book)
    days = (found["prediction_time"] - FIRST).dt.total_seconds() / 86_400
    told = found.select(pl.coalesce("left_out", pl.col("boolean_value").cast(pl.String)))
    answer = {"true": True, "false": False}
    return dict(sorted(zip(days, [answer.get(x, x) for x in told.to_series()], strict=True)))


def test_a_schedule_within_a_stay_and_along_the_record():
    stay = [(0, "IN"), (1.5, "BAD"), (2, "OUT")]
    every = {**STAY, "at": "every", "every_hours": 12}
    assert labelled(every, *stay, horizon_days=1) == {0: False, 0.5: True, 1: True, 1.5: False}
    assert list(labelled({**every, "hours": 30}, *stay)) == [1.25, 1.75]
    along = {"at": "every", "every_hours": 240}
    assert labelled(along, (-9000, "MEDS_BIRTH"), (0, "A"), (12, "BAD"), (20, "A")) == {
        0: False,
        10: True,
    }


def test_moments_at_random_are_the_same_in_any_company_and_before_nothing():
    start = {"at": "random", "count": 3, "history_days": 2}
    story = [(day, "A") for day in range(40)] + [(1000, "BAD")]
    found = labelled(start, *story)
    assert len(found) == 3
    assert min(found) >= 2  # of moments that may be asked at
    assert set(found) <= {float(day) for day in range(40)} | {1000.0}
    assert labelled(start, *reversed(story)) == found
    assert labelled(start, *story, config=LabelsConfig(seed=1)) != found
    assert labelled(start, (0, "A"), (1, "A")) == {1: "too short a record by then"}
    inside = labelled(
        {**STAY, "at": "random", "count": 9}, (0, "A"), (5, "IN"), (6, "A"), (7, "OUT")
    )
    assert set(inside) == {5.0, 6.0}


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ({"at": "end"}, {2.5: True}),
        ({"at": "end", "end_of_day": True}, {2 + 1439 / 1440: True}),
        ({"end_of_day": True}, {1439 / 1440: True}),
        ({"hours": 60}, {2.5: "over by the prediction time"}),
        ({"longer_than_hours": 60}, {0: "too short a stay"}),
        ({"minutes_before": 1440}, {-1: "nothing is recorded by then"}),
        ({"min_age": 25}, {0: "not of that age"}),
        ({"max_age": 19}, {0: "not of that age"}),
        ({"min_age": 20, "max_age": 20}, {0: True}),  # he is 20 until the next birthday
    ],
)
def test_when_and_of_whom(start, expected):
    born = -20 * 365.25 - 30
    story = [(0, "IN"), (2.5, "OUT"), (4, "BAD")]
    if "min_age" in start or "max_age" in start:
        story.append((born, "MEDS_BIRTH"))
    found = labelled({**STAY, **start}, *story, horizon_days=5)
    assert {round(k, 6): v for k, v in found.items()} == {
        round(k, 6): v for k, v in expected.items()
    }


@pytest.mark.parametrize(
    ("pattern", "there"),
    [
        ({"code": "^X"}, True),
        ({"code": "^X", "days": 3}, True),
        ({"code": "^X", "days": 2}, False),
        ({"code": "^X", "times": 2}, True),
        ({"code": "^X", "times": 3}, False),
        ({"code": "^X", "times": 2, "days": 4}, False),
        ({"code": "^X", "since": "stay"}, False),
        ({"code": "^Y", "since": "stay"}, True),
        ({"code": "^X", "min_age": 0.1}, False),
        ({"code": "^X", "during": {"code": "^SEE", "until": "^GO"}}, True),
        ({"code": "^Y", "during": {"code": "^SEE", "until": "^GO"}}, False),
    ],
)
def test_history_is_required_or_excludes_by_count_span_age_and_visit(pattern, there):
    story = [(0, "MEDS_BIRTH"), (1, "X"), (6, "SEE"), (7, "X"), (8, "GO"), (9, "IN"), (9.5, "Y"), (20, "OUT"), (22, "BAD")]  # fmt: skip
    start = {**STAY, "hours": 24}
    assert labelled(start, *story, require=[pattern], horizon_days=30) == {
        10: True if there else "what is required is not there"
    }
    assert labelled(start, *story, exclude=[pattern], horizon_days=30) == {
        10: "what is excluded is there already" if there else True
    }


def test_codes_of_an_ontology_without_some_and_with_what_follows_them():
    parents = {"D/1": ["D"], "D/12": ["D/1"], "D/13": ["D/1"], "K": [None]}
    for code, answer in {
        "D": True,
        "D/12": True,
        "D/13": False,
        "D/12//unit": True,
        "E": False,
    }.items():
        outcome = [{"codes": ["D"], "children": True, "without": ["D/13"]}]
        story = [(0, "ASK"), (1, code), (9, "A")]
        assert labelled({"code": "^ASK"}, *story, parents=parents, outcome=outcome) == {0: answer}


def test_what_has_to_come_together_comes_with_the_last_of_it():
    start, both = {"code": "^ASK"}, [[{"code": "^D"}], [{"code": "^R1"}, {"code": "^R2"}]]
    more = {"together": both, "outcome": None, "onset": "new"}
    assert labelled(start, (0, "D"), (1, "ASK"), (3, "R2"), (4, "ASK"), (9, "D"), **more) == {
        1: True,
        4: "the outcome is there already",
    }
    assert labelled(start, (0, "D"), (1, "ASK"), (90, "R1"), **more) == {1: False}


def test_a_stay_of_so_many_days_or_longer():
    more = {"outcome": None, "stay_days": 7, "horizon_days": None}
    assert labelled(STAY, (0, "IN"), (7, "OUT"), **more) == {0: True}
    assert labelled(STAY, (0, "IN"), (6.99, "OUT"), **more) == {0: False}


def test_units_are_those_of_the_column_or_of_the_code():
    outcome = [{"code": "^K", "at_most": 3.9, "units": {"mmol/L": 1, "mg/dL": 18}}]
    for code, value, unit, answer in (
        ("K", 3.9, "mmol/L", True),
        ("K", 70.2, "mg/dL (fasting)", False),  # 3.9000000000000004
        ("K", 70.1, "MG/DL", True),
        ("K//mg/dL", 54.0, None, True),
        ("K", 1.0, "pounds", False),
        ("K", 1.0, None, False),
    ):
        story = [(0, "ASK"), (1, code, value, unit), (9, "A")]
        assert labelled({"code": "^ASK"}, *story, outcome=outcome) == {0: answer}, (
            code,
            value,
            unit,
        )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"start": {"at": "every"}}, "every_hours goes with"),
        ({"start": {"at": "begin"}}, "give code, or codes"),
        ({"start": {"code": "A", "codes": ["B"]}}, "give either code"),
        ({"start": {"code": "A", "children": True}}, "children and without go with codes"),
        ({"outcome": None}, "give one of outcome, together and stay_days"),
        ({"stay_days": 3}, "give one of outcome, together and stay_days"),
        ({"answer": "code"}, "answer: code is of `given`, and goes with no outcome"),
        ({"window": "moment"}, "window: moment goes with start.minutes_before"),
        ({"window": "next"}, "start.until has to be set"),
        ({"require": [{"code": "A", "in_stay": True}]}, "unknown key require.0.in_stay"),
    ],
)
def test_settings_that_contradict_each_other_are_one_line(change, said):
    with pytest.raises(ConfigError) as e:
        validate(TaskFile, {**BASIC, "start": {"code": "A"}, **change}, where="mine.yaml")
    assert said in str(e.value)
    assert str(e.value).startswith("mine.yaml: ")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (None, "no such table of codes"),
        ("", "no column code in this table of codes"),
        ("icd,name\nA,b\n", "no column code in this table of codes; it has icd, name"),
        ("# to be filled\ncode,name\n", "lists no code yet: fill its column code"),
    ],
)
def test_a_table_of_codes_that_is_missing_or_empty_is_one_line(tmp_path, table, said):
    tree = {**BASIC, "start": {"code": "A"}, "outcome": [{"codes": {"file": "codes.csv"}}]}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(tree))
    if table is not None:
        (tmp_path / "codes.csv").write_text(table)
    with pytest.raises(ConfigError, match=said) as e:
        read_task_file(tmp_path / "task.yaml")
    assert "codes.csv" in str(e.value)


def test_codes_of_a_table_are_part_of_the_task(tmp_path):
    tree = {
        **BASIC,
        "start": {"code": "A"},
        "outcome": [{"codes": {"file": "c.csv", "column": "icd"}}],
    }
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(tree))
    (tmp_path / "c.csv").write_text("\ufeff# a note\nname,icd\n'x',I21 \n'y',I22\n'z',I21\n'w',\n")
    assert read_task_file(tmp_path / "task.yaml").outcome[0].codes == ("I21", "I22")
    with pytest.raises(UserError, match="no task heart_attack in the library, and no such file"):
        read_task_file("heart_attack")


def test_futures_honour_lists_and_bounds_of_either_kind():
    told = [Told("K", 5.0), Told("K", 5.5), Told("K//mmol", 4.0), Told("KL", 5.0), None]
    listed = EventPattern(codes=("K",), at_least=5, below=5.5)
    assert matches([listed], told).tolist() == [True, False, False, False, False]
    assert matches([EventPattern(codes=("K",))], told).tolist() == [True, True, True, False, False]


def test_what_real_records_alone_can_tell_is_named():
    def alone(**more):
        return validate(TaskFile, {**BASIC, "start": STAY, **more}, where="t").for_labels_alone()

    assert alone() is None
    assert alone(exclude=[{"codes": ["A"], "children": True}]) is None  # of whom, not of what
    assert alone(outcome=[{"codes": ["A"], "children": True}]) == "outcome.children"
    assert alone(stop=[{"code": "A", "units": {"mg": 1}}]) == "stop.units"
    assert alone(outcome=None, answer="code", given=[{"code": "A"}]) == "answer: code"
    assert alone(from_days=1) == "from_days"
    assert alone(grades=[{"code": "A"}]) == "grades"
    with pytest.raises(UserError, match="task t: from_days can be told of real records alone"):
        Wait(validate(TaskFile, {**BASIC, "start": STAY, "from_days": 1}, where="t"), None)
