import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehr_train.data.packing import best_fit, bundles_of_a_step, pack


def plain_best_fit(lengths, room):
    """What is left in each bin, window by window."""
    left: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [i for i, free in enumerate(left) if free >= length]
        if fitting:
            left[min(fitting, key=lambda i: left[i])] -= length
        else:
            left.append(room - length)
    return sorted(left)


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=80), room=st.integers(40, 90))
def test_windows_of_one_length_together_are_placed_as_one_by_one(lengths, room):
    found = best_fit(np.array(lengths), room)
    assert sorted(room - np.bincount(found, lengths)) == plain_best_fit(lengths, room)


def natural(rng, kind, n):
    """Lengths of windows of 512 tokens at most, as records have them."""
    return (
        {
            "short": np.exp(rng.normal(np.log(120), 1.2, n)),
            "long": np.exp(rng.normal(np.log(2000), 1.0, n)),
            "middling": rng.uniform(260, 420, n),  # no two fit a window, three fit hardly any room
            "alike": np.full(n, 300),
        }[kind]
        .astype(np.int64)
        .clip(3, 512)
    )


@pytest.mark.parametrize("kind", ["short", "long", "middling", "alike"])
def test_of_natural_lengths_every_step_but_the_last_is_full_and_holds_short_and_long_ones(kind):
    rng = np.random.default_rng(4)
    length = natural(rng, kind, 8_000)
    found = pack(length, 16_384, bundles_of_a_step(length, 16_384))
    assert found.steps <= len(plain_best_fit(length.tolist(), 16_384)) * (1 + 1 / 200)
    step = rng.permutation(found.bundles)[found.bundle] // found.each
    tokens = np.bincount(step, length)
    assert tokens.max() <= 16_384
    full = np.delete(tokens, np.argmin(tokens)) / 16_384
    assert full.mean() > (0.98 if kind == "alike" else 0.99)  # 54 of 300 tokens are 16,200
    if kind in ("short", "middling"):
        quarter, most = np.quantile(length, [0.25, 0.75])
        for members in (length[step == number] for number in range(found.steps - 1)):
            assert members.min() <= quarter < most <= members.max()


@given(lengths=st.lists(st.integers(1, 64), min_size=1, max_size=60), seed=st.integers(0, 99))
def test_how_many_steps_there_are_does_not_depend_on_the_order(lengths, seed):
    length = np.array(lengths)
    mixed = np.random.default_rng(seed).permutation(length)
    each = bundles_of_a_step(length, 64)
    assert bundles_of_a_step(mixed, 64) == each
    assert pack(mixed, 64, each).steps == pack(length, 64, each).steps


def test_a_window_above_the_budget_has_a_step_for_itself():
    assert pack(np.array([3, 20, 5]), 8, 4).bundle.tolist() == [1, 0, 1]
