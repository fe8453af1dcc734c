"""How long it is to the next token: what is asked, what it costs, and that it is learned."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ehr_models import registry
from ehr_models.adapters.config import AdapterConfig
from ehr_models.checkpoint import load_checkpoint
from ehr_models.data.tokens import STATIC, Tokens, open_tokens
from ehr_models.data.windows import Windows, newest
from ehr_models.forecasts.time import time_edges
from ehr_models.heads.forecasts import attach, forecast_head
from ehr_models.heads.token import hidden_states
from ehr_models.kinds.chrono import ChronoModelConfig
from ehr_models.kinds.llama import LlamaModelConfig
from ehr_tracking.config import ConfigError
from ehr_tracking.contracts import BOS_ID, PAD_ID, SPECIALS, UNK_ID
from ehr_tracking.runs import read_log
from ehr_train.config import CheckpointConfig, DataConfig, OptimConfig, ValidationConfig
from ehr_train.data.examples import whole_records
from ehr_train.model import load_or_build
from ehr_train.objectives import CLM, Classification, Time
from ehr_train.objectives.asker import Asker
from ehr_train.objectives.learner import Learner
from ehr_train.objectives.total import Part, Sum
from ehr_train.run import train

from .conftest import TINY, tiny_config, write_tokens
from .test_resume import outcome, turn_back

SECOND_US, DAY_US = 1_000_000, 86_400_000_000
BOTH = Sum(parts=(Part(objective=CLM()), Part(objective=Time(bins=12))))


def config_of(**changes):
    return tiny_config(
        **{"model": ChronoModelConfig(**TINY), "objective": BOTH, "precision": "fp32", **changes}
    )


def records(token, time, prefix):
    return Tokens(
        subject_id=np.arange(len(prefix)),
        offsets=np.concatenate([[0], np.cumsum([len(t) for t in token])]),
        prefix=np.array(prefix),
        token=np.concatenate(token).astype(np.uint16),
        time=np.concatenate(time),
        age=np.zeros(sum(map(len, token)), np.float32),
        visit=np.zeros(sum(map(len, token)), np.uint16),
        segment=np.zeros(sum(map(len, token)), np.uint8),
    )


# --- what is asked


def test_gaps_are_those_of_clm_between_tokens_that_have_a_time():
    s = SECOND_US
    tokens = records(
        [[BOS_ID, 7, 8, 9, 10, UNK_ID, 11, PAD_ID], [BOS_ID, 11, 12]],
        [[STATIC, STATIC, s, s, 61 * s, 62 * s, 65 * s, 66 * s], [STATIC, 5 * s, 9 * s]],
        [2, 1],
    )
    windows = Windows(np.array([0, 0, 1]), *np.array([[0, 0, 8], [0, 2, 0], [0, 4, 8], [8, 7, 11]]))
    examples = whole_records(tokens)
    clm, time = (Asker(o, examples, 13, 0).ask(windows, 0) for o in (CLM(), Time()))
    # 8 -> 9, 9 -> 10, UNK -> 11; behind the prefix 10 has none, UNK -> 11; 11 -> 12
    assert time.targets["rows"].tolist() == [2, 3, 5, 11, 14]
    assert time.targets["following"].tolist() == [9, 10, 11, 11, 12]
    assert time.targets["seconds"].tolist() == [0.0, 60.0, 3.0, 3.0, 4.0]
    assert time.counts == {"loss": 5}
    # all that clm asks but for what stands behind static tokens
    statics = clm.batch.time[clm.targets["rows"]] == STATIC
    assert torch.equal(clm.targets["rows"][~statics], time.targets["rows"])
    assert torch.equal(clm.targets["answers"][~statics], time.targets["following"])
    assert statics.any()


def test_static_tokens_alone_ask_nothing_and_cost_nothing():
    tokens = records([[BOS_ID, 7]], [[STATIC, STATIC]], [2])
    question = Asker(Time(), whole_records(tokens), 13, 0).ask(newest(tokens, 0, 2, 8), 0)
    assert question.counts == {"loss": 0}
    model = Time().attach(registry.build(ChronoModelConfig(**TINY), 13)).train()
    total, count = Learner(model, Time())(question)["loss"]
    total.backward()
    assert (total.item(), count) == (0, 0)
    assert not model.time_head.out.weight.grad.any()


def test_the_loss_is_that_of_the_bin_the_gap_falls_into():
    s = SECOND_US
    tokens = records([[BOS_ID, 8, 9, 10, 11]], [[STATIC, 0, 0, 30 * s, 30 * s + 400 * DAY_US]], [1])
    torch.manual_seed(0)
    model = Time(bins=6).attach(registry.build(ChronoModelConfig(**TINY), 13))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    question = Asker(Time(bins=6), whole_records(tokens), 13, 0).ask(newest(tokens, 0, 5, 8), 0)
    pairs = Learner(model, Time(bins=6)).eval()(question)
    with torch.no_grad():
        states = hidden_states(model, question.batch)
        following = model.model.embed_tokens.weight[[9, 10, 11]]
        logits = model.time_head(states[1:4], following)
    # the same moment, below a minute, and 400 days between edges 4 and 5 of 6
    edges = time_edges(6)
    assert edges[4] < 400 * 86_400 < edges[5]
    wanted = torch.tensor([0, 1, 5])
    by_hand = -logits.log_softmax(-1)[torch.arange(3), wanted].sum()
    assert pairs["loss"][0].item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert pairs["accuracy"] == ((logits.argmax(-1) == wanted).sum(), 3)


# --- that it is learned


def subjects_of(rng, number, first):
    """Codes 0, 1 and 2: at the same moment, a day later, and 30 or 90 days later, as it comes."""
    gaps = {0: (0.0, 0.0), 1: (1.0, 1.0), 2: (30.0, 90.0)}
    found = []
    for subject in range(number):
        codes = rng.integers(0, 3, 30)
        days = np.cumsum([gaps[code][rng.integers(2)] for code in codes])
        found.append(
            {
                "subject_id": first + subject,
                "token": [BOS_ID, *(codes + len(SPECIALS)).tolist()],
                "time": [None, *days.tolist()],
            }
        )
    return found


def test_the_distribution_of_gaps_is_learned_given_the_token(tmp_path):
    rng = np.random.default_rng(0)
    splits = {"train": subjects_of(rng, 60, 0), "tuning": subjects_of(rng, 10, 1000)}
    tokens = write_tokens(tmp_path / "t", splits, codes=3)
    objective = Sum(parts=(Part(objective=CLM()), Part(objective=Time())))
    config = config_of(
        objective=objective,
        optim=OptimConfig(lr=3e-2, steps=60),
        data=DataConfig(context=32, batch_tokens=640, micro_tokens=640),
        validation=ValidationConfig(every=60),
        checkpoint=CheckpointConfig(every=60),
    )
    run = train(tokens, tmp_path / "run", config)
    log = read_log(run / "metrics.jsonl")
    assert {"loss_clm", "loss_time", "val_time_loss", "val_clm_loss"} <= log[-1].keys()
    assert log[-1]["val_loss"] == pytest.approx(
        log[-1]["val_clm_loss"] + log[-1]["val_time_loss"], rel=1e-5
    )
    # a third of the gaps are 30 or 90 days, by a coin: nothing can be better than ln(2) / 3
    assert np.log(2) / 3 - 0.05 < log[-1]["val_time_loss"] < np.log(2) / 3 + 0.1
    model = load_checkpoint(run).model
    head = forecast_head(model, "time")
    states = torch.zeros(3, model.config.hidden_size)  # chance given the token alone
    with torch.no_grad():
        logits = head(states, model.get_input_embeddings()(len(SPECIALS) + torch.arange(3)))

    def within(days):
        return head.chance_within(logits, torch.full((3,), days * 86_400.0)).tolist()

    assert within(0) == pytest.approx([1, 0, 0], abs=0.1)
    assert within(2) == pytest.approx([1, 1, 0], abs=0.1)
    assert within(50) == pytest.approx([1, 1, 0.5], abs=0.15)
    assert within(150) == pytest.approx([1, 1, 1], abs=0.1)


# --- runs


SHORT = {
    "optim": OptimConfig(lr=3e-3, steps=4),
    "checkpoint": CheckpointConfig(every=2),
    "validation": ValidationConfig(every=100),
}


@pytest.fixture(scope="module")
def first(tokens, tmp_path_factory):
    return train(tokens, tmp_path_factory.mktemp("first") / "run", config_of(**SHORT))


def test_a_run_with_the_head_is_resumed_to_the_same_bits(tokens, first, tmp_path):
    before = outcome(first)
    assert load_checkpoint(first).model.config.time_head == {"edges": time_edges(12)}
    run = Path(shutil.copytree(first, tmp_path / "run"))
    (run / "manifest.json").unlink()
    assert turn_back(run).name == "step-00000002"
    train(tokens, run, config_of(**SHORT), resume=True)
    assert outcome(run) == before


def test_a_head_is_taken_over_trained_on_and_left_alone_where_none_asks(tokens, first, tmp_path):
    token_set, begun = open_tokens(tokens), load_checkpoint(first).model.time_head.state_dict()
    on = load_or_build(first, config_of(), BOTH, token_set, None)
    assert all(torch.equal(on.time_head.state_dict()[name], begun[name]) for name in begun)
    assert all(p.requires_grad for p in on.parameters())
    plain = config_of(**SHORT, objective=CLM())
    kept = load_checkpoint(train(tokens, tmp_path / "plain", plain, init=first)).model
    assert all(torch.equal(kept.time_head.state_dict()[name], begun[name]) for name in begun)
    assert not torch.equal(kept.model.norm.weight, on.model.norm.weight)
    adapted = replace(plain, adapter=AdapterConfig(rank=2))
    for config in (plain, adapted):
        model = load_or_build(first, config, CLM(), token_set, None)
        assert not any(p.requires_grad for p in model.time_head.parameters())
        assert any(p.requires_grad for p in model.model.parameters())
    with pytest.raises(ConfigError, match="has a time head already, with other edges"):
        load_or_build(first, config_of(), Time(bins=20), token_set, None)
    classifier = Classification().attach(kept)
    assert not hasattr(classifier, "time_head")


def test_it_may_stand_beside_a_head_over_subjects():
    model = registry.build(ChronoModelConfig(**TINY), 60)
    parts = (Part(objective=CLM()), Part(objective=Time()), Part(objective=Classification()))
    both = Sum(parts=parts)
    assert both.forecasts == ("time",)
    made = both.attach(model)
    assert forecast_head(made, "time") is made.time_head
    assert made.classifier is not None
    assert torch.equal(made.lm_head.weight, model.lm_head.weight)


def test_a_kind_that_can_have_no_such_head_is_refused_before_anything_is_written(tokens, tmp_path):
    config = config_of(model=LlamaModelConfig(size="tiny", layers=1))
    with pytest.raises(ConfigError, match=r"sum needs the time head, .* llama can have no such"):
        train(tokens, tmp_path / "run", config)
    assert not (tmp_path / "run" / "checkpoints").exists()
    model = registry.build(config.model, 60)
    with pytest.raises(ConfigError, match="llama can have no time head; chrono can"):
        attach(model, "time", {"edges": time_edges(5)})
