"""Stays from their starts and ends: against plain loops, and cases worked by hand."""

from datetime import datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_eval.tasks.config import LabelsConfig
from ehr_eval.tasks.course import read_course
from ehr_eval.tasks.registry import TASKS, choose
from ehr_eval.tasks.stays import CONTINUES, NO_END, NO_START, REVERSED, join_touching, pair

START = datetime(2020, 1, 1)  # noqa: DTZ001 -- MEDS times have no zone
ADMIT, HOME, DIED = "HOSPITAL_ADMISSION//ER", "HOSPITAL_DISCHARGE//HOME", "HOSPITAL_DISCHARGE//DIED"
VISIT, LEAVE, DEATH = "VISIT_START//OP", "VISIT_END//OP", "MEDS_DEATH"
POTASSIUM, SEEN = "LAB//LOINC//2823-3//mmol/L", "LAST//SEEN"
MINUTE = 1 / 1440
SCHEMA = {
    "subject_id": pl.Int64,
    "time": pl.Datetime("us"),
    "code": pl.String,
    "numeric_value": pl.Float32,
}


def day(n):
    return START + timedelta(days=n)


def days(time):
    return None if time is None else (time - START) / timedelta(days=1)


def events(rows, **ids):
    """(day, code) or (day, code, value), with columns of ids."""
    table = [(1, day(r[0]), r[1], r[2] if len(r) > 2 else None) for r in rows]
    frame = pl.DataFrame(table, schema=SCHEMA, orient="row")
    return frame.with_columns(pl.Series(k, v, dtype=pl.String) for k, v in ids.items())


def stays(table, **settings):
    """Of the hospital: start, end in days and whether death ended it; and what is none, by reason."""
    found = read_course(table, LabelsConfig(**settings)).stays
    rows = [(days(s), days(e), d) for s, e, d in found.filter(pl.col("fault").is_null())
            .select("start", "end", "died").iter_rows()]  # fmt: skip
    return rows, sorted(found["fault"].drop_nulls())


def made(task, table, **settings):
    config = LabelsConfig(**settings)
    found = TASKS[task].labeler(read_course(table, config), config)
    kept = found.filter(pl.col("left_out").is_null()).sort("prediction_time")
    labels = {days(t): v for _, t, v in kept.select("subject_id", "prediction_time", "boolean_value")
              .iter_rows()}  # fmt: skip
    return labels, sorted(found["left_out"].drop_nulls())


CROSSING = [(0, ADMIT), (4, ADMIT), (5, HOME), (24, DIED), (24, DEATH)]


@pytest.mark.parametrize("column", ["hadm_id", "visit_id", "visit_occurrence_id"])
def test_crossing_stays_are_told_apart_by_their_ids(column) -> None:
    table = events(CROSSING, **{column: ["51", "52", "51", "52", None]})
    assert stays(table) == ([(0, 5, False), (4, 24, True)], [])
    assert made("in_hospital_mortality", table) == ({1: False, 5: True}, [])
    assert made("long_stay", table) == ({1: False, 5: True}, [])
    reason = ["another stay runs on", "ended in death"]
    assert made("readmission_30d", table) == ({}, reason)


def test_crossing_stays_without_ids_are_paired_by_order_and_the_rest_is_said() -> None:
    table = events(CROSSING)
    assert stays(table) == ([(4, 5, False)], [NO_END, NO_START])
    assert made("long_stay", table)[1] == [NO_END, NO_START, "over by the prediction time"]


def test_a_stay_that_holds_a_visit_keeps_its_own_end() -> None:
    rows = [(0, ADMIT), (3, VISIT), (3.2, LEAVE), (9, HOME), (50, VISIT), (50.1, POTASSIUM, 6.0)]
    rows += [(50.2, LEAVE)]
    ids = ["a", "b", "b", "a", "c", None, "c"]
    labels, left = made("abnormal_lab_next_visit", events(rows, visit_id=ids))
    assert labels == {3.2: True, 9: True}
    assert left == ["no visit follows"]


def test_ids_of_two_columns_never_meet_and_the_first_filled_one_counts() -> None:
    rows = [(0, ADMIT), (2, ADMIT), (3, HOME), (8, HOME)]
    table = events(rows, hadm_id=["1", None, None, "1"], visit_id=["7", "1", "1", "8"])
    assert stays(table) == ([(0, 8, False), (2, 3, False)], [])
    assert stays(table, visit_ids=[])[0] == [(2, 3, False)]


def test_an_empty_id_is_none() -> None:
    rows = [(0, ADMIT), (3, HOME), (9, ADMIT), (11, HOME)]
    assert stays(events(rows, hadm_id=[""] * 4)) == ([(0, 3, False), (9, 11, False)], [])


@pytest.mark.parametrize(
    ("rows", "ids", "expected"),
    [
        ([(0, ADMIT), (5, HOME)], ["a", None], ([(0, 5, False)], [])),
        ([(0, ADMIT), (5, HOME)], [None, "a"], ([(0, 5, False)], [])),
        ([(0, ADMIT), (5, HOME)], ["a", "b"], ([], [NO_END, NO_START])),
        ([(0, ADMIT), (2, ADMIT), (3, HOME), (5, HOME)], [None, "a", "a", None],
         ([(2, 3, False)], [NO_END, NO_START])),
        ([(0, ADMIT), (0, ADMIT), (5, HOME)], ["a", None, "a"], ([(0, 5, False)], [])),
        ([(3, HOME), (9, ADMIT)], ["a", "a"], ([], [REVERSED])),
        ([(0, ADMIT), (1, ADMIT), (4, HOME), (5, DIED)], ["a"] * 4, ([(0, 5, True)], [])),
    ],
)  # fmt: skip
def test_what_has_an_id_on_one_side_or_twice(rows, ids, expected) -> None:
    assert stays(events(rows, hadm_id=ids)) == expected


def test_a_stay_of_one_day_is_kept_where_only_days_are_known() -> None:
    rows = [(9, ADMIT), (9, HOME), (19, ADMIT), (23, HOME), (900, SEEN)]
    assert stays(events(rows)) == ([(9, 9, False), (19, 23, False)], [])
    assert made("readmission_30d", events(rows)) == ({9: True, 23: False}, [])
    assert made("long_stay", events(rows)) == ({20: False}, ["over by the prediction time"])
    # an end and a start at once while a stay is open are a transfer
    assert stays(events([(0, ADMIT), (9, HOME), (9, ADMIT), (12, HOME)])) == (
        [(0, 12, False)],
        [CONTINUES],
    )


@pytest.mark.parametrize("gap", [0, 1 * MINUTE, 60 * MINUTE])
def test_stays_that_touch_are_one_for_all_tasks(gap) -> None:
    rows = [(0, ADMIT), (3, HOME), (3 + gap, ADMIT), (9, HOME), (900, SEEN)]
    assert stays(events(rows)) == ([(0, 9, False)], [CONTINUES])
    assert made("readmission_30d", events(rows)) == ({9: False}, [CONTINUES])
    assert made("mortality_1y", events(rows)) == ({9: False}, [CONTINUES])
    assert made("long_stay", events(rows)) == ({1: True}, [CONTINUES])
    longer = [(0, ADMIT), (3, HOME), (3 + 61 * MINUTE, ADMIT), (9, HOME), (900, SEEN)]
    assert made("readmission_30d", events(longer))[0] == {3: True, 9: False}
    assert made("readmission_30d", events(longer), transfer_hours=6)[0] == {9: False}


def test_a_stay_that_goes_on_without_a_known_end_has_none_and_the_dead_are_not_transferred() -> (
    None
):
    rows = [(0, ADMIT), (3, HOME), (3, ADMIT), (900, SEEN)]
    assert stays(events(rows)) == ([], [CONTINUES, NO_END])
    donor = [(0, ADMIT), (3, DIED), (3 + MINUTE, ADMIT), (5, HOME)]
    assert stays(events(donor))[0] == [(0, 3, True), (3 + MINUTE, 5, False)]


def test_death_in_the_stay_is_told_by_the_record_of_death_where_no_discharge_does() -> None:
    start, end = "^VISIT_START//IP", "^VISIT_END//IP"
    settings = {"admission": start, "discharge": end}
    codes = pl.Series(["VISIT_START//IP", "VISIT_END//IP", DEATH])
    config = LabelsConfig(tasks=("in_hospital_mortality",), **settings)
    assert choose(config, codes)[0] == ["in_hospital_mortality"]
    rows = [(0, codes[0]), (5, DEATH), (5, codes[1])]
    assert made("in_hospital_mortality", events(rows), **settings)[0] == {1: True}
    rows[1] = (5 + MINUTE, DEATH)
    assert made("in_hospital_mortality", events(rows), **settings)[0] == {1: False}
    none = choose(LabelsConfig(**settings), pl.Series(codes[:2]))[1]["in_hospital_mortality"]
    assert "no code matches died" in none
    assert "no code matches death" in none


TIED = st.lists(
    st.tuples(
        st.integers(0, 6),
        st.sampled_from([ADMIT, HOME, DIED, DEATH, VISIT, LEAVE, POTASSIUM, "DIAGNOSIS//ICD10CM//I10"]),
        st.sampled_from([4.0, 5.0, 5.5, 6.0]),
        st.sampled_from([None, "a", "b"]),
    ),
    min_size=1,
    max_size=14,
)  # fmt: skip


@given(TIED, st.randoms())
@settings(max_examples=25)  # of all tasks, twice
def test_no_order_of_rows_changes_what_any_task_makes_or_leaves_out(rows, random) -> None:
    mixed = random.sample(rows, len(rows))
    one, other = (events([r[:3] for r in x], hadm_id=[r[3] for r in x]) for x in (rows, mixed))
    for task in TASKS:
        assert made(task, one, censored="negative") == made(task, other, censored="negative")


def test_of_two_values_at_one_time_the_highest_counts() -> None:
    rows = [
        (0, VISIT),
        (1, LEAVE),
        (2, VISIT),
        (2, POTASSIUM, 6.0),
        (2, POTASSIUM, 4.0),
        (3, LEAVE),
    ]
    for table in (rows, rows[::-1]):
        assert made("abnormal_lab_next_visit", events(table))[0] == {1: True}


def marks(rows):
    """(subject, day, opens, closes, died)."""
    schema = {"subject_id": pl.Int64, "time": pl.Datetime("us"), "id": pl.String}
    schema |= dict.fromkeys(("opens", "closes", "died"), pl.Boolean)
    return pl.DataFrame([(s, day(d), None, *flags) for s, d, *flags in rows], schema, orient="row")


def slow_pairs(rows):
    found = []
    for subject in {r[0] for r in rows}:
        opened = None
        for time in sorted({r[1] for r in rows if r[0] == subject}):
            here = [r for r in rows if r[:2] == (subject, time)]
            opens, closes = any(r[2] for r in here), any(r[3] for r in here)
            died = any(r[3] and r[4] for r in here)
            if closes and opened is not None:
                found.append((subject, opened, time, died))
                opened = None
            elif closes and opens:
                found.append((subject, time, time, died))
                continue
            elif closes:
                found.append((subject, None, time, died))
            if opens:
                if opened is not None:
                    found.append((subject, opened, None, False))
                opened = time
        if opened is not None:
            found.append((subject, opened, None, False))
    return found


MARKS = st.lists(
    st.tuples(st.integers(1, 2), st.integers(0, 7), *[st.booleans()] * 3).filter(
        lambda r: r[2] or r[3]
    ),
    min_size=1,
    max_size=16,
)


@given(MARKS)
def test_pairs_by_order_are_those_of_a_loop_over_times(rows) -> None:
    found = [(s, days(a), days(b), d) for s, a, b, d in pair(marks(rows)).iter_rows()]
    assert sorted(found, key=str) == sorted(slow_pairs(rows), key=str)


SPANS = st.lists(
    st.tuples(
        st.integers(1, 2),
        st.integers(0, 12),
        st.one_of(st.none(), st.integers(0, 6)),
        st.booleans(),
    ),
    min_size=1,
    max_size=12,
)


@given(SPANS, st.integers(0, 2))
def test_touching_stays_are_joined_as_by_a_loop(spans, gap) -> None:
    rows = sorted(
        ((s, a, None if n is None else a + n, d and n is not None) for s, a, n, d in spans),
        key=lambda r: (r[0], r[1], r[2] is None, r[2] or 0, r[3]),
    )
    first = list(range(len(rows)))
    for i, (subject, start, _, _) in enumerate(rows):
        earlier = [j for j in range(i) if rows[j][0] == subject and rows[j][2] is not None]
        if earlier:
            last = max(earlier, key=lambda j: (rows[j][2], j))
            if not rows[last][3] and 0 <= start - rows[last][2] <= gap:
                first[i] = first[last]
    expected = []
    for i in set(first):
        parts = [r for r, f in zip(rows, first, strict=True) if f == i]
        ends = [r[2] for r in parts]
        end = None if None in ends else max(ends)
        expected.append((parts[0][0], parts[0][1], end, any(r[3] for r in parts)))
    schema = {"subject_id": pl.Int64, "start": pl.Datetime("us"), "end": pl.Datetime("us"),
              "died": pl.Boolean}  # fmt: skip
    table = [(s, day(a), None if b is None else day(b), d) for s, a, b, d in rows]
    found = join_touching(pl.DataFrame(table, schema, orient="row"), hours=24 * gap)
    whole = found.filter(pl.col("fault").ne_missing(CONTINUES)).drop("fault")
    assert sorted(
        ((s, days(a), days(b), d) for s, a, b, d in whole.iter_rows()), key=str
    ) == sorted(expected, key=str)
    assert found.height == len(rows)
