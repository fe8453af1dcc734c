import gc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehr_tokenize.config import NumericConfig, TokenizeConfig, VocabularyConfig
from ehr_tokenize.fit.passes import Observed, merged, observe
from ehr_tokenize.meds.events import Events
from ehr_tokenize.scheme.bins import Bins, Histogram, edges

values = st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), max_size=60)


def histogram(numbers):
    array = np.array(numbers, np.float32)
    return Histogram.of(np.zeros(len(array), np.uint32), array)


@given(values)
def test_a_histogram_counts_what_a_dictionary_counts(numbers):
    expected = {}
    for x in numbers:
        if np.isfinite(x):
            expected[x + 0.0] = expected.get(x + 0.0, 0) + 1
    found = histogram(numbers)
    pairs = dict(zip(found.values().tolist(), found.count.tolist(), strict=True))
    assert pairs == expected
    assert list(found.values()) == sorted(expected)


@given(values, values)
def test_histograms_of_parts_add_up(a, b):
    whole = histogram([*a, *b])
    merged = Histogram.merge([histogram(a), histogram(b)])
    assert np.array_equal(whole.key, merged.key)
    assert np.array_equal(whole.count, merged.count)


def test_many_parts_are_merged_on_the_way_and_add_up_to_the_whole():
    config = TokenizeConfig(vocabulary=VocabularyConfig(min_subjects=2))
    rng = np.random.default_rng(0)
    code = rng.integers(0, 20, 4000).astype(np.uint32)
    value = rng.integers(0, 30, 4000).astype(np.float32)

    def part(start, stop):
        n = stop - start
        return observe(
            Events(np.arange(start, stop), np.arange(n + 1), np.zeros(n, np.int64),
                   code[start:stop], value[start:stop]), config)  # fmt: skip

    held = []

    def parts():
        for start in range(0, 4000, 40):
            yield part(start, start + 40)
            held.append(sum(type(x) is Observed for x in gc.get_objects()))

    whole = part(0, 4000)
    gc.freeze()  # what is there already is not looked through each time
    try:
        found = merged(parts())
    finally:
        gc.unfreeze()
    assert np.array_equal(found.histogram.key, whole.histogram.key)
    assert np.array_equal(found.histogram.count, whole.histogram.count)
    assert np.array_equal(found.events, whole.events)
    pairs = [sorted(map(tuple, x.carrier.T.tolist())) for x in (found, whole)]
    assert pairs[0] == pairs[1]
    assert 1 < max(held) < len(held) / 2


@given(values, st.integers(1, 12))
def test_every_bin_holds_a_train_value_and_a_linear_scan_agrees(numbers, n_bins):
    config = NumericConfig(n_bins=n_bins, min_values=2)
    found = histogram(numbers)
    inner = edges(found.values(), found.count, config)
    assert len(inner) < n_bins
    assert (np.diff(inner) > 0).all()
    array = np.array(numbers, np.float32)
    slot = Bins.of([inner]).slot(np.zeros(len(array), np.uint32), array)
    scan = [
        0 if np.isnan(x) or not len(inner) else 1 + sum(bool(e <= x) for e in inner) for x in array
    ]
    assert slot.tolist() == scan
    if len(inner):
        assert set(range(1, len(inner) + 2)) <= set(slot[np.isfinite(array)].tolist())


def test_distinct_values_split_into_equal_bins():
    found = histogram(range(100))
    inner = edges(found.values(), found.count, NumericConfig(n_bins=10))
    assert inner.tolist() == list(range(10, 100, 10))


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([7.0] * 50, []),  # a constant has nothing to tell
        ([0.0] * 90 + [1.0] * 10, [1.0]),  # ties collapse, no bin is empty
        ([0.0] * 10, []),  # fewer than min_values
        ([np.inf] * 50 + [1.0], []),  # infinities take no part in the fit
    ],
)
def test_edges_of_awkward_codes(numbers, expected):
    found = histogram(numbers)
    assert edges(found.values(), found.count, NumericConfig()).tolist() == expected


def test_zero_is_a_value_and_infinities_go_to_the_outer_bins():
    bins = Bins.of([np.array([-1, 0, 1], np.float32)])
    value = np.array([-np.inf, -1, -0.0, 0.0, 1, np.inf, np.nan], np.float32)
    assert bins.slot(np.zeros(7, np.uint32), value).tolist() == [1, 2, 3, 3, 4, 4, 0]


def test_codes_do_not_share_bins():
    bins = Bins.of([np.array([5], np.float32), np.zeros(0, np.float32), np.array([1], np.float32)])
    code = np.array([0, 0, 1, 2, 2], np.uint32)
    value = np.array([4, 6, 6, 0, 6], np.float32)
    assert bins.slots.tolist() == [0, 3, 4, 7]
    assert bins.slot(code, value).tolist() == [1, 2, 3, 5, 6]
