"""What training holds for every kind of model in the table, with each head."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ehr_models import registry
from ehr_models.data.store import open_split
from ehr_models.data.tokens import open_tokens
from ehr_models.data.windows import newest
from ehr_models.kinds import KINDS
from ehr_train.config import CheckpointConfig, OptimConfig, ValidationConfig
from ehr_train.data.examples import whole_records
from ehr_train.data.loader import Share
from ehr_train.data.sampler import Position, Sampler
from ehr_train.objectives import OBJECTIVES, Classification
from ehr_train.objectives.asker import Asker
from ehr_train.objectives.learner import Learner
from ehr_train.run import train
from ehr_train.step import Stepper

from .conftest import TINY, tiny_config
from .test_resume import outcome, turn_back

every_kind = pytest.mark.parametrize("kind", [name for name, k in KINDS.items() if k.sizes])
every_head = pytest.mark.parametrize("head", ["token", "pooled"])


OPTIONS = {"gpt2_moe": {"every": 1, "balance": 0.0, "bias_rate": 0.01}, "hyena": {"heads": None}}
"""The balancing loss is of each pass as a whole, so that of two halves does not add up to it."""


def config_of(kind, **changes):
    objective = OBJECTIVES[KINDS[kind].pretraining]()
    model = KINDS[kind].config(**{**TINY, **OPTIONS.get(kind, {})})
    return tiny_config(**{"model": model, "objective": objective, **changes})


@pytest.fixture(scope="module")
def examples(tokens):
    whole = whole_records(open_split(open_tokens(tokens), "train"))
    return replace(whole, label=(np.arange(len(whole)) % 3 == 0).astype(np.float32))


def learner_and_asker(tokens, examples, kind, head):
    config = config_of(kind)
    objective = config.objective if head == "token" else Classification(pos_weight=2.0)
    size = open_tokens(tokens).vocab_size
    torch.manual_seed(0)
    model = objective.attach(registry.build(config.model, size)).train()
    return Learner(model, objective), Asker(objective, examples, size, 0), config


@every_head
@every_kind
def test_packed_is_what_each_window_is_alone(tokens, examples, kind, head):
    learner, asker, _ = learner_and_asker(tokens, examples, kind, head)
    windows = newest(examples.tokens, np.arange(9), examples.visible[:9], 32)
    single = [windows.take(slice(i, i + 1)) for i in range(9)]
    packed, count = learner(asker.ask(windows, 0))["loss"]
    packed.backward()
    gradient = [p.grad.clone() for p in learner.parameters() if p.grad is not None]
    learner.zero_grad()
    alone = [learner(asker.ask(w, 0))["loss"][0] for w in single]
    sum(alone).backward()
    assert count == sum(asker.ask(w, 0).counts["loss"] for w in single)
    assert packed.item() == pytest.approx(sum(x.item() for x in alone), rel=1e-6)
    separate = [p.grad for p in learner.parameters() if p.grad is not None]
    for p, g in zip(separate, gradient, strict=True):
        torch.testing.assert_close(p, g, atol=2e-4, rtol=1e-4)
    # the loss of one window hears nothing of its neighbours
    first, _ = learner(asker.ask(windows.take(np.array([0, 5])), 0))["loss"]
    assert first.item() == pytest.approx(alone[0].item() + alone[5].item(), rel=1e-6)


@pytest.mark.parametrize("kind", ["llama", "mamba2", "hyena"])
def test_computing_blocks_again_gives_the_same_gradients(tokens, examples, kind):
    """And each block is called twice."""
    windows = newest(examples.tokens, np.arange(9), examples.visible[:9], 32)
    found, calls = [], []
    for recompute in (False, True):
        learner, asker, config = learner_and_asker(tokens, examples, kind, "token")
        Stepper(learner, replace(config, recompute=recompute), torch.device("cpu"))
        blocks = next(m for m in learner.modules() if isinstance(m, torch.nn.ModuleList))
        seen = []
        inner = next(m for m in blocks[0].modules() if isinstance(m, torch.nn.Linear))
        inner.register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
        learner(asker.ask(windows, 0))["loss"][0].backward()
        calls.append(len(seen))
        found.append([p.grad for p in learner.parameters() if p.grad is not None])
    assert calls[1] == 2 * calls[0]
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@every_head
@every_kind
def test_the_parts_of_two_processes_add_up_to_what_one_learns(tokens, examples, kind, head):
    learner, asker, config = learner_and_asker(tokens, examples, kind, head)
    stepper = Stepper(learner, config, torch.device("cpu"))
    sampler = Sampler(examples, 32, "newest", 400, 0)

    def gradient(rank, world):
        share = Share(rank=rank, world=world, micro_tokens=150, c=0.01)
        step = next(share.prepare(sampler.steps(Position()), asker.ask))
        stepper.update.clear()
        means, counts, *_ = stepper._backward(step.passes)
        grads = [p.grad * counts for p in learner.parameters() if p.grad is not None]
        return means * counts, counts, grads

    one, first, second = gradient(0, 1), gradient(0, 2), gradient(1, 2)
    assert one[1] == first[1] + second[1]
    torch.testing.assert_close(one[0], first[0] + second[0], rtol=1e-6, atol=1e-5)
    for whole, a, b in zip(one[2], first[2], second[2], strict=True):
        torch.testing.assert_close(whole, a + b, atol=1e-3, rtol=1e-4)


@every_kind
def test_a_run_that_is_resumed_ends_with_the_same_bits(tokens, tmp_path, kind):
    config = config_of(
        kind,
        optim=OptimConfig(lr=3e-3, steps=4),
        checkpoint=CheckpointConfig(every=2),
        validation=ValidationConfig(every=100),
    )
    run = train(tokens, tmp_path / "run", config)
    before = outcome(run)
    (run / "manifest.json").unlink()
    assert turn_back(run).name == "step-00000002"
    train(tokens, run, config, resume=True)
    assert outcome(run) == before
