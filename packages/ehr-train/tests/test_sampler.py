from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehr_models.data.tokens import Tokens
from ehr_models.data.windows import Windows, every_chunk, fill, newest, whole_visits
from ehr_tracking.contracts import BOS_ID
from ehr_train.data.examples import whole_records
from ehr_train.data.loader import Share
from ehr_train.data.sampler import Position, Sampler


def records(lengths, first_token=BOS_ID) -> Tokens:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    token = np.full(offsets[-1], 9, np.uint16)
    token[offsets[:-1][np.array(lengths) > 0]] = first_token
    n = int(offsets[-1])
    return Tokens(
        subject_id=np.arange(len(lengths)) * 7 + 100,
        offsets=offsets,
        prefix=np.full(len(lengths), 1 if first_token == BOS_ID else 0, np.uint32),
        token=token,
        time=np.zeros(n, np.int64),
        age=np.zeros(n, np.float32),
        visit=np.zeros(n, np.uint16),
        segment=np.zeros(n, np.uint8),
    )


def sampler(lengths, **changes) -> Sampler:
    options = {"context": 16, "window": "random", "batch": 64, "seed": 3} | changes
    return Sampler(whole_records(records(lengths)), **options)


def rows(windows: Windows) -> list[tuple]:
    """(example, first, prefix, start, stop) of each."""
    names = ("example", "first", "prefix", "start", "stop")
    return list(zip(*(getattr(windows, n).tolist() for n in names), strict=True))


def epochs(s: Sampler, n: int) -> list[list]:
    """The windows of the first n epochs."""
    return [[row for windows in s.epoch(epoch) for row in rows(windows)] for epoch in range(n)]


LENGTHS = [1, 40, 5, 16, 17, 3, 90, 2, 30, 8, 8, 8, 200, 12]


def test_each_subject_comes_once_an_epoch_and_in_another_order_each_time():
    orders = [[w[0] for w in windows] for windows in epochs(sampler(LENGTHS), 4)]
    for order in orders:
        assert sorted(order) == list(range(len(LENGTHS)))
    assert len({tuple(order) for order in orders}) == 4
    again = [[w[0] for w in windows] for windows in epochs(sampler(LENGTHS), 4)]
    assert again == orders
    other_seed = [[w[0] for w in windows] for windows in epochs(sampler(LENGTHS, seed=4), 1)]
    assert other_seed[0] != orders[0]


def test_empty_records_are_left_out():
    assert sampler([0, 3, 0, 2]).examples.subject.tolist() == [1, 3]


def test_long_records_show_another_window_in_another_epoch():
    shown = [{w[0]: w for w in windows} for windows in epochs(sampler(LENGTHS), 6)]
    assert len({e[12] for e in shown}) > 3
    assert {e[2] for e in shown} == set(rows(newest(records(LENGTHS), 2, 5, 16, [2])))


def test_newest_windows_are_what_evaluation_sees():
    every = np.arange(len(LENGTHS))
    shown = epochs(sampler(LENGTHS, window="newest"), 1)[0]
    assert sorted(shown) == rows(newest(records(LENGTHS), every, LENGTHS, 16))


@pytest.mark.parametrize(("window", "made"), [("visits", whole_visits), ("all", every_chunk)])
def test_windows_that_show_all_of_a_record_come_once_an_epoch_each_and_resume(window, made):
    """A long record has several; the epoch is a permutation of all."""
    s = sampler(LENGTHS, window=window)
    every = np.arange(len(LENGTHS))
    expected = rows(made(records(LENGTHS), every, LENGTHS, 16, every))
    assert len(expected) > len(LENGTHS)
    first, second = epochs(s, 2)
    assert sorted(first) == sorted(second) == sorted(expected)
    assert first != second
    assert max(windows.length.sum() for windows in s.epoch(0)) <= 64
    assert sum(windows.length.sum() for windows in s.epoch(0)) == s.tokens


def test_an_exact_loader_gives_every_step_so_many_windows_and_the_last_the_rest():
    s = sampler(LENGTHS, loader="exact", batch=4)
    steps = list(islice(s.steps(Position()), 2 * s.steps_an_epoch))
    assert [len(w) for _, w in steps] == [4, 4, 4, 2] * 2
    assert sorted(e for _, w in steps[:4] for e in w.example.tolist()) == [*range(len(LENGTHS))]


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=40),
    seed=st.integers(0, 2**62),
)
def test_windows_stay_in_their_record_and_fill_the_context(lengths, seed):
    s = sampler(lengths, seed=seed)
    offsets = s.examples.tokens.offsets
    for windows in s.epoch(0):
        for example, first, prefix, start, stop in rows(windows):
            end = offsets[example + 1]
            assert offsets[example] == first <= start < stop <= end
            assert prefix + stop - start == min(16, end - first)


@st.composite
def orders(draw):
    """Few windows or many blocks of them, of any loader and kind."""
    lengths = draw(st.lists(st.integers(1, 60), min_size=1, max_size=60))
    return sampler(
        lengths,
        seed=draw(st.integers(0, 2**62)),
        window=draw(st.sampled_from(["random", "newest", "visits", "all"])),
        loader=draw(st.sampled_from(["tokens", "exact"])),
        batch=draw(st.sampled_from([16, 50, 3000])),
        smallest=draw(st.sampled_from([1, 7, 2**16])),
    )


@given(s=orders())
def test_an_epoch_has_each_window_once_in_as_many_steps_as_any_other_within_the_budget(s):
    for epoch in range(3):
        steps = list(s.epoch(epoch))
        assert len(steps) == s.steps_an_epoch
        size = [len(w) if s.loader == "exact" else w.length.sum() for w in steps]
        assert 1 <= min(size) <= max(size) <= s.batch
        found = [row for w in steps for row in rows(w)]
        assert len(found) == len(set(found)) == len(s)
        assert {row[0] for row in found} == {*range(len(s.examples))}
        assert sum(w.length.sum() for w in steps) == s.tokens


@given(s=orders(), data=st.data())
def test_a_position_is_all_that_resuming_needs_on_any_number_of_processes(s, data):
    """Taken up anywhere by 1, 2 or 4 processes, all steps have the windows that they had without a stop."""
    run = [(p, rows(w)) for p, w in islice(s.steps(Position()), 2 * s.steps_an_epoch + 2)]
    done = data.draw(st.integers(0, len(run) - 1))
    position = run[done - 1][0] if done else Position()
    for world in (1, 2, 4):
        found: list[list] = [[] for _ in run[done:]]
        for rank in range(world):
            share = Share(rank=rank, world=world, micro_tokens=64, c=0.01)
            prepared = islice(share.prepare(s.steps(position), counted_rows), len(run) - done)
            for number, step in enumerate(prepared):
                assert step.position == run[done + number][0]
                found[number] += [row for part in step.passes for row in part]
        assert [sorted(step) for step in found] == [sorted(step) for _, step in run[done:]]


def counted_rows(windows, epoch, *, counted):
    return rows(windows) if counted else []


def test_blocks_come_in_another_order_each_time_and_their_windows_go_with_others():
    s = sampler([3] * 600, smallest=6, batch=30)
    assert s.blocks > 10
    blocks, companions = [], []
    for epoch in (0, 1):
        members: list[set] = [set() for _ in range(s.blocks)]
        for position, windows in islice(s.steps(Position(epoch)), s.steps_an_epoch):
            examples = {*windows.example.tolist()}
            members[position.block] |= examples
            companions += [examples] if 0 in examples else []
        blocks.append([frozenset(m) for m in members])
    assert blocks[0] != blocks[1]
    assert {*blocks[0]} == {*blocks[1]}
    assert companions[0] != companions[1]


def test_one_window_larger_than_the_budget_is_a_run_of_its_own():
    assert fill(np.array([9, 1, 1]), 4) == [0, 1, 3]
