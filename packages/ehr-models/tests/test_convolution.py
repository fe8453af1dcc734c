"""Long convolutions beside the sum that defines them."""

from itertools import pairwise

import pytest
import torch

from ehr_models.heads.token import hidden_states
from ehr_models.layers.convolution import Spans, causal_convolution


def direct(x, filters):
    """[L, C] in float64, token by token."""
    return torch.stack([sum(x[s] * filters[:, t - s] for s in range(t + 1)) for t in range(len(x))])


@pytest.fixture
def positions():
    """Of two rows of subjects of 1 to 140 tokens, and padding of one token each."""
    lengths = [[1, 32, 33, 140, 2], [64, 100, 5, 1, 1, 37]]
    return torch.stack([torch.cat([torch.arange(n) for n in row]) for row in lengths])


def test_each_sequence_is_convolved_as_its_sum_says(positions):
    torch.manual_seed(0)
    x = torch.randn(2, 208, 3, requires_grad=True)
    filters = torch.randn(3, 256, requires_grad=True)
    spans = Spans(positions)
    assert spans.longest == 256
    out = spans.convolve(x, filters)
    wide, kernel = x.double(), filters.double()
    begins = [[*(row == 0).nonzero()[:, 0].tolist(), 208] for row in positions]
    expected = torch.stack(
        [
            torch.cat([direct(wide[b, i:j], kernel) for i, j in pairwise(at)])
            for b, at in enumerate(begins)
        ]
    )
    torch.testing.assert_close(out.double(), expected, atol=2e-5, rtol=0)
    weight = torch.randn_like(expected)
    got = torch.autograd.grad((out * weight).sum(), (x, filters))
    wanted = torch.autograd.grad((expected * weight).sum(), (x, filters))
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b.to(a.dtype), atol=2e-4, rtol=0)


@pytest.mark.parametrize("cut", [1, 31, 32, 700, 1023])
def test_a_later_token_moves_not_one_bit(cut):
    """Which one Fourier transform over all would not hold to."""
    torch.manual_seed(0)
    x, filters = torch.randn(2, 2, 1024), torch.randn(2, 1024)
    other = x.clone()
    other[..., cut:] = 100 * torch.randn(2, 2, 1024 - cut)
    a, b = causal_convolution(x, filters), causal_convolution(other, filters)
    assert torch.equal(a[..., :cut], b[..., :cut])
    assert not torch.equal(a[..., cut:], b[..., cut:])


def test_filters_reach_as_far_as_a_record_may_be_long(make_model):
    """A token a thousand places back moves a state, and more than a rounding would."""
    model = make_model("hyena")
    ids = torch.randint(7, 90, (1, 1100), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first = model.base_model(ids).last_hidden_state
        ids[0, 40] = 7 + (ids[0, 40] - 6) % 80
        moved = (model.base_model(ids).last_hidden_state - first).abs().amax(-1)[0]
    assert not moved[:40].any()
    assert moved[1040:].max() > 1e-4


def test_positions_are_counted_by_the_mask_where_none_are_given(make_model, batch, padded):
    model = make_model("hyena")
    with torch.no_grad():
        states = hidden_states(model, batch)
        for side in ("left", "right"):
            inputs = padded(model, batch, side)
            del inputs["position_ids"]
            found = model.base_model(**inputs).last_hidden_state
            assert (found[inputs["attention_mask"].bool()] - states).abs().max() < 1e-5
