import numpy as np
import pytest
import torch

from ehr_models.batch import DAY_US, ORIGIN_US, Span, newest, pack
from ehr_models.tokens import CLS, STATIC, Tokens


@pytest.fixture
def two():
    """Two subjects: three tokens behind a [CLS], and two without."""
    return Tokens(
        subject_id=np.array([10, 11]),
        offsets=np.array([0, 4, 6]),
        token=np.array([CLS, 20, 21, 22, 30, 31], np.uint16),
        time=np.array([STATIC, *(ORIGIN_US + DAY_US * np.array([-1.5, 0, 2, 7, 8])).astype(int)]),
        age=np.array([0, 1, 2, 3, 4, 5], np.float32),
        visit=np.array([0, 1, 1, 2, 1, 1], np.uint16),
        segment=np.array([0, 0, 0, 1, 0, 0], np.uint8),
    )


def test_pack_lays_spans_end_to_end(two):
    batch = pack(two, [Span(4, 6), Span(2, 4, pinned=0)])
    assert batch.input_ids.tolist() == [30, 31, CLS, 21, 22]
    assert batch.position_ids.tolist() == [0, 1, 0, 1, 2]
    assert batch.time.tolist() == [7, 8, 0, 0, 2]
    assert batch.age.tolist() == [4, 5, 0, 2, 3]
    assert batch.visit.tolist() == [1, 1, 0, 1, 2]
    assert batch.segment.tolist() == [0, 0, 0, 0, 1]
    assert batch.cu_seqlens.tolist() == [0, 2, 5]
    assert batch.cu_seqlens.dtype == torch.int32
    assert batch.max_length == 3


@pytest.mark.parametrize(
    ("visible", "context", "expected"),
    [
        (4, 4, Span(0, 4)),
        (4, 3, Span(2, 4, 0)),
        (4, 1, Span(4, 4, 0)),
        (2, 4, Span(0, 2)),
        (1, 1, Span(0, 1)),
    ],
)
def test_newest_keeps_the_first_token_and_the_latest(two, visible, context, expected):
    span = newest(two, 0, visible, context)
    assert span == expected
    assert span.length == min(visible, context)


def test_newest_pins_nothing_where_the_record_has_no_opening_token(two):
    assert newest(two, 1, 2, 1) == Span(5, 6)


def test_an_empty_span_is_refused(two):
    with pytest.raises(ValueError, match="at least one token"):
        pack(two, [Span(0, 4), Span(4, 4)])
    with pytest.raises(ValueError, match="at least one span"):
        pack(two, [])


def test_to_moves_every_tensor_and_keeps_the_rest(two):
    batch = pack(two, [Span(0, 4)]).to("meta")
    assert batch.input_ids.device.type == batch.cu_seqlens.device.type == "meta"
    assert batch.max_length == 4
