import itertools

import numpy as np
import pytest

from ehr_eval.config import EhrshotConfig
from ehr_eval.fewshot import sample, shots
from ehr_tracking.config import ConfigError, load_config

KS = EhrshotConfig().ks


def label(positives, negatives, seed=0):
    values = np.array([True] * positives + [False] * negatives)
    return np.random.default_rng(seed).permutation(values)


def test_hand_checked_draw():
    # RandomState(0) permutes three items as 2, 1, 0; seeded anew for each class
    y = np.array([False, True, False, True, False, True])
    assert sample(y, 2, replicate=0, max_k=3).tolist() == [4, 2, 5, 3]


def test_draw_is_the_legacy_generators_choice_per_class():
    y = label(200, 300)
    for replicate in range(3):
        expected = []
        for value in (False, True):
            np.random.seed(replicate)  # noqa: NPY002 -- the protocol as written
            rows = np.flatnonzero(y == value)
            expected += np.random.choice(rows, size=128, replace=False)[:16].tolist()  # noqa: NPY002
        assert sample(y, 16, replicate=replicate).tolist() == expected


def test_shots_are_nested():
    y = label(150, 90)
    for replicate in range(5):
        per_class = [sample(y, k, replicate=replicate).reshape(2, k) for k in KS if k > 0]
        for small, large in itertools.pairwise(per_class):
            np.testing.assert_array_equal(small, large[:, : small.shape[1]])


def test_each_class_gives_k_rows_without_repeats_where_there_are_enough():
    y = label(130, 400)
    rows = sample(y, 128, replicate=3)
    assert y[rows].tolist() == [False] * 128 + [True] * 128
    assert len(set(rows.tolist())) == 256


def test_short_class_is_used_up_before_it_is_drawn_again():
    y = label(5, 400)
    positives = sample(y, 64, replicate=1)[64:]
    assert sorted(positives[:5].tolist()) == np.flatnonzero(y).tolist()
    assert set(positives.tolist()) == set(np.flatnonzero(y).tolist())
    assert len(positives) == 64


def test_replicates_differ():
    y = label(300, 300)
    assert sample(y, 8, replicate=0).tolist() != sample(y, 8, replicate=1).tolist()


def test_all_rows_once_and_training_rows_shuffled_with_the_replicate():
    y = label(20, 30)
    drawn = shots(y, y, -1, replicate=2)
    assert sorted(drawn.train.tolist()) == list(range(50))
    expected = np.arange(50)
    np.random.RandomState(2).shuffle(expected)
    assert drawn.train.tolist() == expected.tolist()
    assert drawn.tuning.tolist() == list(range(50))


@pytest.mark.parametrize("ks", ["[0]", "[129]", "[-2]", "[4, 4]"])
def test_impossible_ks_are_refused(ks):
    with pytest.raises(ConfigError, match="ks holds"):
        load_config(EhrshotConfig, None, [f"ks={ks}"])
