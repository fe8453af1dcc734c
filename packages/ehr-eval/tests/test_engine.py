"""The loop beside one that re-runs the whole context for each token of one future, in plain Python."""

import math

import numpy as np
import polars as pl
import pytest
import torch

from ehr_eval.generate.config import GenerateConfig
from ehr_eval.generate.run import generate
from ehr_models.heads.forecasts import attach
from ehr_models.kinds import KINDS
from ehr_models.registry import build
from ehr_tracking.contracts import BOS_ID

from .chains import DAY, Chain, labels, word

CAUSAL = [name for name, kind in KINDS.items() if kind.incremental]
OPTIONS = {
    "llama": {"kv_heads": 2},
    "gpt2_moe": {"hidden": 32, "heads": 2, "every": 1},
    "chrono": {"hidden": 32, "heads": 2},
}
SPANS = {"TIME//1h": 3600.0, "TIME//1d": 86_400.0, "TIME//6mo": 180 * 86_400.0}
BITS = 2**64 - 1
CONTEXT, SAMPLES, SEED, HORIZON = 12, 3, 5, 900 * DAY
EDGES = [1.0, 60.0, 3600.0, 86_400.0, 1e6, 1e8]
RECORDS = [
    (1, "train", [(None, "SEX//F"), (0, "A"), (0, "A//1"), (2, "B"), (2, "Q1")]),
    (
        2,
        "held_out",
        [(None, "SEX//F"), *((d, c) for d, c in zip(range(20), "ABCDE" * 4, strict=True))],
    ),
    (3, "held_out", [(None, "SEX//F"), (0, "C"), (5, "B"), (5, "Q2"), (7, "A")]),
]
ASKED = [(2, 9), (2, 17.2), (3, 6)]


def vocabulary(*, times):
    words = [word(t, "time", seconds=s) for t, s in SPANS.items()] if times else []
    words += [word(c) for c in "ABCDE"] + [word("A//1", "part"), word("SEX//F")]
    words += [word(f"Q{n}", "bin", bin=n) for n in (1, 2, 3)] + [word("MEDS_DEATH")]
    return Chain(words, {}, special={"[SEP]": 3}, inner={"B": [1.5, 2.5], "A": [7.0]})


@pytest.fixture(scope="module", params=[*CAUSAL, "chrono-tokens"])
def drawn(request, tmp_path_factory):
    """A model of a kind with random weights, and what was drawn from it."""
    root, kind = tmp_path_factory.mktemp("drawn"), request.param.partition("-")[0]
    chain = vocabulary(times=request.param != "chrono")
    torch.manual_seed(1)
    size = next(iter(KINDS[kind].sizes))
    model = build(
        KINDS[kind].config(size=size, layers=2, **OPTIONS.get(kind, {})), len(chain.words)
    )
    if request.param == "chrono":
        attach(model, "time", {"edges": EDGES})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    chain.model = lambda *_, **__: model.eval()
    tokens = chain.tokens(root / "tokens", RECORDS)
    run = chain.checkpoint(root / "run", tokens)
    config = {"samples": SAMPLES, "seed": SEED, "context": CONTEXT, "budget": 25, "top_p": 0.95}
    asked = labels(root / "labels", ASKED)

    def make(name, **more):
        settings = GenerateConfig(horizon="900d", precision="fp32", **config, **more)
        generate(run, tokens, asked, root / name, settings, workers=1)
        return root / name

    return chain, model, make


def mixed(x):
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & BITS
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & BITS
    return x ^ (x >> 31)


def number(subject, time, sample, step, purpose):
    """SplitMix64 with Python's own integers."""
    key = SEED
    for part in (subject, time, sample):
        key = mixed((key + 0x9E3779B97F4A7C15) & BITS) ^ (part & BITS)
    key = mixed((key + 0x9E3779B97F4A7C15) & BITS)
    count = (4 * step + purpose) * 0x9E3779B97F4A7C15 & BITS
    return (mixed((key + mixed(count)) & BITS) >> 12) / 2**52


@torch.no_grad()
def states_of(model, held):
    ids, times, born = ([h[i] for h in held] for i in range(3))
    static = [t is None for t in times]
    given = {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.arange(len(ids))[None],
        "time": torch.tensor([[np.iinfo(np.int64).min if t is None else t for t in times]]),
        "age": torch.tensor(
            [[0.0 if s else (t - b) / DAY for s, t, b in zip(static, times, born, strict=True)]]
        ),
    }
    fields = KINDS[model.config.model_type].inputs
    return model.base_model(
        **{n: given[f] for n, f in fields.items()}, use_cache=False
    ).last_hidden_state[0, -1]


@torch.no_grad()
def gaps_of(model, state, token):
    """Share of each bin of the gap before a token."""
    embedded = model.get_input_embeddings().weight[token]
    return model.time_head(state[None], embedded[None])[0].double().softmax(0).numpy()


def within(shares, seconds):
    """Probability of a gap of at most so many seconds."""
    total = shares[0]
    for share, low, high in zip(shares[1:], EDGES, EDGES[1:], strict=False):
        total += share * min(max(math.log(max(seconds, 1e-9) / low) / math.log(high / low), 0), 1)
    return total


def gap(shares, at, v, waited):
    """The other way round: `at` picks the bin, v the place in it, of those that are long enough."""
    bin_ = int((at >= np.cumsum(shares)[:-1]).sum())
    if bin_ == 0:
        return 0.0
    low, high = EDGES[bin_ - 1], EDGES[bin_]
    low = max(low, waited)
    return low * (high / low) ** v


def future(chain, model, subject, start, sample):
    """One future, its context read anew for each token: [(token, microseconds)], and why it ends."""
    _, _, events = next(r for r in RECORDS if r[0] == subject)
    born = -10_000 * DAY
    record = [(BOS_ID, None, born)]
    record += [
        (chain.ids[c], None if d is None else round(d * DAY), born)
        for d, c in events
        if d is None or d * DAY <= start
    ]
    held = newest(record, CONTEXT // 2)
    now, drawn = record[-1][1], []
    for step in range(25):
        state = states_of(model, held)
        with torch.no_grad():
            logits = model.lm_head(state)[: len(chain.words)].double().numpy()
        never = [
            w["count"] == 0
            or (w["kind"] == "special" and w["token"] != "[SEP]")
            or w["token"] == "SEX//F"
            for w in chain.words
        ]
        weights = np.where(never, 0, np.exp(logits - logits.max()))
        if now <= start:
            weights = weights * [
                later(chain, model, state, i, (start - now) / 1e6) for i in range(len(never))
            ]
        weights = weights / weights.sum()
        order = np.argsort(-weights, kind="stable")
        kept = order[np.cumsum(weights[order]) - weights[order] < 0.95]
        weights = np.where(np.isin(np.arange(len(never)), kept), weights, 0)
        running = np.cumsum(weights)
        u, v, w = (number(subject, start, sample, step, purpose) for purpose in (1, 2, 3))
        token = int((running <= u * running[-1]).sum())
        now = moved(chain, model, state, token, now, start, (v, w))
        if now > start + HORIZON:
            return drawn, "horizon"
        drawn.append((token, now))
        if chain.words[token]["token"] == "MEDS_DEATH":
            return drawn, "death"
        record.append((token, now, born))
        held = newest(record, CONTEXT // 2) if len(held) >= CONTEXT else [*held, record[-1]]
    return drawn, "budget"


def newest(record, context):
    if len(record) <= context:
        return list(record)
    return [*record[:2], *record[len(record) - context + 2 :]]


def later(chain, model, state, token, waited):
    """The chance that a token comes after such a wait."""
    kind = chain.words[token]["kind"]
    if hasattr(model, "time_head"):
        return 0.0 if kind in ("part", "bin") else 1 - within(gaps_of(model, state, token), waited)
    if kind == "time":
        return float(waited < upper(chain.words[token]["token"]))
    return float(chain.words[token]["token"] == "[SEP]")


def upper(token):
    names = list(SPANS)
    after = names[names.index(token) + 1 :]
    return math.sqrt(SPANS[token] * SPANS[after[0]]) if after else math.inf


def moved(chain, model, state, token, now, start, numbers):
    name, kind = chain.words[token]["token"], chain.words[token]["kind"]
    waited = max(start - now, 0) / 1e6
    if hasattr(model, "time_head"):
        if kind in ("part", "bin"):
            return now
        shares = gaps_of(model, state, token)
        known = within(shares, waited) if now <= start else 0.0
        at = known + numbers[0] * (1 - known)
        time = now + round(gap(shares, at, numbers[1], waited)) * 1_000_000
        return max(time, start + 1) if now <= start else time
    if kind != "time":
        return now
    seconds = SPANS[name]
    if seconds <= waited:
        seconds = waited + seconds if upper(name) == math.inf else (waited + upper(name)) / 2
    return now + round(seconds * 1e6)


def told(chain, drawn):
    """Events with values, by hand."""
    events = []
    edges, open_ = chain.tokenizer["edges"], False
    for token, time in drawn:
        w = chain.words[token]
        if w["kind"] == "code":
            events.append([w["token"], time, None])
        elif w["kind"] == "part" and open_:
            events[-1][0] += w["token"].rpartition("//")[2]
        elif w["kind"] == "bin" and open_ and w["bin"] <= len(edges.get(events[-1][0], [])) + 1:
            bounds = [-math.inf, *edges.get(events[-1][0], []), math.inf]
            if len(bounds) > 2:
                events[-1][2] = (bounds[w["bin"] - 1], bounds[w["bin"]])
        open_ = w["kind"] in ("code", "part") and (open_ or w["kind"] == "code")
    return events


def test_futures_are_those_of_a_loop_that_reads_the_whole_context_for_each_token(drawn):
    chain, model, make = drawn
    out = make("out")
    events = pl.read_parquet(out / "events/*.parquet")
    futures = pl.read_parquet(out / "futures/*.parquet")
    assert futures.height == len(ASKED) * SAMPLES
    for row in futures.with_columns(start=pl.col("prediction_time").dt.epoch("us")).to_dicts():
        expected, why = future(chain, model, row["subject_id"], row["start"], row["sample"])
        assert row["reason"] == why
        assert row["tokens"] == len(expected) + (why == "horizon")
        mine = events.filter(
            pl.col("subject_id") == row["subject_id"],
            pl.col("prediction_time") == row["prediction_time"],
            pl.col("sample") == row["sample"],
        )
        found = mine.select("code", pl.col("time").dt.epoch("us"), "numeric_value").rows()
        by_hand = told(chain, expected)
        assert [(c, t) for c, t, _ in found] == [(c, t) for c, t, _ in by_hand]
        for (_, _, value), (_, _, bounds) in zip(found, by_hand, strict=True):
            assert (value is None) == (bounds is None)
            assert bounds is None or bounds[0] <= value < bounds[1]


def test_rows_at_once_and_size_of_parts_change_nothing(drawn):
    _, _, make = drawn
    whole = tables(make("whole"))
    for name, more in {"few": {"rows": 4}, "one": {"rows": 1, "part": 2}}.items():
        assert tables(make(name, **more)) == whole
    assert len(whole[0]) > 20


def tables(out):
    return [pl.read_parquet(out / f"{f}/*.parquet").rows() for f in ("events", "futures")]
