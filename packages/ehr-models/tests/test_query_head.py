"""The query head: what may move an answer, and what may not."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ehr_models.data.batch import pack
from ehr_models.forecasts.query import Queries, QueryHead, of_seconds
from ehr_models.heads.forecasts import forecast_head
from ehr_models.heads.token import hidden_states

DAY = 86_400.0


def queries(begin, end, sets, horizon=30 * DAY, since=0.0):
    """One for each of the ragged sets."""
    sizes = [len(s) for s in sets]
    many = torch.full((len(sets),), 1.0)
    return Queries(
        torch.tensor([t for s in sets for t in s]),
        torch.tensor([0, *np.cumsum(sizes)[:-1]]),
        many * horizon,
        many * since,
        torch.as_tensor(begin),
        torch.as_tensor(end),
    )


def some(batch, seed=0):
    """Several of each span, at different cuts, of sets of different sizes; not in the order of spans."""
    rng = np.random.default_rng(seed)
    bounds = batch.cu_seqlens.tolist()
    rows = [(a, int(rng.integers(a, b)) + 1) for a, b in pairwise(bounds) for _ in range(4)]
    rows = [rows[i] for i in rng.permutation(len(rows))]
    sets = [rng.choice(np.arange(7, 90), rng.integers(1, 9), replace=False) for _ in rows]
    asked = queries(*zip(*rows, strict=True), [s.tolist() for s in sets])
    days = torch.from_numpy(np.exp(rng.uniform(0, 7, len(rows)))).float()
    return asked._replace(horizon=days * DAY, since=days.flip(0) * 3600)


def one(asked, i):
    """A query alone."""
    bounds = [*asked.first.tolist(), len(asked.tokens)]
    ids = asked.tokens[bounds[i] : bounds[i + 1]]
    return Queries(ids, torch.tensor([0]), *(t[i : i + 1] for t in asked[2:]))


@torch.no_grad()
def answers(chrono, batch, asked):
    table = chrono.get_input_embeddings().weight
    return forecast_head(chrono, "query")(hidden_states(chrono, batch), table, asked)


@pytest.fixture
def chrono(make_model):
    return make_model("chrono-forecasts")


def test_many_at_once_are_the_same_as_one_by_one(chrono, batch):
    asked = some(batch)
    together = answers(chrono, batch, asked)
    for i in range(len(asked.end)):
        torch.testing.assert_close(answers(chrono, batch, one(asked, i))[0], together[i])
    assert together.std(0).min() > 0.01


def test_packed_is_the_same_as_alone(chrono, records, spans, batch):
    asked = some(batch)
    together = answers(chrono, batch, asked)
    bounds = batch.cu_seqlens.tolist()
    for i in range(len(asked.end)):
        mine = int(np.searchsorted(bounds, int(asked.begin[i]), side="right")) - 1
        moved = one(asked, i)
        moved = moved._replace(begin=moved.begin * 0, end=moved.end - bounds[mine])
        alone = answers(chrono, pack(records, spans[mine]), moved)
        torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=1e-5)


def test_neither_other_subjects_nor_what_comes_later_moves_an_answer(chrono, batch):
    asked = some(batch)
    before = answers(chrono, batch, asked)
    for i in range(0, len(asked.end), 3):
        begin, end = int(asked.begin[i]), int(asked.end[i])
        hidden = torch.ones(len(batch.input_ids), dtype=torch.bool)
        hidden[begin:end] = False
        ids = batch.input_ids.clone()
        batch.input_ids[hidden] = 7 + (ids[hidden] + 11) % 80
        after = answers(chrono, batch, asked)
        batch.input_ids.copy_(ids)
        torch.testing.assert_close(after[i], before[i])
        assert not torch.equal(after, before)


def test_the_order_within_a_set_does_not_matter_and_all_else_does(chrono, batch):
    end = int(batch.cu_seqlens[1])
    asked = queries([0] * 5, [end] * 5, [[8, 30, 12], [12, 8, 30], [8, 30], [8], [8, 30, 12]])
    found = answers(chrono, batch, asked._replace(end=torch.tensor([end] * 4 + [end - 1])))
    torch.testing.assert_close(found[0], found[1])
    others = {
        "horizon": answers(chrono, batch, asked._replace(horizon=asked.horizon * 2))[0],
        "since": answers(chrono, batch, asked._replace(since=asked.since + DAY))[0],
        **{f"set or cut {i}": found[i] for i in (2, 3, 4)},
    }
    for name, other in others.items():
        assert (other - found[0]).abs().max() > 1e-4, name


def test_attention_is_that_of_a_loop():
    """Against softmax by hand, with spans of unequal length and unequal numbers of queries."""
    torch.manual_seed(0)
    config = SimpleNamespace(hidden_size=12, query_head={"blocks": 2, "heads": 3})
    head = QueryHead(config)
    head.reset(0.3)
    states, table = torch.randn(70, 12), torch.randn(20, 12)
    rows = [(0, 1), (1, 3), (1, 40), (1, 7), (40, 60), (60, 70), (1, 2), (60, 61)]
    asked = queries(*zip(*rows, strict=True), [[i + 1, i + 4] for i in range(8)])
    found = head(states, table, asked)
    for i, (begin, end) in enumerate(rows):
        mean = (table[i + 1] + table[i + 4]) / 2
        numbers = [torch.tensor([np.log(2.0) / 5]), of_seconds(asked.horizon[i : i + 1])[0]]
        numbers.append(of_seconds(asked.since[i : i + 1])[0])
        x = head.norm_set(mean) + head.from_numbers(torch.cat(numbers).float())
        x = x + head.from_state(states[end - 1])
        for block in head.blocks:
            seen = block.norm_state(states[begin:end])
            key, value = block.key_value(seen).chunk(2, 1)
            query, parts = block.query(block.norm_query(x)), []
            for h in range(3):
                of = slice(4 * h, 4 * h + 4)
                weight = (key[:, of] @ query[of] / 2).softmax(0)
                parts.append(weight @ value[:, of])
            x = x + block.back(torch.cat(parts))
            x = x + block.down(F.silu(block.up(block.norm_mlp(x))))
        torch.testing.assert_close(found[i], head.out(head.norm(x)), rtol=1e-4, atol=1e-5)


def test_every_parameter_learns(chrono, batch):
    asked = some(batch)
    table = chrono.get_input_embeddings().weight
    head = forecast_head(chrono, "query")
    head(hidden_states(chrono, batch), table, asked).square().sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
    assert chrono.model.layers[0].mlp.up_proj.weight.grad.abs().sum() > 0
