import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ehr_models.forecasts.events import EventsHead, chunks_of

EDGES = [0.0, 10.0, 100.0, 1000.0, 5000.0]


def events_head(codes=5, values=(3, 0, 2, 0, 4), edges=EDGES, width=8, rank=4, std=0.5):
    torch.manual_seed(0)
    first = np.cumsum([0, *values])
    settings = {
        "codes": [f"C{k}" for k in range(codes)],
        "ids": [[k] for k in range(codes)],
        "value_ids": [list(range(a, a + n)) for a, n in zip(first, values, strict=False)],
        "edges": list(edges),
        "rank": rank,
    }
    head = EventsHead(SimpleNamespace(events_head=settings, hidden_size=width))
    head.reset(std)
    head.start(torch.rand(head.bins, codes) + 0.05, torch.rand(head.values) + 0.1)
    return head


def occurrences(rows, codes, edges=EDGES, seed=0):
    """For each row until when it is seen, and of each code when it comes; not every one does."""
    rng = np.random.default_rng(seed)
    seen = np.exp(rng.uniform(1, 9, rows))
    until = np.exp(rng.uniform(0, 9, (rows, codes)))
    until[(until > seen[:, None]) | (until > edges[-1])] = np.nan
    return seen, until


def in_chunks(seen, until, chunks):
    size = max(1, -(-len(seen) // chunks))
    lists = [[] for _ in range(chunks)]
    for m, k in np.argwhere(~np.isnan(until)):
        lists[m // size].append((m % size, k, until[m, k]))
    most = max(map(len, lists))
    filled = np.array([found + [(0, 0, -1.0)] * (most - len(found)) for found in lists])
    row, code, seconds = torch.from_numpy(filled).unbind(-1)
    return torch.tensor(seen).float(), row.long(), code.long(), seconds.float()


def brute(head, states, seen, until):
    """Loops over rows, codes and bins, in float64."""
    factors = (states.double() @ head.time.weight.double().T + head.time.bias.double()).view(
        len(states), head.bins, head.rank
    )
    bias = head.bias.double().view(head.bins, -1)
    total = torch.zeros((), dtype=torch.float64)
    for m in range(len(states)):
        for k in range(len(head.names)):
            came = not math.isnan(until[m, k])
            end = until[m, k] if came else seen[m]
            for b in range(head.bins):
                lower, upper = head.edges[b], head.edges[b + 1]
                if end <= lower:
                    break
                hazard = F.softplus(factors[m, b] @ head.codes.weight[k].double() + bias[b, k])
                total = total + hazard * (min(end, upper) - lower) / (upper - lower)
                if came and lower < end <= upper:
                    total = total - hazard.log()
    return total


def test_the_loss_of_an_event_and_of_a_censored_code_by_hand():
    head = events_head(codes=2, values=(0, 0), edges=[0.0, 10.0, 100.0])
    torch.nn.init.zeros_(head.codes.weight)
    expected = torch.tensor([[0.2, 0.3], [0.5, 0.7]])  # of each code in each bin
    head.start(expected, torch.zeros(0))
    until = np.array(
        [[40.0, np.nan]]
    )  # a third of the second bin; the other is seen for half of it
    seen, row, code, seconds = in_chunks(np.array([55.0]), until, 1)
    found = head.time_loss(torch.zeros(1, 8), seen, row, code, seconds)
    wanted = (0.2 + 0.5 / 3 - math.log(0.5)) + (0.3 + 0.7 / 2)
    assert found.item() == pytest.approx(wanted, rel=1e-5)
    within = head.chance_within(torch.zeros(1, 8), torch.tensor([1, 0]), torch.tensor(55.0))
    assert within[0].tolist() == pytest.approx([1 - math.exp(-0.65), 1 - math.exp(-0.45)], rel=1e-5)

    def first(*seconds):
        return head.chance_within(torch.zeros(1, 8), torch.tensor([0]), *map(torch.tensor, seconds))

    assert first(50.0, 5.0).item() == pytest.approx(1 - math.exp(-0.1 - 0.25))  # from 5 to 55
    assert first(100.0) == first(1e9)  # of what is behind the last edge nothing is known


def test_the_loss_of_a_value_by_hand():
    head = events_head(codes=3, values=(2, 0, 3))
    with torch.no_grad():
        head.value.weight.zero_()
        head.value_time.weight.zero_()
        head.value_bias.copy_(torch.tensor([0.0, 1.0, 0.5, 2.0, 0.1]))
    row, code, place = torch.tensor([0, 0]), torch.tensor([2, 0]), torch.tensor([1, 1])
    loss, right = head.value_loss(torch.zeros(1, 8), row, code, torch.tensor([5.0, 50.0]), place)
    of_three = math.log(math.exp(0.5) + math.exp(2) + math.exp(0.1)) - 2
    assert loss.item() == pytest.approx(of_three + math.log(1 + math.e) - 1, rel=1e-5)
    assert right == 2
    chances = head.value_logits(torch.zeros(2, 8), code, torch.tensor([5.0, 50.0])).exp()
    torch.testing.assert_close(chances.sum(1), torch.ones(2))
    assert chances[1, 2] == 0  # the other code has two values


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_that_of_loops_over_rows_codes_and_bins(seed):
    head, states = events_head(), torch.randn(7, 8, generator=torch.Generator().manual_seed(seed))
    seen, until = occurrences(7, 5, seed=seed)
    assert 5 < np.isfinite(until).sum() < 30
    found = head.time_loss(states, *in_chunks(seen, until, 1))
    assert found.item() == pytest.approx(brute(head, states, seen, until).item(), rel=1e-4)


@pytest.mark.parametrize("chunks", [2, 3, 7, 10])
def test_loss_and_gradient_are_the_same_in_any_number_of_chunks(chunks):
    seen, until = occurrences(7, 5)
    found = []
    for number in (1, chunks):
        head = events_head()
        states = torch.randn(7, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
        loss = head.time_loss(states, *in_chunks(seen, until, number))
        loss.backward()
        named = {n: p.grad for n, p in head.named_parameters() if not n.startswith("value")}
        found.append([loss, states.grad, *(named[n] for n in sorted(named))])
    assert len(found[0]) == 6  # loss, states, time (2), codes, bias
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_every_parameter_learns_from_either_loss():
    head, states = events_head(), torch.randn(7, 8)
    time = head.time_loss(states, *in_chunks(*occurrences(7, 5), 1))
    codes, places = torch.tensor([0, 2, 4, 4, 0]), torch.tensor([2, 1, 0, 3, 0])
    seconds = torch.tensor([5.0, 50.0, 500.0, 2000.0, 9.0])
    value, _ = head.value_loss(states, torch.arange(5), codes, seconds, places)
    (time + value).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_in_bf16_the_loss_is_about_the_same_and_states_get_a_gradient():
    seen, until = occurrences(7, 5)
    losses = []
    for enabled in (False, True):
        head = events_head()
        states = torch.randn(7, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = head.time_loss(states, *in_chunks(seen, until, 2))
            codes, place = torch.tensor([0, 2]), torch.tensor([2, 1])
            value, _ = head.value_loss(states, codes, codes, torch.tensor([5.0, 50.0]), place)
        (loss + value).backward()
        assert states.grad.isfinite().all()
        losses.append((loss.item(), value.item()))
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_without_a_row_or_an_occurrence_there_is_nothing_to_pay_and_a_gradient_all_the_same():
    head = events_head()
    none = torch.zeros(1, 0, dtype=torch.int64)
    loss = head.time_loss(torch.zeros(0, 8), torch.zeros(0), none, none, torch.zeros(1, 0))
    empty = torch.zeros(0, dtype=torch.int64)
    value, right = head.value_loss(torch.zeros(0, 8), empty, empty, torch.zeros(0), empty)
    assert (loss.item(), value.item(), right.item()) == (0, 0, 0)
    (loss + value).backward()
    assert all(p.grad is not None for p in head.parameters())


def test_hazards_so_small_that_float32_has_no_number_for_them_still_cost_a_finite_amount():
    head = events_head(codes=1, values=(0,))
    torch.nn.init.zeros_(head.codes.weight)
    torch.nn.init.constant_(head.bias, -200.0)
    until = np.array([[40.0]])
    loss = head.time_loss(torch.zeros(1, 8), *in_chunks(np.array([99.0]), until, 1))
    assert loss.item() == pytest.approx(200)
    loss.backward()
    assert head.bias.grad.isfinite().all()


def test_thousands_of_codes_are_not_held():
    rows, codes = 192, 4000
    seen, until = occurrences(rows, 40)
    until = np.concatenate([until, np.full((rows, codes - 40), np.nan)], 1)
    head = events_head(codes=codes, values=(0,) * codes, edges=[0.0, *np.geomspace(1, 1e4, 16)])
    chunks = chunks_of(rows, head.bins, codes)
    assert chunks > 1
    held = 0

    def keep(tensor):
        nonlocal held
        held += tensor.numel() * tensor.element_size()
        return tensor

    states = torch.randn(rows, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        head.time_loss(states, *in_chunks(seen, until, chunks))
    assert held < 2**20 < rows * codes * head.bins * 4 / 16  # in one piece: 49 MB, several times


def test_it_learns_waiting_times_and_values_of_two_kinds_of_subjects_though_many_are_lost():
    """Exponential with two rates, seen for a time that is exponential as well; the value tells the kind."""
    rng, edges = np.random.default_rng(0), [0.0, *np.geomspace(1.0, 100.0, 6)]
    kind = rng.integers(0, 2, 4000)
    wait, seen = rng.exponential(np.where(kind == 0, 20.0, 4.0)), rng.exponential(15.0, 4000)
    came = (wait <= seen) & (wait <= edges[-1])
    until = np.where(came, wait, np.nan)[:, None]
    states = F.one_hot(torch.from_numpy(kind), 2).float()
    head = events_head(codes=1, values=(2,), edges=edges, width=2, std=0.1)
    rows = torch.from_numpy(np.flatnonzero(came))
    value = torch.from_numpy((kind ^ (rng.random(4000) < 0.1))[came])
    asked = rows, torch.zeros_like(rows), torch.from_numpy(wait[came]).float(), value
    optimizer = torch.optim.Adam(head.parameters(), 0.05)
    for _ in range(150):
        optimizer.zero_grad()
        time = head.time_loss(states, *in_chunks(seen, until, 1))
        (time + head.value_loss(states, *asked)[0]).backward()
        optimizer.step()
    both, code = torch.eye(2), torch.zeros(1, dtype=torch.int64)
    for horizon in (2.0, 5.0, 20.0):
        found = head.chance_within(both, code, torch.tensor(horizon))[:, 0].tolist()
        wanted = [1 - math.exp(-horizon / 20), 1 - math.exp(-horizon / 4)]
        assert found == pytest.approx(wanted, abs=0.03)  # standard errors are below .015
    chances = head.value_logits(both, code.expand(2), torch.full((2,), 3.0)).exp()
    assert chances[0, 0].item() == pytest.approx(0.9, abs=0.03)
    assert chances[1, 1].item() == pytest.approx(0.9, abs=0.03)
