import numpy as np
import pytest

from ehr_models.data.store import open_split
from ehr_models.data.tokens import open_tokens
from ehr_train.data.examples import whole_records
from ehr_train.validation import measured


@pytest.fixture(scope="module")
def examples(tokens):
    return whole_records(open_split(open_tokens(tokens), "train"))


def subjects(found):
    return found.tokens.subject_id[found.subject].tolist()


def test_a_cap_takes_whole_subjects_up_to_it_drawn_by_seed_and_subject(examples):
    found = measured(examples, 32, 500, seed=3)
    size = np.minimum(found.visible, 32).sum()
    assert 500 - 32 < size <= 500
    assert subjects(found) == sorted(subjects(found))
    assert subjects(measured(examples, 32, 500, seed=3)) == subjects(found)
    assert subjects(measured(examples, 32, 500, seed=4)) != subjects(found)
    # a larger cap adds subjects, and in another order the same are drawn
    assert set(subjects(found)) < set(subjects(measured(examples, 32, 900, seed=3)))
    turned = examples.take(np.arange(len(examples))[::-1])
    assert set(subjects(measured(turned, 32, 500, seed=3))) == set(subjects(found))


def test_without_a_cap_all_are_measured_and_with_a_tiny_one_still_one_is(examples):
    assert measured(examples, 32, None, 0) is examples
    assert len(measured(examples, 32, 10**9, 0)) == len(examples)
    assert len(measured(examples, 32, 1, 0)) == 1
