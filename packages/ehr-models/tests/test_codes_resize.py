"""Six ways from one width to another."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from ehr_models.codes.resize import METHODS, choose, resize
from ehr_tracking.errors import UserError

VECTORS = (np.random.default_rng(0).normal(-1, 3, (60, 20)) * np.arange(1, 21)).astype(np.float32)


@pytest.mark.parametrize(
    ("target", "method"),
    [
        (32, "pca"), (102, "pca"), (103, "truncate"), (127, "truncate"), (128, None),
        (129, "learned_projection"), (153, "learned_projection"), (154, "pad_smart"), (768, "pad_smart"),
    ],
)  # fmt: skip
def test_what_auto_is_for_clinvec(target, method):
    assert choose(128, target) == method


@pytest.mark.parametrize("target", [3, 19, 20])
def test_pca_is_that_of_scikit_learn_up_to_sign(target):
    """Fitted on all, centred, applied to some."""
    ours = resize(VECTORS[5:30], target, "pca", fit_on=VECTORS)
    theirs = PCA(target).fit(VECTORS.astype(np.float64)).transform(VECTORS[5:30])
    sign = np.sign((ours * theirs).sum(0))
    assert np.allclose(ours, theirs * sign, atol=1e-3)


def test_truncate_keeps_the_first_numbers():
    assert np.array_equal(resize(VECTORS, 7, "truncate"), VECTORS[:, :7])


def test_pad_smart_is_one_linear_rule_for_all_vectors():
    padded = resize(VECTORS, 50, "pad_smart", seed=3)
    assert np.array_equal(padded[:, :20], VECTORS)
    rule, *_ = np.linalg.lstsq(VECTORS, padded[:, 20:], rcond=None)
    assert np.allclose(VECTORS @ rule, padded[:, 20:], rtol=1e-3, atol=1e-2)
    assert np.allclose(resize(VECTORS[4:9], 50, "pad_smart", seed=3), padded[4:9], rtol=1e-5)
    assert not np.allclose(resize(VECTORS, 50, "pad_smart", seed=4), padded)
    sizes = [np.square(part).mean() ** 0.5 for part in (padded[:, :20], padded[:, 20:])]
    assert 0.5 < sizes[1] / sizes[0] < 2


def test_pad_random_is_noise_of_the_vectors_deviation():
    wide = resize(VECTORS, 220, "pad_random", seed=1)
    assert np.array_equal(wide[:, :20], VECTORS)
    assert wide[:, 20:].std() == pytest.approx(VECTORS.std(), rel=0.05)
    assert abs(np.corrcoef(wide[0, 20:], wide[1, 20:])[0, 1]) < 0.25


def test_a_learned_projection_leaves_the_vectors_to_the_model():
    assert np.array_equal(resize(VECTORS, 23, "learned_projection"), VECTORS)
    assert np.array_equal(resize(VECTORS, 23, "auto"), VECTORS)
    assert np.array_equal(resize(VECTORS, 20, "auto"), VECTORS)


@pytest.mark.parametrize(
    ("method", "target", "message"),
    [
        ("truncate", 21, "truncate cannot expand vectors of 20 to 21"),
        ("pca", 21, "pca cannot expand"),
        ("pad_smart", 19, "pad_smart cannot compress vectors of 20 to 19"),
        ("pad_random", 19, "pad_random cannot compress"),
    ],
)
def test_what_a_method_cannot_do_is_refused(method, target, message):
    with pytest.raises(UserError, match=message):
        resize(VECTORS, target, method)
    with pytest.raises(UserError, match="no 5 components in 4 vectors"):
        resize(VECTORS[:4], 5, "pca")
    assert method in METHODS
