"""Stays by id: visits that lie in a stay are part of it, by every route, and nothing later tells it."""

from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehr_tokenize.build.build import tokenize
from ehr_tokenize.build.inspection import inspect
from ehr_tokenize.config import CehrScheme, TokenizeConfig, VisitsConfig, VisitsScheme
from ehr_tokenize.meds.columns import id_numbers
from ehr_tokenize.scheme.stays import lasting, pair
from ehr_tokenize.tokenizer.tokenizer import Tokenizer
from ehr_tracking.arrow.parquet import DAY_US

FIRST = datetime(2020, 1, 1)  # noqa: DTZ001 -- MEDS times have no zone
IN, OUT, OPEN, CLOSE, LAB = (
    "HOSPITAL_ADMISSION//ER",
    "HOSPITAL_DISCHARGE//HOME",
    "VISIT_START//OP",
    "VISIT_END//OP",
    "LAB",
)
HELD = [  # an admission that holds an outpatient visit and a silence of two days, then another visit
    (0.0, LAB, None), (1.0, IN, 1), (1.2, LAB, None), (1.5, OPEN, 2), (1.6, LAB, 2), (1.7, CLOSE, 2),
    (2.0, LAB, 1), (4.5, LAB, None), (6.5, OUT, 1), (6.6, LAB, None), (6.7, OPEN, 3), (6.8, CLOSE, 3),
]  # fmt: skip
INSIDE = [1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3]
BY_ORDER = [1, 2, 2, 3, 3, 3, 3, 4, 5, 5, 6, 6]


def frame(rows, *, column="visit_id", dtype=pl.Int64, subject=1):
    ids = pl.Series(column, [None if i is None else i for _, _, i in rows]).cast(dtype)
    return pl.DataFrame(
        {
            "subject_id": pl.Series([subject] * len(rows), dtype=pl.Int64),
            "time": pl.Series([FIRST + timedelta(days=d) for d, _, _ in rows], dtype=pl.Datetime("us")),
            "code": [code for _, code, _ in rows],
            "numeric_value": pl.Series([None] * len(rows), dtype=pl.Float32),
        }
    ).with_columns(ids)  # fmt: skip


def made(tmp_path, frames, scheme=None, **visits):
    """Tokens of a data set with a file each."""
    data = tmp_path / "meds" / "data"
    data.mkdir(parents=True)
    for i, found in enumerate(frames):
        found.write_parquet(data / f"{i}.parquet")
    subjects = [s for f in frames for s in f["subject_id"].unique()]
    (tmp_path / "meds" / "metadata").mkdir()
    pl.DataFrame({"subject_id": subjects, "split": ["train"] * len(subjects)}).write_parquet(
        tmp_path / "meds" / "metadata" / "subject_splits.parquet"
    )
    config = TokenizeConfig(scheme=scheme or VisitsScheme(), visits=VisitsConfig(**visits))
    return tokenize(tmp_path / "meds", tmp_path / "tokens", config)


def rows_of(tmp_path):
    return pq.read_table(tmp_path / "tokens" / "train" / "00000.parquet").to_pylist()


def of_events(row):
    """Visit of each event: what is neither [CLS] nor [SEP]."""
    return [v for v, t in zip(row["visit"], row["token"], strict=True) if t not in (2, 3)]


@pytest.mark.parametrize("dtype", [pl.Int64, pl.Float64, pl.String, pl.Categorical])
@pytest.mark.parametrize("column", ["hadm_id", "visit_occurrence_id"])
def test_what_lies_in_a_stay_is_part_of_it_whatever_the_type_of_ids(tmp_path, column, dtype):
    ids = frame(HELD, column=column, dtype=pl.String if dtype == pl.Categorical else dtype)
    done = made(tmp_path, [ids.with_columns(pl.col(column).cast(dtype))])
    (row,) = rows_of(tmp_path)
    assert of_events(row) == INSIDE
    assert row["token"].count(3) == 2
    assert not any("other side" in line for line in done.lines())


def test_without_ids_each_start_and_each_silence_begins_a_visit(tmp_path):
    made(tmp_path, [frame(HELD).drop("visit_id")])
    assert of_events(rows_of(tmp_path)[0]) == BY_ORDER


def test_ids_of_one_file_alone_and_columns_that_hold_none(tmp_path):
    named, bare = frame(HELD), frame(HELD, subject=2).drop("visit_id")
    empty = frame(HELD, subject=3).with_columns(visit_id=pl.lit(None, pl.Int64))
    made(tmp_path, [named, bare, empty])
    assert [of_events(r) for r in rows_of(tmp_path)] == [INSIDE, BY_ORDER, BY_ORDER]


def test_what_has_no_other_side_is_counted_and_said(tmp_path):
    lost = [r for r in HELD if r[1] != OUT] + [(7.0, CLOSE, 9)]
    done = made(tmp_path, [frame(lost)])
    assert "starts or ends of stays whose id has no other side: 2" in done.lines()
    shown = {r["family"]: r["stays without the other side"] for r in inspect(done.out).families}
    assert {f: n for f, n in shown.items() if n} == {"HOSPITAL_ADMISSION": 1, "VISIT_END": 1}
    # the admission may last: 90 days long what begins in it is part of it, and then no more
    assert set(of_events(rows_of(tmp_path)[0])[1:]) == {2}


def test_a_stay_that_never_ends_holds_visits_for_some_days(tmp_path):
    made(tmp_path, [frame([(0, IN, 1), (5, OPEN, 2), (20, OPEN, 3)])], most_days=10)
    assert of_events(rows_of(tmp_path)[0]) == [1, 1, 2]


def test_an_end_that_is_excluded_ends_a_stay_all_the_same(tmp_path):
    config = TokenizeConfig(scheme=VisitsScheme())
    vocabulary = replace(config.vocabulary, exclude=("^HOSPITAL_DISCHARGE",))
    made(tmp_path, [frame(HELD)])
    done = tokenize(
        tmp_path / "meds",
        tmp_path / "tokens",
        replace(config, vocabulary=vocabulary),
        overwrite=True,
    )
    assert done.splits[0].excluded == 1
    # the silence before 6.6 is over after the stay, and begins a visit
    assert of_events(rows_of(tmp_path)[0]) == [1, 2, 2, 2, 2, 2, 2, 2, 3, 4, 4]


@pytest.mark.parametrize("scheme", [VisitsScheme(), CehrScheme()])
def test_events_in_memory_are_told_as_those_on_disk(tmp_path, scheme):
    made(tmp_path, [frame(HELD)], scheme)
    tokenizer = Tokenizer.from_pretrained(tmp_path / "tokens")
    dicts = [{"time": FIRST + timedelta(days=d), "code": c, "visit_id": i} for d, c, i in HELD]
    texts = [
        {**e, "visit_id": None if e["visit_id"] is None else f"v{e['visit_id']}"} for e in dicts
    ]
    (row,) = rows_of(tmp_path)
    for given_ in (frame(HELD), frame(HELD).to_arrow(), dicts, texts):
        found = tokenizer(given_)
        assert found.ids == [row["token"]]
        assert found.flat.visit.tolist() == row["visit"]
    assert tokenizer([(e["time"], e["code"]) for e in dicts]).ids != [row["token"]]  # no ids there


marks = st.lists(
    st.tuples(st.integers(0, 9), st.sampled_from([IN, OUT, OPEN, CLOSE, LAB]), st.integers(0, 3)),
    min_size=1, max_size=20,
)  # fmt: skip


def tokens_of(rows):
    rows = sorted(rows, key=lambda r: r[0])
    tokens = TOKENIZER(frame([(d, c, i or None) for d, c, i in rows])).flat
    return tokens.token.tolist(), tokens.visit.tolist(), tokens.time


@pytest.fixture(scope="module", autouse=True)
def _fitted(tmp_path_factory):
    global TOKENIZER  # noqa: PLW0603 -- hypothesis gives fixtures to no test of many examples
    root = tmp_path_factory.mktemp("fitted")
    made(root, [frame(HELD)], VisitsScheme())
    TOKENIZER = Tokenizer.from_pretrained(root / "tokens")


@given(marks, st.integers(0, 9))
def test_truncating_a_record_changes_nothing_before_the_cut(rows, day):
    token, visit, time = tokens_of(rows)
    kept = [r for r in rows if r[0] <= day]
    if kept:
        n = int((time <= time[0]).sum() if day < 0 else len(tokens_of(kept)[0]))
        assert tokens_of(kept)[0] == token[:n]
        assert tokens_of(kept)[1] == visit[:n]


@given(marks, st.randoms(use_true_random=False))
def test_no_order_of_rows_at_one_time_moves_a_visit(rows, random):
    other = rows.copy()
    random.shuffle(other)

    def at(found):
        _, visit, time = tokens_of(found)
        return {
            t: visit[i] for i, t in enumerate(time.tolist())
        }  # behind the last row of each time

    assert at(rows) == at(other)


@given(marks)
def test_a_stay_lasts_where_a_loop_over_times_says_so(rows):
    rows = sorted(rows, key=lambda r: r[0])
    time = np.array([d * DAY_US for d, _, _ in rows])
    ids = np.array([i for _, _, i in rows])
    starts, ends = (np.array([c in s for _, c, _ in rows]) for s in ((IN, OPEN), (OUT, CLOSE)))
    subject = np.zeros(len(rows), np.int64)
    stays, unpaired = pair(subject, time, ids, (starts, ends), 4)
    within, until = lasting(stays, subject, time)
    spans = {}
    for i in {i for i in ids.tolist() if i}:
        begun = [t for t, s, j in zip(time, starts, ids, strict=True) if s and j == i]
        over = [
            t
            for t, e, j in zip(time, ends, ids, strict=True)
            if e and j == i and begun and t >= min(begun)
        ]
        if begun:
            spans[i] = (min(begun), min([*over, min(begun) + 4 * DAY_US]))
    assert within.tolist() == [any(a < t < b for a, b in spans.values()) for t in time]
    assert until.tolist() == [any(a < t <= b for a, b in spans.values()) for t in time]
    assert all(a <= b for a, b in pairwise(sorted(stays.start)))
    assert len(unpaired) <= len(rows)


def test_ids_of_two_columns_are_two_ids_and_floats_are_whole_numbers():
    record = pa.record_batch(
        {
            "hadm_id": pa.array([1, None, None, 2.0, 1.5]),
            "visit_id": pa.array([None, 1, None, 7, 1]),
        }
    )
    found = id_numbers(record, ["hadm_id", "visit_id"])
    assert found[2] == 0
    assert found[4] == found[1]
    assert len(set(found.tolist())) == 4
    assert id_numbers(pa.record_batch({"hadm_id": pa.nulls(2)}), ["hadm_id"]) is None
