from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehr_models.batch import newest
from ehr_models.tokens import BOS, Tokens
from ehr_train.data.sampler import Position, Sampler, fill, packs, share, whole_records, window_at


def records(lengths, first_token=BOS) -> Tokens:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    token = np.full(offsets[-1], 9, np.uint16)
    token[offsets[:-1][np.array(lengths) > 0]] = first_token
    n = int(offsets[-1])
    return Tokens(
        subject_id=np.arange(len(lengths)) * 7 + 100,
        offsets=offsets,
        token=token,
        time=np.zeros(n, np.int64),
        age=np.zeros(n, np.float32),
        visit=np.zeros(n, np.uint16),
        segment=np.zeros(n, np.uint8),
    )


def sampler(lengths, **changes) -> Sampler:
    options = {"context": 16, "window": "random", "batch_tokens": 64, "seed": 3} | changes
    return Sampler(whole_records(records(lengths)), **options)


def epochs(s: Sampler, n: int) -> list[list]:
    """The windows of the first n epochs."""
    found: list[list] = [[] for _ in range(n)]
    for position, windows in islice(s.steps(Position()), s.steps_of(n)):
        found[position.epoch] += windows
    return found


LENGTHS = [1, 40, 5, 16, 17, 3, 90, 2, 30, 8, 8, 8, 200, 12]


def test_each_subject_comes_once_an_epoch_and_in_another_order_each_time():
    orders = [[w.example for w in windows] for windows in epochs(sampler(LENGTHS), 4)]
    for order in orders:
        assert sorted(order) == list(range(len(LENGTHS)))
    assert len({tuple(order) for order in orders}) == 4
    again = [[w.example for w in windows] for windows in epochs(sampler(LENGTHS), 4)]
    assert again == orders
    other_seed = [[w.example for w in windows] for windows in epochs(sampler(LENGTHS, seed=4), 1)]
    assert other_seed[0] != orders[0]


def test_empty_records_are_left_out():
    assert sampler([0, 3, 0, 2]).examples.subject.tolist() == [1, 3]


def test_no_step_exceeds_the_budget_and_none_could_take_the_next_window():
    s = sampler(LENGTHS)
    steps = [windows for _, windows in islice(s.steps(Position()), s.steps_of(1))]
    sizes = [sum(w.span.length for w in windows) for windows in steps]
    assert max(sizes) <= 64
    for size, following in zip(sizes, steps[1:], strict=False):
        assert size + following[0].span.length > 64


def test_long_records_show_another_window_in_another_epoch():
    spans = [{w.example: w.span for w in windows} for windows in epochs(sampler(LENGTHS), 6)]
    assert len({e[12] for e in spans}) > 3
    assert {e[2] for e in spans} == {newest(records(LENGTHS), 2, 5, 16)}


def test_newest_windows_are_what_evaluation_sees():
    for window in epochs(sampler(LENGTHS, window="newest"), 1)[0]:
        assert window.span == newest(records(LENGTHS), window.example, LENGTHS[window.example], 16)


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=40),
    seed=st.integers(0, 2**62),
    world=st.integers(1, 5),
)
def test_windows_stay_in_their_record_and_processes_share_them_out(lengths, seed, world):
    s = sampler(lengths, seed=seed)
    offsets = s.examples.tokens.offsets
    for _, windows in islice(s.steps(Position()), s.steps_of(1)):
        for window in windows:
            first, end = offsets[window.example], offsets[window.example + 1]
            assert first <= window.span.start < window.span.stop <= end or window.span.length == 1
            assert window.span.length == min(16, end - first)
        shares = [share(windows, rank, world) for rank in range(world)]
        assert sorted(w for part in shares for w in part) == sorted(windows)
        loads = [sum(w.span.length for w in part) for part in shares]
        assert max(loads) - min(loads) <= 16
        for part in shares:
            assert [w for group in packs(part, 32) for w in group] == part
            assert all(sum(w.span.length for w in group) <= 32 for group in packs(part, 32))


@given(done=st.integers(0, 40))
def test_a_position_is_all_that_resuming_needs(done):
    s = sampler(LENGTHS)
    run = list(islice(s.steps(Position()), 45))
    position = run[done - 1][0] if done else Position()
    assert list(islice(s.steps(position), 45 - done)) == run[done:]


@pytest.mark.parametrize("first_token", [BOS, 9])
def test_windows_run_from_the_oldest_to_the_newest(first_token):
    tokens = records([50], first_token)
    assert window_at(tokens, 0, 0, 16) == (0, 16, -1)
    assert window_at(tokens, 0, 34, 16) == newest(tokens, 0, 50, 16)
    assert {window_at(tokens, 0, o, 16).length for o in range(35)} == {16}


def test_one_window_larger_than_the_budget_is_a_run_of_its_own():
    assert fill(np.array([9, 1, 1]), 4) == [0, 1, 3]
