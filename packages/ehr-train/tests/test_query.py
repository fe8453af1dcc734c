"""Queries: what is drawn and told, what it weighs, and that a head learns to answer as often as it happens."""

import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from ehr_models.checkpoint import load_checkpoint
from ehr_models.data.batch import pack
from ehr_models.data.tokens import STATIC, Tokens, leading
from ehr_models.data.windows import newest, window_at
from ehr_models.forecasts.query import Queries, QueryHead
from ehr_models.kinds.chrono import ChronoModelConfig
from ehr_models.kinds.llama import LlamaModelConfig
from ehr_models.vocabulary import Word
from ehr_tracking.config import ConfigError, load_config
from ehr_tracking.contracts import BOS_ID, SPECIALS
from ehr_train.config import CheckpointConfig, OptimConfig, TrainConfig, ValidationConfig
from ehr_train.data.codes import matching
from ehr_train.data.examples import Examples, whole_records
from ehr_train.objectives import CLM
from ehr_train.objectives.parts import Material, Question
from ehr_train.objectives.query import Query
from ehr_train.objectives.total import Part, Sum
from ehr_train.run import train

from .conftest import TINY, tiny_config
from .test_resume import outcome, turn_back

DAY = 86_400_000_000
CODES = [*SPECIALS, "SEX//F", *(f"A//{i}" for i in range(12)), *["LAB//K"] * 5, "MEDS_DEATH"]
LAB, DEATH = CODES.index("LAB//K"), len(CODES) - 1
BINS = {LAB + i: i + 1 for i in range(4)}
"""The fifth token of the laboratory code tells it without a value."""


def words(codes=CODES, bins=BINS):
    rest = {"lower": None, "upper": None, "subjects": 1, "description": None, "parents": None}
    return [
        Word(id=i, token=str(i), kind="value" if i in bins else "code", code=c, bin=bins.get(i),
             count=i * i, **rest)
        for i, c in enumerate(codes)
    ]  # fmt: skip


class Vocabulary:
    """Stands for `Codes`, which reads a file."""

    def __init__(self, rows=None):
        self.words = rows or words()

    def matching(self, patterns):
        return matching(patterns, [w.code for w in self.words])


def split(records):
    """Of (token, day or None) lists."""
    offsets = np.concatenate([[0], np.cumsum([len(r) for r in records])])
    flat = [item for record in records for item in record]
    token = np.array([t for t, _ in flat], np.uint16)
    time = np.array([STATIC if d is None else int(d * DAY) for _, d in flat], np.int64)
    age = np.where(time == STATIC, 0, time / DAY).astype(np.float32)
    zeros = np.zeros(len(token), np.uint16)
    return Tokens(
        np.arange(50, 50 + len(records)), offsets, leading(offsets, token, time), token, time, age,
        zeros, zeros.astype(np.uint8),
    )  # fmt: skip


def random_split(seed=0, subjects=14):
    rng = np.random.default_rng(seed)
    records = []
    for i in range(subjects):
        days = np.sort(rng.integers(0, 900, int(rng.integers(1, 70))))  # several a day
        codes = rng.integers(8, DEATH, len(days)).tolist()
        if i % 3 == 0:
            codes[-1] = DEATH
        events = zip(codes, days.tolist(), strict=True)
        records.append([(BOS_ID, None), (7, None), *events])
    return split(records)


def ask(objective, tokens, epoch=0, windows=None, vocabulary=None):
    examples = whole_records(tokens)
    if windows is None:
        windows = newest(tokens, examples.subject, examples.visible, 512)
    batch = pack(tokens, windows)
    codes = vocabulary or Vocabulary()
    material = Material(examples, windows, len(codes.words), 3, codes)
    return batch, objective.ask(batch, material, epoch)


def sets(targets):
    bounds = [*targets["first"].tolist(), len(targets["tokens"])]
    return [targets["tokens"][i:j].tolist() for i, j in pairwise(bounds)]


@pytest.mark.parametrize("cut", [False, True])
def test_answers_are_those_of_a_loop_over_the_record(cut):
    tokens, objective = random_split(), Query(every=3, queries=6)
    windows = None
    if cut:
        rows = np.flatnonzero(np.diff(tokens.offsets) > 20)
        length = np.diff(tokens.offsets)[rows]
        windows = window_at(tokens, rows, length, length - 20, 12, rows)
    batch, asked = ask(objective, tokens, windows=windows)
    told, span = asked.targets, batch.span.numpy()
    assert asked.counts["censored"] == len(told["end"]) > 100
    assert asked.counts["occurs"] == int((told["censored"] == 0).sum())
    seen = {"occurs": set(), "censored": set()}
    for q, wanted in enumerate(sets(told)):
        begin, end = told["begin"][q], told["end"][q]
        assert begin == batch.cu_seqlens[span[begin]]
        assert span[begin] == span[end - 1]
        at = int(batch.index[end - 1])
        row = int(np.searchsorted(tokens.offsets, at, side="right")) - 1
        stop = int(tokens.offsets[row + 1])
        now = int(tokens.time[at]) + round(float(told["since"][q]) * 1e6)
        assert at + 1 == stop or tokens.time[at + 1] > now  # nothing known by then is hidden
        until = now + float(told["horizon"][q]) * 1e6
        occurs = any(
            tokens.token[i] in wanted and now < tokens.time[i] <= until for i in range(at + 1, stop)
        )
        whole = tokens.token[stop - 1] == DEATH
        censored = not occurs and not whole and tokens.time[stop - 1] < until
        assert (told["occurs"][q], told["censored"][q]) == (occurs, censored)
        assert (told["known"][q] == 0) == censored
        seen["occurs"].add(occurs)
        seen["censored"].add(censored)
    assert all(len(found) == 2 for found in seen.values())


def test_sets_are_codes_with_all_their_tokens_or_a_run_of_bins():
    tokens = random_split()
    _, asked = ask(Query(every=1, queries=8, bounded=0.5), tokens)
    sizes, runs = set(), set()
    for found in sets(asked.targets):
        assert found == sorted(set(found))
        lab = tuple(t for t in found if CODES[t] == "LAB//K")
        sizes.add(len(found) - len(lab) + bool(lab))
        if lab and lab != tuple(range(LAB, LAB + 5)):
            assert set(lab) <= BINS.keys()
            assert lab == tuple(range(lab[0], lab[-1] + 1))
            runs.add((lab[0] - LAB, lab[-1] - LAB))
        assert all(t >= len(SPECIALS) for t in found)
    assert sizes == set(range(1, 9))
    assert {(0, 0), (3, 3), (1, 2), (0, 2), (1, 3)} <= runs
    assert not any(
        set(BINS) & set(found) and LAB + 4 not in found
        for found in sets(ask(Query(every=1, bounded=0.0), tokens)[1].targets)
    )


def test_questions_are_of_subject_and_epoch_alone():
    tokens = random_split()
    every = np.arange(len(tokens))
    length = np.diff(tokens.offsets)
    objective = Query(every=2)
    _, whole = ask(objective, tokens)
    _, alone = ask(
        objective, tokens, windows=newest(tokens, every[4:5], length[4:5], 512, every[4:5])
    )
    batch, _ = ask(objective, tokens)
    mine = (batch.span.numpy() == 4)[whole.targets["begin"]]
    for name in ("horizon", "since", "occurs", "censored", "weight", "known"):
        np.testing.assert_array_equal(whole.targets[name][mine], alone.targets[name])
    _, other = ask(objective, tokens, epoch=1)
    assert not np.array_equal(other.targets["horizon"], whole.targets["horizon"])


def test_each_moment_is_as_likely_and_a_wait_looks_at_nothing():
    """In records of 40 moments and of 4, each is a prediction time in one of five epochs or so."""
    records = [[(8, d) for d in range(n) for _ in range(2)] for n in (40, 4)]
    tokens, often = split(records), {}
    for epoch in range(200):
        _, asked = ask(Query(every=5, queries=1, between=0.0), tokens, epoch=epoch)
        for end in asked.targets["end"].tolist():
            often[end] = often.get(end, 0) + 1
    assert sorted(often) == list(range(2, 89, 2))  # behind both tokens of a moment
    assert 20 < min(often.values()) <= max(often.values()) < 65
    waits = []
    for epoch in range(100):
        _, asked = ask(Query(every=5, queries=1, between=1.0), tokens, epoch=epoch)
        waits += asked.targets["since"].tolist()
    assert 0 < min(waits) <= max(waits) < 86_400


def test_weights_undo_how_often_what_happens_is_asked():
    """Weighed, sets that begin with what comes are as frequent as without a look at it."""
    tokens, answer = random_split(1), {}
    for happening in (0.0, 0.5):
        objective = Query(every=2, codes=1, bounded=0.0, happening=happening, most=1.0)
        parts = [ask(objective, tokens, epoch=e)[1].targets for e in range(40)]
        kept = {n: np.concatenate([p[n] for p in parts]) for n in ("weight", "occurs", "known")}
        code = np.concatenate([[CODES[s[0]] for s in sets(p)] for p in parts])
        weight = kept["weight"]
        of = {c: weight[code == c].sum() / weight.sum() for c in ("A//1", "A//11", "LAB//K")}
        answer[happening] = (
            kept["occurs"].mean(),
            (kept["known"] * kept["occurs"]).sum() / kept["known"].sum(),
            *of.values(),
        )
    assert answer[0.5][0] > 1.5 * answer[0.0][0]  # asked more often
    np.testing.assert_allclose(answer[0.5][1:], answer[0.0][1:], rtol=0.06)


def test_codes_in_focus_begin_more_sets_and_others_keep_their_shares():
    def asked(**more):
        objective = Query(every=1, codes=1, happening=0.0, bounded=0.0, **more)
        told = [sets(ask(objective, random_split(), e)[1].targets) for e in range(3)]
        return np.array([CODES[found[-1]] for epoch in told for found in epoch])

    plain, focused = asked(), asked(focus=("^MEDS_DEATH$", "^NONE"), focused=0.5)
    often, before = (focused == "MEDS_DEATH").mean(), (plain == "MEDS_DEATH").mean()
    assert often == pytest.approx(0.5 + before / 2, abs=0.02)
    a, b = ((found == "A//11").sum() / (found != "MEDS_DEATH").sum() for found in (plain, focused))
    assert a == pytest.approx(b, abs=0.02)


def exponential_split(rng, subjects, rate, length):
    """One code by a Poisson process; another every other day to a random end."""
    records = []
    for _ in range(subjects):
        last = int(rng.integers(*length))
        days = np.sort(rng.random(rng.poisson(rate * last)) * last)
        records.append(sorted([(9, d) for d in days] + [(8, d) for d in range(0, last + 1, 2)],
                              key=lambda event: event[1]))  # fmt: skip
    return split(records)


def test_answers_that_are_seldom_seen_to_the_end_weigh_more():
    """Records end at random. Those whose answer is known alone have too many outcomes; weighed, they have not."""
    rate, horizon = 1 / 60, 80.0
    tokens = exponential_split(np.random.default_rng(0), 300, rate, (1, 100))
    vocabulary = Vocabulary(words([*SPECIALS, "x", "EVERY", "EVENT"], {}))
    shares = {}
    for most in (1.0, 20.0):
        objective = Query(every=2, queries=4, codes=1, between=0.0, power=0.0, happening=0.0,
                          shortest=horizon, longest=horizon, most=most)  # fmt: skip
        objective = objective.fitted(whole_records(tokens), vocabulary)
        told = ask(objective, tokens, vocabulary=vocabulary)[1].targets
        mine = [s == [9] for s in sets(told)]
        known = told["known"][mine]
        shares[most] = (known * told["occurs"][mine]).sum() / known.sum()
    true = 1 - np.exp(-rate * horizon)
    assert shares[1.0] > true + 0.1
    assert abs(shares[20.0] - true) < 0.04


class Toy(nn.Module):
    """A model whose states are the embeddings of its tokens."""

    def __init__(self, vocab, width=16, heads=2):
        super().__init__()
        self.table = nn.Embedding(vocab, width)
        config = SimpleNamespace(hidden_size=width, query_head={"blocks": 1, "heads": heads})
        self.query_head = QueryHead(config)
        self.query_head.reset(0.1)

    def get_input_embeddings(self):
        return self.table

    def question(self, batch, asked):
        targets = {name: torch.from_numpy(value) for name, value in asked.targets.items()}
        return Question(batch, targets, asked.counts, np.zeros(0, np.int64))


def test_the_loss_is_that_of_a_loop():
    torch.manual_seed(0)
    model, objective = Toy(len(CODES)), Query(every=4, queries=3)
    objective = objective.fitted(whole_records(random_split()), Vocabulary())
    batch, asked = ask(objective, random_split())
    states = model.table(batch.input_ids)
    found = objective.loss(model, states, model.question(batch, asked))
    told, totals = asked.targets, {"occurs": 0.0, "censored": 0.0}
    for q, wanted in enumerate(sets(told)):
        one = [torch.tensor(wanted), torch.tensor([0])]
        one += [torch.from_numpy(told[name][q : q + 1]) for name in Queries._fields[2:]]
        logits = model.query_head(states, model.table.weight, Queries(*one))[0]
        probability = logits.sigmoid()
        for i, (name, weight) in enumerate([("occurs", "known"), ("censored", "weight")]):
            p = probability[i] if told[name][q] else 1 - probability[i]
            totals[name] += -p.log().item() * told[weight][q]
    for name, total in totals.items():
        assert found[name][0].item() == pytest.approx(total, rel=1e-4)
        assert found[name][1] == asked.counts[name]
    assert 1 < told["known"].max() <= 2 * objective.most


def test_nothing_to_ask_gives_gradients_of_zero():
    """A process whose pass has no prediction time still takes part in the sum of gradients."""
    model = Toy(len(CODES))
    batch, asked = ask(Query(every=1), split([[(BOS_ID, None), (7, None)]]))
    assert asked.counts == {"occurs": 0, "censored": 0}
    pairs = Query().loss(model, model.table(batch.input_ids), model.question(batch, asked))
    sum(total for total, _ in pairs.values()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.query_head.parameters())


def test_learns_a_world_whose_answers_are_known_and_is_calibrated_there():
    """Events by Poisson processes at rates of two kinds of subject; records end at random."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    kinds, rates = (8, 9), {8: (1 / 20, 1 / 300), 9: (1 / 200, 1 / 30)}
    records = []
    for n in range(300):
        kind, last = kinds[n % 2], int(rng.integers(5, 160))
        events = [(7, d) for d in range(0, last + 1, 3)]
        for code, rate in zip((10, 11), rates[kind], strict=True):
            events += [(code, d) for d in rng.random(rng.poisson(rate * last)) * last]
        records.append([(BOS_ID, None), (kind, None), *sorted(events, key=lambda e: e[1])])
    tokens = split(records)
    vocabulary = Vocabulary(words([*SPECIALS, "TICK", "K1", "K2", "X", "Y"], {}))
    objective = Query(every=12, queries=8, codes=2, shortest=2.0, longest=60.0, power=0.2)
    objective = objective.fitted(whole_records(tokens), vocabulary)
    model = Toy(12, 32)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    steps = 160
    for step in range(steps):
        rows = np.arange(step * 60 % 300, step * 60 % 300 + 60)
        length = np.diff(tokens.offsets)[rows]
        windows = newest(tokens, rows, length, 512, rows)
        batch, asked = ask(objective, tokens, step, windows, vocabulary)
        question = model.question(batch, asked)
        pairs = objective.loss(model, model.table(batch.input_ids), question)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / steps)
        optimizer.zero_grad()
        sum(total / count for total, count in pairs.values()).backward()
        optimizer.step()
    errors = []
    for kind, (x, y) in rates.items():
        states = model.table(torch.tensor([BOS_ID, kind, 7]))
        for wanted, rate in (([10], x), ([11], y), ([10, 11], x + y)):
            for days in (3.0, 10.0, 30.0):
                one = [torch.tensor(wanted), torch.tensor([0]), torch.tensor([days * 86_400])]
                one += [torch.zeros(1), torch.tensor([0]), torch.tensor([3])]
                logits = model.query_head(states, model.table.weight, Queries(*one))
                p = logits[0, 0].sigmoid().item()
                errors.append(p - (1 - np.exp(-rate * days)))
    assert np.abs(errors).max() < 0.12
    assert np.abs(errors).mean() < 0.04
    assert abs(np.mean(errors)) < 0.025


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("objective.shortest=800", "shortest = 800 is above longest = 730"),
        ("objective.shortest=0", "greater than 0"),
        ("objective.complete=['(']", "no regular expression"),
    ],
)
def test_bad_settings_are_told(setting, message):
    with pytest.raises(ConfigError, match=message):
        load_config(TrainConfig, None, ["objective.kind=query", "model.kind=chrono", setting])


def test_a_vocabulary_without_codes_has_nothing_to_ask_about():
    with pytest.raises(ConfigError, match="no token of the vocabulary tells a code"):
        Query().fitted(whole_records(random_split()), Vocabulary(words(SPECIALS, {})))


# --- runs


def config_of(**changes):
    both = Sum(parts=(Part(objective=CLM()), Part(objective=Query(every=3, queries=4), weight=0.5)))
    model = ChronoModelConfig(**TINY, kv_heads=2)
    short = {
        "optim": OptimConfig(lr=3e-3, steps=4),
        "checkpoint": CheckpointConfig(every=2),
        "validation": ValidationConfig(every=2),
    }
    return tiny_config("clm", **{"model": model, "objective": both, **short, **changes})


def test_a_run_beside_clm_is_resumed_to_the_same_bits(tokens, tmp_path):
    first = train(tokens, tmp_path / "first", config_of())
    figures = json.loads((first / "metrics.jsonl").read_text().splitlines()[-1])
    told = {"loss_query/occurs", "loss_query/censored", "val_query_loss", "val_query_occurs_loss"}
    assert told <= figures.keys()
    assert load_checkpoint(first).model.config.query_head == {"blocks": 1, "heads": 2}
    run = Path(shutil.copytree(first, tmp_path / "run"))
    (run / "manifest.json").unlink()
    assert turn_back(run).name == "step-00000002"
    train(tokens, run, config_of(), resume=True)
    assert outcome(run) == outcome(first)


def test_a_kind_without_such_a_head_is_refused_in_one_line(tokens, tmp_path):
    config = config_of(model=LlamaModelConfig(size="tiny", layers=1), objective=Query())
    with pytest.raises(ConfigError, match="needs the query head, but model kind llama can have no"):
        train(tokens, tmp_path / "run", config)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_nothing_behind_what_may_be_seen_of_a_record_is_told():
    """Where examples end at some time, the record ends there, whatever follows."""
    tokens = random_split()
    length = np.diff(tokens.offsets)
    told = []
    for other in (0, 1):
        changed = tokens.token.copy()
        half = np.concatenate([np.arange(n) >= n // 2 + 1 for n in length])
        changed[half] = np.where(changed[half] == DEATH, DEATH, 8 + (changed[half] + other) % 9)
        half_seen = Examples(
            replace(tokens, token=changed), np.arange(len(tokens)), length // 2 + 1
        )
        windows = newest(tokens, half_seen.subject, half_seen.visible, 512, half_seen.subject)
        material = Material(half_seen, windows, len(CODES), 3, Vocabulary())
        asked = Query(every=2).ask(pack(half_seen.tokens, windows), material, 0)
        told.append(asked.targets)
    assert told[0]["occurs"].any()
    for name, value in told[0].items():
        np.testing.assert_array_equal(value, told[1][name])
