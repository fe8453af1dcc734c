"""What a mixture of experts adds to a run: losses of its own, and where its tokens go."""

import pytest
import torch

from ehr_models import registry
from ehr_models.data.store import open_split
from ehr_models.data.tokens import open_tokens
from ehr_models.kinds.gpt2_moe import Gpt2MoeModelConfig
from ehr_tracking.runs import read_log
from ehr_train.config import OptimConfig
from ehr_train.data.examples import whole_records
from ehr_train.data.loader import Share
from ehr_train.data.sampler import Position, Sampler
from ehr_train.objectives.asker import Asker
from ehr_train.objectives.learner import Learner
from ehr_train.run import train
from ehr_train.step import Stepper

from .conftest import TINY, tiny_config


def config_of(steps=2, **options):
    model = Gpt2MoeModelConfig(**TINY, every=1, **options)
    return tiny_config("clm", model=model, optim=OptimConfig(lr=3e-3, steps=steps))


def summed(tokens, micro_tokens, **options):
    """One step's figures and the router's gradient, in passes of so many tokens."""
    token_set, config = open_tokens(tokens), config_of(**options)
    examples = whole_records(open_split(token_set, "train"))
    torch.manual_seed(0)
    model = registry.build(config.model, token_set.vocab_size).train()
    stepper = Stepper(Learner(model, config.objective), config, torch.device("cpu"))
    share = Share(rank=0, world=1, micro_tokens=micro_tokens, c=0.0)
    asker = Asker(config.objective, examples, token_set.vocab_size, 0)
    sampler = Sampler(examples, 32, "newest", 400, 0)
    step = next(share.prepare(sampler.steps(Position()), asker.ask))
    found = stepper._backward(step.passes)
    gradient = model.transformer.h[0].mlp.router.weight.grad
    return len(step.passes), dict(zip(stepper.beside, found.beside.tolist(), strict=True)), gradient


def test_figures_and_gradients_are_those_of_the_step_however_many_passes_it_takes(tokens):
    """All but the balancing loss, which is of each pass."""
    few, whole, gradient = summed(tokens, 4000, balance=0.0, z=5.0)
    many, parts, other = summed(tokens, 100, balance=0.0, z=5.0)
    assert (few, many > 2) == (1, True)
    assert parts["aux_balance"] != whole["aux_balance"]
    del parts["aux_balance"], whole["aux_balance"]
    assert parts == pytest.approx(whole, rel=1e-5)
    torch.testing.assert_close(other, gradient, atol=1e-5, rtol=1e-4)


def test_each_loss_is_learned_from_by_its_weight(tokens):
    plain = summed(tokens, 4000, balance=0.0, z=0.0)[2]
    for name in ("balance", "z"):
        one, three = (
            summed(tokens, 4000, **{"balance": 0.0, "z": 0.0, name: w})[2] for w in (1, 3)
        )
        assert (one - plain).abs().max() > 1e-4
        torch.testing.assert_close(three - plain, 3 * (one - plain), atol=1e-5, rtol=1e-3)


def test_a_run_shows_its_losses_and_where_tokens_go(tokens, tmp_path):
    run = train(tokens, tmp_path / "run", config_of(bias_rate=0.01))
    plain = train(tokens, tmp_path / "plain", config_of(balance=0.0, z=0.0))
    first, log = read_log(plain / "metrics.jsonl")[0], read_log(run / "metrics.jsonl")
    assert log[0]["loss"] == first["loss"]  # the objective's alone
    for record in log:
        assert record["aux_balance"] > 0.9
        assert record["aux_z"] > 0
        for layer in (0, 1):
            shares = [record[f"share_layer{layer}_expert{expert}"] for expert in range(4)]
            assert sum(shares) == pytest.approx(1)
    names = {path.name for path in (run / "plots").glob("*.png")}
    assert {"aux.png", "share_layer0.png", "share_layer1.png"} <= names
    page = (run / "report.html").read_text()
    assert "share_layer1 by step" in page
