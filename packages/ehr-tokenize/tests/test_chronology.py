from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ehr_tokenize.config import (
    CehrScheme,
    ClmbrScheme,
    CookbookScheme,
    JointScheme,
    NumericConfig,
    TimelineScheme,
    TokenizeConfig,
    VisitsScheme,
)
from ehr_tokenize.fit.passes import fit
from ehr_tokenize.meds.events import Events
from ehr_tokenize.scheme.chronology import ages, visits
from ehr_tokenize.scheme.weave import sequences
from ehr_tokenize.scheme.words import Fitted
from ehr_tokenize.tokenizer.tokenizer import Tokenizer
from ehr_tokenize.tokenizer.vocabulary import Token
from ehr_tracking.arrow.meds import STATIC
from ehr_tracking.arrow.parquet import DAY_US
from ehr_tracking.contracts import SPECIALS

BIRTH, START, LAB = range(3)
CODES = ["MEDS_BIRTH", "ADMISSION", "LAB"]


def events(*subjects):
    """Each subject: [(day or None, code), ...]."""
    rows = [row for subject in subjects for row in subject]
    return Events(
        subject_id=np.arange(len(subjects)),
        offsets=np.cumsum([0, *map(len, subjects)]),
        time=np.array([STATIC if d is None else round(d * DAY_US) for d, _ in rows], np.int64),
        code=np.array([c for _, c in rows], np.uint32),
        value=np.full(len(rows), np.nan, np.float32),
    )


def run(e, gap_days=1.0):
    birth, start = e.code == BIRTH, e.code == START
    ordinal, begins = visits(e, birth, start, gap_days)
    return ages(e, birth), ordinal, begins


def test_a_hand_worked_record():
    one = [(None, LAB), (0, BIRTH), (100, LAB), (100, START), (100.5, LAB), (101, START),
           (103, LAB), (103, START), (103, START)]  # fmt: skip
    two = [(50, LAB), (50.5, LAB), (60, LAB)]  # no birth, no start code
    age, ordinal, begins = run(events(one, two))
    assert age.tolist() == [0, 0, 100, 100, 100.5, 101, 103, 103, 103, 0, 0.5, 10]
    assert ordinal.tolist() == [0, 0, 1, 1, 1, 2, 3, 3, 3, 1, 1, 2]
    assert np.flatnonzero(begins).tolist() == [2, 5, 6, 9, 11]


def test_without_a_gap_rule_only_start_codes_begin_later_visits():
    _, ordinal, _ = run(events([(0, LAB), (900, LAB), (901, START)]), gap_days=None)
    assert ordinal.tolist() == [1, 1, 2]


def test_events_before_a_recorded_birth_count_from_the_first():
    age, _, _ = run(events([(10, LAB), (12, LAB), (20, BIRTH), (25, LAB), (30, BIRTH)]))
    assert age.tolist() == [0, 2, 0, 5, 10]


def test_ordinals_stop_at_the_largest_that_fits():
    e = events([(i, START) for i in range(70_000)])
    _, ordinal, _ = run(e)
    assert ordinal[-1] == 65_535
    assert ordinal[65_533] == 65_534


def lay_out(e, scheme):
    """With rows 7, 8 and 9 of the vocabulary for the three codes."""
    tokens = [*(Token(t, "special") for t in SPECIALS), *(Token(c, "code", c) for c in CODES)]
    tokenizer = Tokenizer(TokenizeConfig(scheme=scheme), tokens, Fitted({}))
    return sequences(e, tokenizer.config, tokenizer.bind(CODES))


def test_both_layouts_of_a_hand_worked_record():
    e = events([(None, LAB), (0, BIRTH), (100, START), (200, START), (200, LAB)], [(5, LAB)])
    joint = lay_out(e, JointScheme())
    assert joint.token.tolist() == [5, 9, 7, 8, 8, 9, 5, 9]
    assert joint.offsets.tolist() == [0, 6, 8]
    assert joint.segment is None
    both = lay_out(e, VisitsScheme())
    days = np.where(both.time == STATIC, -1, both.time // DAY_US)
    assert both.token.tolist() == [2, 9, 7, 8, 3, 8, 9, 2, 9]
    assert days.tolist() == [-1, -1, 0, 100, 200, 200, 200, -1, 5]
    assert both.age.tolist() == [0, 0, 0, 100, 200, 200, 200, 0, 0]
    assert both.visit.tolist() == [0, 0, 0, 1, 1, 2, 2, 0, 1]
    assert both.segment.tolist() == [0, 0, 0, 0, 0, 1, 1, 0, 0]


record = st.lists(
    st.tuples(st.one_of(st.none(), st.integers(0, 6)), st.sampled_from([BIRTH, START, LAB])),
    min_size=1,
    max_size=25,
).map(lambda rows: sorted(rows, key=lambda r: -1 if r[0] is None else r[0]))
schemes = st.sampled_from(
    [
        JointScheme(),
        VisitsScheme(),
        ClmbrScheme(),
        CookbookScheme(),
        TimelineScheme(),
        CehrScheme(age=True),
    ]
)


@given(st.lists(record, min_size=1, max_size=3), st.randoms(use_true_random=False), schemes)
def test_in_canonical_order_no_order_of_rows_changes_a_token(subjects, random, scheme):
    config = TokenizeConfig(scheme=scheme, order="canonical")
    tokenizer, _ = fit([lambda: events(*subjects)], CODES, {}, config)
    when = [[-1 if d is None else d for d, _ in rows] for rows in subjects]
    other = []
    for rows, days in zip(subjects, when, strict=True):
        at = sorted(range(len(rows)), key=lambda i, days=days: (days[i], random.random()))
        other.append([rows[i] for i in at])
    one, two = (
        sequences(e, config, tokenizer.bind(CODES)) for e in (events(*subjects), events(*other))
    )
    for name in ("token", "time", "age", "visit"):
        assert getattr(one, name).tolist() == getattr(two, name).tolist()


def test_two_values_of_a_code_at_one_time_lie_as_their_rows_or_by_value():
    e = events([(0, LAB)] * 4)
    told = {}
    for order in ("rows", "canonical"):
        config = TokenizeConfig(order=order, numeric=NumericConfig(n_bins=2, min_values=2))
        both = [replace(e, value=np.float32(v)) for v in ([1, 9, 2, 8], [9, 2, 8, 1])]
        tokenizers = [fit([lambda e=e: e], CODES, {}, config)[0] for e in both]
        assert tokenizers[0].tokens == tokenizers[1].tokens  # what is fitted asks for no order
        told[order] = [sequences(e, config, tokenizers[0].bind(CODES)).token.tolist() for e in both]
    assert told["rows"][0] != told["rows"][1]
    assert told["canonical"][0] == told["canonical"][1]


@given(st.lists(record, min_size=1, max_size=4), st.integers(0, 6), schemes, st.booleans())
def test_truncating_a_record_changes_no_token_before_the_cut(subjects, day, scheme, delayed):
    config = TokenizeConfig(scheme=scheme, delay={"LAB": 1.5} if delayed else {})
    tokenizer, _ = fit([lambda: events(*subjects)], CODES, {}, config)

    def tokens(e):
        return sequences(e, tokenizer.config, tokenizer.bind(CODES))

    kept = [[r for r in s if r[0] is None or r[0] <= day] for s in subjects]
    kept_subjects = [i for i, s in enumerate(kept) if s]
    whole = tokens(events(*subjects))
    cut = tokens(events(*(kept[i] for i in kept_subjects)))
    for row, subject in enumerate(kept_subjects):
        a, b = whole.offsets[subject], whole.offsets[subject + 1]
        c, d = cut.offsets[row], cut.offsets[row + 1]
        seen = np.searchsorted(whole.time[a:b], day * DAY_US, side="right")
        known = np.searchsorted(cut.time[c:d], day * DAY_US, side="right")
        assert known == (d - c if not delayed else known)
        for name in (
            "token",
            "time",
            "age",
            "visit",
            *(["segment"] if whole.segment is not None else []),
        ):
            assert np.array_equal(
                getattr(whole, name)[a : a + seen], getattr(cut, name)[c : c + known]
            )


@given(st.lists(record, min_size=1, max_size=4), schemes)
def test_every_event_has_its_token_in_the_order_of_the_events(subjects, scheme):
    e = events(*subjects)
    tokenizer, _ = fit([lambda: e], CODES, {}, TokenizeConfig(scheme=scheme))
    made = sequences(e, tokenizer.config, tokenizer.bind(CODES))
    told = [tokenizer.tokens[i].code for i in made.token]
    event = np.array([code is not None for code in told])
    assert [code for code in told if code] == [CODES[i] for i in e.code]
    assert made.time[event].tolist() == e.time.tolist()
    assert (made.age >= 0).all()
    assert made.families.sum(axis=(0, 1)).tolist() == [len(e), 0, 0, 0, 0, 0, 0]
    for a, b in zip(made.offsets[:-1], made.offsets[1:], strict=True):
        assert tokenizer.tokens[made.token[a]].text == scheme.lead
        assert (made.time[a + 1 : b] >= made.time[a : b - 1]).all()
        assert (np.diff(made.visit[a:b].astype(int)) >= 0).all()
