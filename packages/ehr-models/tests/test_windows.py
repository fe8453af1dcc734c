from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehr_models.data.batch import pack
from ehr_models.data.tokens import STATIC, Tokens, leading
from ehr_models.data.windows import every_chunk, newest, whole_visits, window_at
from ehr_tracking.contracts import BOS_ID


def split_of(lengths, statics) -> Tokens:
    """Records of [BOS], static tokens, then events whose id is their place."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    token, time = (10 + np.arange(offsets[-1])).astype(np.uint32), np.arange(offsets[-1])
    for first, stop, n in zip(offsets, offsets[1:], statics, strict=False):
        token[first : min(first + 1, stop)] = BOS_ID
        time[first : min(first + n, stop)] = STATIC
    prefix = leading(offsets, token, time)
    zeros = np.zeros(len(token))
    return Tokens(np.arange(len(lengths)), offsets, prefix, token, time, zeros, zeros, zeros)


def seen(tokens, window):
    return pack(tokens, window).index.tolist()


@pytest.mark.parametrize(
    ("visible", "context", "expected"),
    [
        (20, 20, list(range(20))),
        (20, 9, [0, 1, 2, 14, 15, 16, 17, 18, 19]),
        (12, 9, [0, 1, 2, 6, 7, 8, 9, 10, 11]),
        (20, 4, [0, 1, 18, 19]),
        (20, 1, [19]),
        (2, 9, [0, 1]),
        (1, 1, [0]),
    ],
)
def test_newest_keeps_the_prefix_and_the_latest(visible, context, expected):
    assert seen(split_of([20], [3]), newest(split_of([20], [3]), 0, visible, context)) == expected


def test_a_record_without_a_prefix_is_cut_to_the_newest():
    tokens = split_of([8], [0])
    tokens.prefix[0] = 0
    assert seen(tokens, newest(tokens, 0, 8, 3)) == [5, 6, 7]


def test_windows_run_from_the_oldest_to_the_newest():
    tokens = split_of([50], [4])
    assert seen(tokens, window_at(tokens, 0, 50, 0, 16)) == list(range(16))
    assert seen(tokens, window_at(tokens, 0, 50, 1, 16)) == [0, 1, 2, 3, *range(5, 17)]
    last = seen(tokens, window_at(tokens, 0, 50, 34, 16))
    assert last == seen(tokens, newest(tokens, 0, 50, 16))


@given(
    lengths=st.lists(st.integers(1, 80), min_size=1, max_size=20),
    statics=st.integers(1, 12),
    context=st.integers(1, 40),
    data=st.data(),
)
def test_every_window_holds_its_prefix_then_a_stretch_of_what_is_visible(
    lengths, statics, context, data
):
    tokens = split_of(lengths, [statics] * len(lengths))
    visible = np.array([data.draw(st.integers(1, n)) for n in lengths])
    offset = np.array([data.draw(st.integers(0, max(v - context, 0))) for v in visible])
    for windows in (
        newest(tokens, np.arange(len(lengths)), visible, context),
        window_at(tokens, np.arange(len(lengths)), visible, offset, context),
    ):
        assert windows.length.tolist() == np.minimum(visible, context).tolist()
        for i in range(len(windows)):
            index = np.array(seen(tokens, windows.take(slice(i, i + 1)))) - tokens.offsets[i]
            assert (np.diff(index) > 0).all()
            assert index[-1] < visible[i]
            kept = min(statics, lengths[i], len(index), max(context // 2, 1))
            if windows.start[i] > windows.first[i]:
                kept = min(statics, context // 2)
            assert index[:kept].tolist() == list(range(kept))
            assert (np.diff(index) > 1).sum() <= 1  # one gap at most
            assert windows.prefix[i] in (0, kept)


def with_visits(lengths, statics, visit) -> Tokens:
    return replace(split_of(lengths, statics), visit=np.asarray(visit, np.uint16))


@pytest.mark.parametrize(
    ("visible", "context", "expected"),
    [
        (12, 12, [list(range(12))]),
        (12, 9, [[0, 1, 7, 8, 9, 10, 11], list(range(7))]),  # the visit at 4 does not fit whole
        (12, 7, [[0, 1, 7, 8, 9, 10, 11], list(range(7))]),
        (12, 6, [[0, 1, 8, 9, 10, 11], [0, 1, 4, 5, 6, 7], [0, 1, 2, 3]]),  # one is cut within
        (9, 7, [[0, 1, 4, 5, 6, 7, 8], [0, 1, 2, 3]]),
        (5, 7, [[0, 1, 2, 3, 4]]),
    ],
)
def test_whole_visits_by_hand(visible, context, expected):
    tokens = with_visits([12], [2], [0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3])
    windows = whole_visits(tokens, 0, visible, context)
    found = [seen(tokens, windows.take(slice(i, i + 1))) for i in range(len(windows))]
    assert found == expected
    assert windows.example.tolist() == [0] * len(expected)


@given(
    records=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=12), min_size=1, max_size=6),
    statics=st.integers(1, 6),
    context=st.integers(2, 30),
)
def test_whole_visits_show_all_once_and_cut_no_visit_that_fits(records, statics, context):
    lengths = [statics + sum(visits) for visits in records]
    visit = [np.repeat(np.arange(len(v) + 1), [statics, *v]) for v in records]
    tokens = with_visits(lengths, [statics] * len(records), np.concatenate(visit))
    windows = whole_visits(tokens, np.arange(len(records)), lengths, context, example=[*lengths])
    assert windows.length.max() <= context
    prefix = min(statics, context // 2)
    for i, n in enumerate(lengths):
        mine = windows.take(windows.first == tokens.offsets[i])
        assert set(mine.example) == {n}
        start, stop = mine.start - tokens.offsets[i], mine.stop - tokens.offsets[i]
        assert stop[0] == n
        assert start[-1] == 0
        assert (start[:-1] == stop[1:]).all()  # newest first, and nothing twice or never
        assert (mine.prefix == np.where(start > 0, prefix, 0)).all()
        for cut, end in zip(start[:-1], stop[:-1], strict=True):
            whole = visit[i][cut] != visit[i][cut - 1]
            assert whole or visit[i][cut] == visit[i][end - 1]  # else one visit fills the window
            before = np.flatnonzero(visit[i] == visit[i][cut - 1])
            assert prefix + end - before[0] > context  # the next would not have fitted


@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=6),
    statics=st.integers(1, 12),
    context=st.integers(2, 30),
)
def test_chunks_show_all_and_make_one_target_of_every_token(lengths, statics, context):
    """Each begins with the last token of the one before, so that the first new one has what comes before it."""
    tokens = split_of(lengths, [statics] * len(lengths))
    windows = every_chunk(tokens, np.arange(len(lengths)), lengths, context, example=lengths)
    assert windows.length.max() <= context
    asked = []
    for i in range(len(windows)):
        batch = pack(tokens, windows.take(slice(i, i + 1)))
        index = batch.index.numpy()
        fresh = index[windows.take(slice(i, i + 1)).asks_of(index, batch.span.numpy())]
        asked += fresh.tolist()
        assert len(fresh)
        first, start = windows.first[i], windows.start[i]
        if start > first:
            kept = min(statics, context // 2, context - 2)
            assert index[:kept].tolist() == list(range(first, first + kept))
            assert index[kept:][:2].tolist() == [start, fresh[0]] == [start, start + 1]
    assert asked == list(range(sum(lengths)))


def test_windows_carry_the_callers_numbers():
    tokens = split_of([5, 6, 7], [1, 1, 1])
    windows = newest(tokens, [2, 0], [7, 5], 4, example=[40, 50])
    assert windows.example.tolist() == [40, 50]
    assert windows.take(np.array([1])).example.tolist() == [50]
    assert newest(tokens, [2, 0], [7, 5], 4).example.tolist() == [0, 1]
