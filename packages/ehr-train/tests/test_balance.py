import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ehr_train.data.balance import attention_share, deal, work

CONTEXT = 512


@st.composite
def mixes(draw):
    """Lengths as they come: few or many, all alike, log-normal, or mostly short with some full."""
    n = draw(st.integers(1, 300))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["uniform", "lognormal", "alike", "two"]))
    lengths = {
        "uniform": rng.integers(1, CONTEXT + 1, n),
        "lognormal": np.exp(rng.normal(4.5, 1.2, n)),
        "alike": np.full(n, draw(st.integers(1, CONTEXT))),
        "two": np.where(rng.random(n) < 0.1, CONTEXT, 5),
    }[kind]
    return lengths.astype(np.int64).clip(1, CONTEXT)


options = {
    "length": mixes(),
    "world": st.integers(1, 8),
    "micro_tokens": st.sampled_from([CONTEXT, 1000, 4096, 10**6]),
    "c": st.sampled_from([0.0, attention_share(64), attention_share(768)]),
}


@given(**options)
def test_every_process_takes_the_same_number_of_passes_and_each_window_once(
    length, world, micro_tokens, c
):
    shares = deal(length, world=world, micro_tokens=micro_tokens, c=c)
    assert len(shares) == world
    assert len({len(passes) for passes in shares}) == 1
    assert all(length[p].sum() <= micro_tokens for passes in shares for p in passes)
    dealt = np.concatenate([p for passes in shares for p in passes])
    assert sorted(dealt.tolist()) == list(range(len(length)))


@given(**options)
def test_no_process_has_a_window_more_work_than_another_where_memory_allows(
    length, world, micro_tokens, c
):
    shares = deal(length, world=world, micro_tokens=10**9, c=c)
    cost = work(length, c)
    loads = [sum(cost[p].sum() for p in passes) for passes in shares]
    assert max(loads) - min(loads) <= cost.max() + 1e-6


@given(seed=st.integers(0, 2**32), world=st.integers(2, 8))
def test_work_is_even_over_processes_and_within_each_pass(seed, world):
    rng = np.random.default_rng(seed)
    length = np.exp(rng.normal(4.8, 1.0, 150 * world)).astype(np.int64).clip(8, CONTEXT)
    c = attention_share(128)
    cost = work(length, c)
    shares = deal(length, world=world, micro_tokens=8192, c=c)
    each = np.array([[cost[p].sum() for p in passes] for passes in shares])
    assert len(each[0]) > 1
    assert each.max(0).sum() <= 1.02 * each.mean(0).sum()
    assert each.sum(1).max() <= 1.01 * each.sum(1).mean()


def test_a_long_window_weighs_against_more_tokens_of_short_ones_by_hand():
    """One of 100 tokens costs 100 + 100^2 / 100 = 200, each of 18 of ten 10 + 10^2 / 100 = 11: 198 in all."""
    length = np.array([10] * 9 + [100] + [10] * 9)
    ((first,), (second,)) = deal(length, world=2, micro_tokens=1000, c=0.01)
    assert first.tolist() == [9]
    assert sorted(second.tolist()) == [i for i in range(19) if i != 9]


def test_no_more_passes_than_the_tokens_need():
    length = np.full(64, 100)
    assert [len(p) for p in deal(length, world=4, micro_tokens=800, c=0.0)] == [2] * 4
    assert [len(p) for p in deal(length, world=1, micro_tokens=6400, c=0.0)] == [1]


def test_a_process_without_a_window_takes_part():
    shares = deal(np.array([3, 9]), world=4, micro_tokens=16, c=0.0)
    assert sorted(len(p) for passes in shares for p in passes) == [0, 0, 1, 1]
