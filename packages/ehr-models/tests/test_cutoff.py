import numpy as np

from ehr_models.data.cutoff import visible_tokens
from ehr_models.data.tokens import STATIC, Tokens


def test_cutoff_equals_searchsorted_in_each_subject():
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 30, 50)
    time = np.concatenate([np.sort(rng.integers(0, 20, n)) for n in lengths]).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    for first in offsets[:-1][lengths > 0]:
        time[first] = STATIC
    zeros = np.zeros(len(time))
    tokens = Tokens(np.arange(50), offsets, zeros, zeros, time, zeros, zeros, zeros)
    subject, at = rng.integers(0, 50, 500), rng.integers(-1, 22, 500)
    expected = [
        np.searchsorted(time[offsets[s] : offsets[s + 1]], t, side="right")
        for s, t in zip(subject, at, strict=True)
    ]
    assert visible_tokens(tokens, subject, at).tolist() == expected
