import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehr_eval.features.passes import batches, plan
from ehr_models.data.batch import pack
from ehr_models.data.tokens import STATIC, Tokens


@st.composite
def requests(draw):
    """A split of some records, and rows of it: equal ones side by side."""
    length = draw(st.lists(st.integers(1, 20), min_size=1, max_size=6))
    prefix = [draw(st.integers(0, n)) for n in length]
    offsets = np.concatenate([[0], np.cumsum(length)])
    n = int(offsets[-1])
    time = np.arange(n)
    for first, head in zip(offsets, prefix, strict=False):
        time[first : first + head] = STATIC
    zeros = np.zeros(n, np.float32)
    tokens = Tokens(
        subject_id=np.arange(len(length)),
        offsets=offsets,
        prefix=np.array(prefix, np.uint32),
        token=np.arange(n, dtype=np.uint16),
        time=time,
        age=zeros,
        visit=zeros.astype(np.uint16),
        segment=zeros.astype(np.uint8),
    )
    rows = [
        (subject, visible)
        for subject, most in enumerate(length)
        for visible in draw(st.lists(st.integers(0, most), max_size=5))
    ]
    subject, visible = np.array(rows, np.int64).reshape(-1, 2).T
    return tokens, subject, visible


def seen(tokens, subject, visible, context):
    """What one row reads, token by token."""
    first = int(tokens.offsets[subject])
    record = list(range(first, first + visible))
    head = min(int(tokens.prefix[subject]), context // 2, visible) if visible > context else 0
    return record[:head] + record[head:][-(context - head) :]


@pytest.mark.parametrize("shared", [True, False])
@given(requests(), st.integers(2, 12), st.integers(1, 40))
def test_each_row_reads_its_prefix_and_the_newest_of_what_it_sees(shared, request, context, budget):
    tokens, subject, visible = request
    found = {}
    for batch in batches(plan(tokens, subject, visible, context=context, shared=shared), budget):
        index = pack(tokens, batch.windows).index.tolist()
        starts = np.cumsum([0, *batch.windows.length]).tolist()
        assert len(batch) == 1 or starts[-1] <= budget
        for row, window, end in zip(batch.rows, batch.window, batch.ends, strict=True):
            assert row not in found
            found[int(row)] = index[starts[window] :][:end]
    expected = {
        row: seen(tokens, s, v, context)
        for row, (s, v) in enumerate(zip(subject, visible, strict=True))
        if v
    }
    assert found == expected


@given(requests(), st.integers(2, 12))
def test_no_pass_reads_beyond_its_last_row(request, context):
    tokens, subject, visible = request
    for shared in (True, False):
        passes = plan(tokens, subject, visible, context=context, shared=shared)
        for window in range(len(passes)):
            rows = passes.rows[passes.window == window]
            stop = tokens.offsets[subject[rows[0]]] + visible[rows].max()
            assert passes.windows.stop[window] == stop
            assert shared or len(set(visible[rows])) == 1
        alone = {(s, v) for s, v in zip(subject, visible, strict=True) if v}
        assert shared or len(passes) == len(alone)
