import threading
import time

import numpy as np
import pytest

from ehr_models.data.windows import Windows
from ehr_train.data.loader import Ahead, Share
from ehr_train.data.sampler import Position


def loaders():
    return [t for t in threading.enumerate() if t.name == "loader"]


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_items_come_whole_in_order_and_the_thread_ends(depth):
    with Ahead(iter(range(50)), depth) as ready:
        assert list(ready) == list(range(50))
        assert list(ready) == []
    assert not loaders()


def test_no_more_items_are_made_than_may_wait():
    made = []

    def items():
        for i in range(100):
            made.append(i)
            yield i

    with Ahead(items(), 2) as ready:
        next(ready)
        deadline = time.monotonic() + 10
        while len(made) < 3 and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.05)
        assert made == [0, 1, 2]
    assert not loaders()


@pytest.mark.parametrize("depth", [0, 2])
def test_what_the_thread_raises_is_raised_where_the_item_is_asked_for(depth):
    def items():
        yield 1
        raise ValueError("row 7 is broken")

    with Ahead(items(), depth) as ready:
        assert next(ready) == 1
        for _ in range(2 if depth else 1):
            with pytest.raises(ValueError, match="row 7 is broken"):
                next(ready)
    assert not loaders()


def test_an_error_of_the_user_of_the_items_ends_the_thread():
    with pytest.raises(KeyError), Ahead(iter(range(1000)), 2) as ready:
        raise KeyError(next(ready))
    assert not loaders()


def test_what_is_waited_for_is_measured():
    def items():
        yield 1
        time.sleep(0.05)
        yield 2

    with Ahead(items(), 1) as ready:
        next(ready)
        next(ready)
        assert 0.02 < ready.waited < 5


def test_all_processes_together_get_the_windows_of_the_step_and_those_without_do_not_count():
    lengths = np.array([5, 9, 3])
    zeros = np.zeros(3, np.int64)
    windows = Windows(np.arange(3), zeros, zeros, zeros, lengths)

    def ask(windows, epoch, *, counted):
        return windows.example.tolist(), epoch, counted

    found = []
    for rank in range(4):
        share = Share(rank=rank, world=4, micro_tokens=16, c=0.0)
        (step,) = share.prepare(iter([(Position(2, 7), windows)]), ask)
        assert (step.position, step.tokens) == (Position(2, 7), 17)
        found += step.passes
    assert sorted(found) == [([0], 2, False), ([0], 2, True), ([1], 2, True), ([2], 2, True)]
