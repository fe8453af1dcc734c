import re
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehr_eval.tasks import registry
from ehr_eval.tasks.config import LabelsConfig
from ehr_eval.tasks.course import read_course
from ehr_eval.tasks.registry import TASKS, choose
from ehr_tracking.config import ConfigError
from ehr_tracking.errors import UserError

START = datetime(2020, 1, 1)  # noqa: DTZ001 -- MEDS times have no zone
ADMIT, HOME, DIED, DEATH = (
    "HOSPITAL_ADMISSION//EMERGENCY",
    "HOSPITAL_DISCHARGE//HOME",
    "HOSPITAL_DISCHARGE//DIED",
    "MEDS_DEATH",
)
LOOK = "LAST//SEEN"
VISIT, LEAVE = "VISIT_START//OUTPATIENT", "VISIT_END//OUTPATIENT"
POTASSIUM = "LAB//LOINC//2823-3//mmol/L"
HYPERTENSION = "DIAGNOSIS//ICD10CM//I10"
MINUTE = 1 / 1440


def day(n):
    return START + timedelta(days=n)


def events(*rows):
    """(day, code) or (day, code, value) of subject 1."""
    return pl.DataFrame(
        [
            (1, None if r[0] is None else day(r[0]), r[1], r[2] if len(r) > 2 else None)
            for r in rows
        ],
        schema={
            "subject_id": pl.Int64,
            "time": pl.Datetime("us"),
            "code": pl.String,
            "numeric_value": pl.Float32,
        },
        orient="row",
    )


def label(task, *rows, **settings):
    """Day of prediction -> label."""
    config = LabelsConfig(**settings)
    table = TASKS[task].labeler(read_course(events(*rows), config), config)
    assert table.schema["prediction_time"] == pl.Datetime("us")
    if "left_out" in table.columns:
        table = table.filter(pl.col("left_out").is_null())
    days = [(t - START) / timedelta(days=1) for t in table["prediction_time"]]
    return dict(zip(days, table["boolean_value"], strict=True))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        pytest.param([(0, ADMIT), (3, HOME)], {1: False}, id="left alive"),
        pytest.param([(0, ADMIT), (3, DIED), (3, DEATH)], {1: True}, id="died"),
        pytest.param([(0, ADMIT), (3, DIED)], {1: True}, id="only the discharge says so"),
        pytest.param([(0, ADMIT), (3, DEATH), (3.5, HOME)], {1: True}, id="date of death earlier"),
        pytest.param([(0, ADMIT), (3, HOME), (3.1, DEATH)], {1: False}, id="died after the stay"),
        pytest.param([(0, ADMIT), (1, DIED)], {}, id="ended at the prediction time"),
        pytest.param([(0, ADMIT), (1 + MINUTE, DIED)], {1: True}, id="one minute later"),
        pytest.param([(0, ADMIT), (1, DEATH), (1.5, DIED)], {}, id="death already recorded"),
        pytest.param([(0, ADMIT)], {}, id="no discharge"),
        pytest.param([(0, ADMIT), (2, ADMIT), (4, HOME)], {3: False}, id="first one never closed"),
    ],
)
def test_in_hospital_mortality(rows, expected) -> None:
    assert label("in_hospital_mortality", *rows) == expected


def test_the_hour_of_prediction_is_a_setting() -> None:
    rows = [(0, ADMIT), (0.6, HOME)]
    assert label("in_hospital_mortality", *rows) == {}
    assert label("in_hospital_mortality", *rows, hours_after_admission=12) == {0.5: False}


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (0.9, {}),
        (1, {}),
        (6.9, {1: False}),
        (7, {1: False}),
        (7 + MINUTE, {1: True}),
    ],
)
def test_long_stay(end, expected) -> None:
    assert label("long_stay", (0, ADMIT), (end, HOME)) == expected
    assert label("long_stay", (0, ADMIT), (end, DIED)) == expected


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        pytest.param([(40, ADMIT)], {3: False}, id="later than 30 days"),
        pytest.param([(20, ADMIT)], {3: True}, id="within"),
        pytest.param([(33, ADMIT)], {3: True}, id="the end of the window belongs to it"),
        pytest.param([(33 + MINUTE, ADMIT)], {3: False}, id="just after it"),
        pytest.param([(33, LOOK)], {3: False}, id="followed to the end"),
        pytest.param([(32, LOOK)], {}, id="censored"),
        pytest.param([(10, DEATH)], {3: False}, id="dead without one"),
        pytest.param([(3, ADMIT), (9, HOME), (60, LOOK)], {9: False}, id="a transfer"),
    ],
)
def test_readmission(rows, expected) -> None:
    assert label("readmission_30d", (0, ADMIT), (3, HOME), *rows) == expected


def test_no_readmission_after_death_in_hospital() -> None:
    assert label("readmission_30d", (0, ADMIT), (3, DIED), (3, DEATH)) == {}
    assert label("readmission_30d", (0, ADMIT), (3, DEATH), (3.5, HOME), (90, LOOK)) == {}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(100, DEATH)], {3: True}),
        ([(368, DEATH)], {3: True}),
        ([(368 + MINUTE, DEATH)], {3: False}),
        ([(367, LOOK)], {}),
        ([(368, LOOK)], {3: False}),
        ([(2.5, DEATH), (400, LOOK)], {}),
    ],
)
def test_mortality(rows, expected) -> None:
    assert label("mortality_1y", (0, ADMIT), (3, HOME), *rows) == expected


def test_censored_rows_can_be_taken_as_negative() -> None:
    rows = [(0, ADMIT), (3, HOME), (20, LOOK)]
    assert label("mortality_1y", *rows) == {}
    assert label("mortality_1y", *rows, censored="negative") == {3: False}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        pytest.param([(2, HYPERTENSION), (800, LOOK)], {}, id="known before"),
        pytest.param([(3, HYPERTENSION), (800, LOOK)], {}, id="coded at the prediction time"),
        pytest.param([(50, HYPERTENSION)], {3: True}, id="new"),
        pytest.param([(400, HYPERTENSION)], {3: False}, id="too late"),
        pytest.param([(50, "DIAGNOSIS//ICD10CM//E11.9"), (368, LOOK)], {3: False}, id="another"),
        pytest.param([(50, DEATH)], {3: False}, id="died without"),
        pytest.param([(50, LOOK)], {}, id="censored"),
    ],
)
def test_new_diagnosis(rows, expected) -> None:
    assert label("new_diagnosis_1y", (0, ADMIT), (3, HOME), *rows) == expected


def test_abnormal_lab_next_visit() -> None:
    first = [(0, VISIT), (0.1, POTASSIUM, 6.0), (0.2, LEAVE)]

    def following(*labs):
        return label("abnormal_lab_next_visit", *first, (9, VISIT), *labs, (9.5, LEAVE))

    assert following((9.1, POTASSIUM, 5.1)) == {0.2: True}
    assert following((9.1, POTASSIUM, 5.0)) == {0.2: False}
    assert following((9.1, POTASSIUM, 4.0), (9.2, POTASSIUM, 6.0)) == {0.2: False}  # the first
    assert following((9, POTASSIUM, 6.0)) == {0.2: True}
    assert following() == {}
    assert following((9.1, "LAB//LOINC//2951-2//mmol/L", 140.0)) == {}
    assert following((9.1, POTASSIUM, float("nan"))) == {}
    assert following((20, POTASSIUM, 6.0)) == {}  # after that visit
    assert following((5, POTASSIUM, 6.0)) == {}  # between the two
    assert label("abnormal_lab_next_visit", *first) == {}


def test_stays_by_order_within_subjects() -> None:
    table = pl.concat(
        [
            events((0, ADMIT), (2, HOME), (3, ADMIT), (3, HOME), (5, HOME), (7, ADMIT)),
            events((8, HOME)).with_columns(subject_id=pl.lit(2, pl.Int64)),
        ]
    )
    stays = read_course(table, LabelsConfig()).stays.filter(pl.col("fault").is_null())
    # subject 2's discharge never closes subject 1's last stay
    assert stays["start"].to_list() == [day(0), day(3)]
    assert stays["end"].to_list() == [day(2), day(3)]


def test_rows_in_any_order_give_the_same_labels() -> None:
    rows = [(0, ADMIT), (3, HOME), (20, ADMIT), (31, HOME), (60, DEATH), (None, "GENDER//F")]
    for name in TASKS:
        assert label(name, *rows) == label(name, *reversed(rows))


def test_what_happens_after_the_window_changes_no_label() -> None:
    rows = [(0, ADMIT), (3, HOME), (20, ADMIT), (22, HOME), (500, LOOK)]
    later = [(2000, ADMIT), (2001, DIED), (2001, DEATH)]
    for name in ("readmission_30d", "mortality_1y", "long_stay", "in_hospital_mortality"):
        before, after = label(name, *rows), label(name, *rows, *later)
        assert {k: v for k, v in after.items() if k in before} == before


def test_tasks_are_chosen_by_the_codes_that_are_there() -> None:
    codes = pl.Series([ADMIT, HOME, DEATH])
    chosen, skipped = choose(LabelsConfig(), codes)
    assert chosen == ["in_hospital_mortality", "readmission_30d", "long_stay", "mortality_1y"]
    assert skipped.keys() == {"new_diagnosis_1y", "abnormal_lab_next_visit"}
    assert "no code matches lab" in skipped["abnormal_lab_next_visit"]
    with pytest.raises(UserError, match="does not fit this data set: no code matches diagnosis"):
        choose(LabelsConfig(tasks=("new_diagnosis_1y",)), codes)
    with pytest.raises(UserError, match="unknown task ageing; there are"):
        choose(LabelsConfig(tasks=("ageing",)), codes)
    with pytest.raises(
        UserError, match=r"no task fits .* no code matches .* look like A"
    ) as refused:
        choose(LabelsConfig(), pl.Series(["A"]))
    assert len(str(refused.value)) < 250
    with pytest.raises(ConfigError, match="look-around"):
        choose(LabelsConfig(death="^(?!A)"), codes)


def test_each_task_has_a_page_that_names_its_codes_and_where_it_is_from() -> None:
    for name, task in TASKS.items():
        page = (Path(registry.__file__).parent / f"{name}.md").read_text(encoding="utf-8")
        assert page.startswith(f"# {name}\n")
        parts = ("| predicted |", "| positive |", "| left out |", "**From.**", "**Checked.**")
        assert [part for part in parts if part not in page] == []
        codes = next(line for line in page.splitlines() if line.startswith("| codes |"))
        assert tuple(re.findall(r"`(\w+)`", codes)) == task.needs + task.needs_one


COURSES = st.lists(
    st.tuples(
        st.integers(0, 60).map(lambda n: n / 2),
        st.sampled_from([ADMIT, HOME, DIED, DEATH, HYPERTENSION, LOOK]),
    ),
    min_size=1,
    max_size=15,
)


@given(COURSES)
def test_no_answer_has_happened_by_the_prediction_time_so_none_is_known_under_any_delay(
    rows,
) -> None:
    for task, answer in {
        "in_hospital_mortality": DEATH,
        "mortality_1y": DEATH,
        "new_diagnosis_1y": HYPERTENSION,
    }.items():
        for day_of_prediction in label(task, *rows, censored="negative"):
            assert not [d for d, code in rows if code == answer and d <= day_of_prediction]


def test_definitions_carry_the_numbers_of_the_config() -> None:
    config = LabelsConfig(long_stay_days=3, readmission_days=90)
    assert "longer than 3 days" in TASKS["long_stay"].define(config)
    assert "within 90 days" in TASKS["readmission_30d"].define(config)
    assert not [name for name, task in TASKS.items() if "{" in task.define(config)]


def durations(task, *rows, **settings):
    """Day of prediction -> (whether the event came, days), and why other rows are none."""
    config = LabelsConfig(**settings)
    table = TASKS[task].labeler(read_course(events(*rows), config), config)
    kept = table.filter(pl.col("left_out").is_null())
    days = [(t - START) / timedelta(days=1) for t in kept["prediction_time"]]
    told = zip(kept["boolean_value"], kept["duration_days"], strict=True)
    return dict(zip(days, told, strict=True)), table["left_out"].drop_nulls().to_list()


STAYS = [(0, ADMIT), (2, HOME), (5.5, ADMIT), (8, HOME)]


@pytest.mark.parametrize(
    ("task", "rows", "expected", "left_out"),
    [
        pytest.param(
            "time_to_death", [*STAYS, (10, DEATH)], {2: (True, 8), 8: (True, 2)}, [], id="dies"
        ),
        pytest.param(
            "time_to_death", [*STAYS, (9, LOOK)], {2: (False, 7), 8: (False, 1)}, [], id="last seen"
        ),
        pytest.param(
            "time_to_death", STAYS, {2: (False, 6)}, ["nothing is recorded after it"], id="end"
        ),
        pytest.param(
            "time_to_death",
            [(0, ADMIT), (2, DIED), (2, DEATH)],
            {},
            ["ended in death"],
            id="no row",
        ),
        pytest.param(
            "time_to_readmission",
            [*STAYS, (9, LOOK)],
            {2: (True, 3.5), 8: (False, 1)},
            [],
            id="again",
        ),
        pytest.param(
            "time_to_readmission",
            [*STAYS, (9, DEATH), (30, LOOK)],
            {2: (True, 3.5), 8: (False, 1)},
            [],
            id="death censors before what is recorded later",
        ),
        pytest.param(
            "time_to_diagnosis",
            [*STAYS, (7, HYPERTENSION), (9, LOOK)],
            {2: (True, 5)},
            ["the diagnosis is there already"],
            id="onset",
        ),
        pytest.param(
            "time_to_diagnosis",
            [*STAYS, (12, LOOK)],
            {2: (False, 10), 8: (False, 4)},
            [],
            id="never",
        ),
    ],
)
def test_times_to_an_event_count_to_it_or_to_the_end_of_what_is_known(
    task, rows, expected, left_out
) -> None:
    assert durations(task, *rows) == (expected, left_out)


def test_times_to_an_event_are_labelled_only_where_they_are_named() -> None:
    codes = pl.Series([ADMIT, HOME, DEATH, HYPERTENSION])
    chosen, skipped = choose(LabelsConfig(), codes)
    assert not [name for name in (*chosen, *skipped) if TASKS[name].timed]
    named, _ = choose(LabelsConfig(tasks=("time_to_death", "mortality_1y")), codes)
    assert named == ["mortality_1y", "time_to_death"]
