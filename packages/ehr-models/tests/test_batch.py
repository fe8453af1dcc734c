import numpy as np
import pytest
import torch

from ehr_models.data.batch import Batch, pack
from ehr_models.data.tokens import STATIC, Tokens
from ehr_models.data.windows import Windows, newest
from ehr_tracking.contracts import CLS_ID


@pytest.fixture
def two():
    """Two subjects: a [CLS], a static token and three events; and two events alone."""
    return Tokens(
        subject_id=np.array([10, 11]),
        offsets=np.array([0, 5, 7]),
        prefix=np.array([2, 0], np.uint32),
        token=np.array([CLS_ID, 20, 21, 22, 23, 30, 31], np.uint16),
        time=np.array([STATIC, STATIC, -7, 1_600_000_000_000_001, 2, 7, 8]),
        age=np.array([0, 1, 2, 3, 4, 5, 6], np.float32),
        visit=np.array([0, 0, 1, 1, 2, 1, 1], np.uint16),
        segment=np.array([0, 0, 0, 0, 1, 0, 0], np.uint8),
    )


def window(*rows):
    """From (first, prefix, start, stop)."""
    return Windows(np.arange(len(rows)), *np.array(rows, np.int64).T)


def test_pack_lays_spans_end_to_end(two):
    batch = pack(two, window((5, 0, 5, 7), (0, 2, 3, 5)))
    assert batch.input_ids.tolist() == [30, 31, CLS_ID, 20, 22, 23]
    assert batch.position_ids.tolist() == [0, 1, 0, 1, 2, 3]
    assert batch.time.tolist() == [7, 8, STATIC, STATIC, 1_600_000_000_000_001, 2]
    assert batch.time.dtype == torch.int64
    assert batch.age.tolist() == [5, 6, 0, 1, 3, 4]
    assert batch.visit.tolist() == [1, 1, 0, 0, 1, 2]
    assert batch.segment.tolist() == [0, 0, 0, 0, 0, 1]
    assert batch.index.tolist() == [5, 6, 0, 1, 3, 4]
    assert batch.span.tolist() == [0, 0, 1, 1, 1, 1]
    assert batch.cu_seqlens.tolist() == [0, 2, 6]
    assert batch.cu_seqlens.dtype == torch.int32
    assert batch.max_length == 4


def test_a_packed_batch_holds_each_window_as_if_it_were_alone(records):
    windows = newest(records, np.arange(7), np.diff(records.offsets), 12)
    together = pack(records, windows)
    for i in range(7):
        alone = pack(records, windows.take(slice(i, i + 1)))
        mine = together.span == i
        for name in ("input_ids", "position_ids", "age", "time", "visit", "segment", "index"):
            assert torch.equal(getattr(together, name)[mine], getattr(alone, name)), name


def test_an_empty_span_is_refused(two):
    with pytest.raises(ValueError, match="at least one token"):
        pack(two, window((0, 0, 0, 4), (0, 0, 4, 4)))
    with pytest.raises(ValueError, match="at least one span"):
        pack(two, window((0, 0, 0, 4)).take(slice(0)))


def test_to_moves_every_tensor_and_keeps_the_rest(two):
    batch = pack(two, window((0, 0, 0, 4)))
    more = {"extra": {"value": torch.ones(4)}, "subject": {"sex": torch.ones(1)}}
    moved = Batch(**{n: getattr(batch, n) for n in Batch.__slots__} | more).to("meta")
    assert moved.input_ids.device.type == moved.cu_seqlens.device.type == "meta"
    assert moved.extra["value"].device.type == moved.subject["sex"].device.type == "meta"
    assert moved.max_length == 4
