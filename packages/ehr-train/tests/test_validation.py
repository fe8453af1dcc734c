import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehr_train.objectives.classification import auroc


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=40))
def test_auroc_is_the_share_of_pairs_in_order(rows):
    positive = np.array([p for p, _ in rows])
    score = np.array([s for _, s in rows], float)
    pairs = [(a > b) + (a == b) / 2 for a in score[positive] for b in score[~positive]]
    found = auroc(positive, score)
    assert found is None if not pairs else found == pytest.approx(np.mean(pairs))
