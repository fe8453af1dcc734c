"""Gaps to the next token: bins, chances, and draws that follow them."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from ehr_models.forecasts.time import TimeHead, time_edges

MINUTE, YEAR = 60.0, 365.25 * 86_400


@pytest.fixture
def head():
    torch.manual_seed(0)
    made = TimeHead(SimpleNamespace(hidden_size=16, time_head={"edges": time_edges(12)}))
    made.reset(0.3)
    return made


@pytest.fixture
def logits(head):
    with torch.no_grad():
        return head(torch.randn(40, 16), torch.randn(40, 16)) * 3


def test_edges_are_log_spaced_from_a_minute_to_twenty_years():
    edges = time_edges(64)
    assert len(edges) == 64
    assert edges[:2] == [1.0, MINUTE]
    assert edges[-1] == 20 * YEAR
    steps = [b / a for a, b in pairwise(edges[1:])]
    assert steps == pytest.approx([steps[0]] * 62)
    with pytest.raises(ValueError, match="at least 3 bins"):
        time_edges(2)


def test_bins_by_hand(head):
    edges = head.edges
    gaps = torch.tensor(
        [0, 1e-6, 0.5, 59.9, 60, edges[3] * 0.999, edges[3], 1e9], dtype=torch.double
    )
    assert head.time_bins(gaps).tolist() == [0, 1, 1, 1, 2, 3, 4, 11]
    assert head.time_bins(torch.tensor([0.0, 60.0])).tolist() == [0, 2]


def test_the_same_moment_is_exactly_zero_and_nothing_else_is(head, logits):
    first = logits.softmax(-1)[:, 0]
    zero = torch.zeros(40)
    assert torch.equal(head.draw(logits, zero, zero), torch.zeros(40, dtype=torch.double))
    just = head.draw(logits, first * 1.0001, zero)
    assert (just >= 1.0).all()
    assert head.chance_within(logits, zero).float() == pytest.approx(first, rel=1e-5)


def test_chances_add_up_to_one(head, logits):
    shares = logits.double().softmax(-1)
    total = torch.zeros(40, dtype=torch.double)
    before = head.chance_within(logits, torch.full((40,), -1.0))
    assert not before.any()
    for bin_, edge in enumerate([0.0, *head.edges[1:]]):
        within = head.chance_within(logits, torch.full((40,), edge, dtype=torch.double))
        torch.testing.assert_close(within - total, shares[:, bin_])
        total = within
    assert torch.equal(total.float(), torch.ones(40))
    assert (head.chance_within(logits, torch.full((40,), 1e12)) - 1).abs().max() < 1e-12


def test_chances_rise_within_bins_with_the_logarithm(head, logits):
    low, high = head.edges[4], head.edges[5]
    thirds = [low * (high / low) ** (i / 3) for i in range(4)]
    found = torch.stack([head.chance_within(logits, torch.full((40,), t).double()) for t in thirds])
    share = logits.double().softmax(-1)[:, 5]
    for step in found.diff(dim=0):
        torch.testing.assert_close(step, share / 3)


def test_draws_follow_the_chances_exactly(head, logits):
    """By fixed uniforms: u picks the bin, and a place v of it is that share of its chance."""
    one = logits[:1].expand(2000, -1)
    u = (torch.arange(2000, dtype=torch.double) + 0.5) / 2000
    total = one[0].double().softmax(-1).cumsum(0)
    at = torch.searchsorted(total, u, right=True)
    below = torch.cat([torch.zeros(1), total[:-1]])[at]
    v = (u - below) / (total[at] - below)  # the place that makes u the whole chance
    gaps = head.draw(one, u, v)
    assert gaps.dtype == torch.double
    assert torch.equal(head.time_bins(gaps), at)
    chance = head.chance_within(one, gaps)
    zero = at == 0
    assert 0 < zero.sum() < 2000
    torch.testing.assert_close(chance[~zero], u[~zero], rtol=0, atol=1e-9)
    torch.testing.assert_close(chance[zero], total[:1].expand(int(zero.sum())))
    assert (gaps[~zero].diff() >= 0).all()


def test_draws_of_independent_uniforms_have_the_distribution(head, logits):
    n = 20_000
    torch.manual_seed(1)
    for row in logits[:3]:
        gaps = head.draw(row.expand(n, -1), torch.rand(n), torch.rand(n))
        for seconds in (0.0, 30.0, 3_600.0, 86_400.0, YEAR):
            chance = head.chance_within(row[None], torch.tensor([seconds])).item()
            noise = max((chance * (1 - chance) / n) ** 0.5, 1e-4)
            assert abs((gaps <= seconds).double().mean().item() - chance) < 4.5 * noise


def test_every_weight_learns_and_both_inputs_count(head):
    states, following = (
        torch.randn(9, 16, requires_grad=True),
        torch.randn(9, 16, requires_grad=True),
    )
    loss = torch.nn.functional.cross_entropy(head(states, following), torch.arange(9) % 12)
    loss.backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad.abs().max() > 0, name
    assert states.grad.any(-1).all()
    assert following.grad.any(-1).all()


def test_extreme_logits_stay_numbers(head):
    sharp = torch.full((2, 12), -1e4)
    sharp[0, 0] = sharp[1, 11] = 1e4
    u, v = torch.tensor([0.999999, 0.0]), torch.tensor([0.999999, 0.999999])
    gaps = head.draw(sharp, u, v)
    assert gaps[0] == 0
    assert head.edges[10] < gaps[1] <= head.edges[11]
    assert head.chance_within(sharp, torch.tensor([0.0, 60.0])).tolist() == [1.0, 0.0]
