import math

import pytest
import torch
from transformers import get_scheduler

from ehr_models import registry
from ehr_train.config import OptimConfig
from ehr_train.optim import learning_rate, make_optimizer

from .conftest import tiny_config


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_schedules_equal_those_of_transformers_after_the_warmup(schedule):
    config = OptimConfig(lr=0.3, schedule=schedule, warmup=10)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=10, num_training_steps=100)
    theirs = []
    for _ in range(100):
        theirs.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    ours = [learning_rate(s, 100, config) for s in range(100)]
    assert ours[10:] == pytest.approx(theirs[10:])
    assert ours[:10] == pytest.approx(theirs[1:11])  # ours wastes no first step at rate 0


def test_wsd_holds_then_falls_to_its_floor():
    config = OptimConfig(lr=1.0, schedule="wsd", warmup=0.1, decay=0.25, floor=0.1)
    rates = [learning_rate(s, 40, config) for s in range(40)]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert set(rates[4:31]) == {1.0}
    assert rates[30:] == pytest.approx([1 - 0.09 * i for i in range(10)])
    assert learning_rate(40, 40, config) == pytest.approx(0.1)


def test_one_step_equals_adamw_by_hand():
    # Loshchilov, Hutter: Decoupled weight decay regularization, algorithm 2
    config = OptimConfig(lr=0.1, betas=(0.9, 0.99), weight_decay=0.5, eps=1e-8)
    layer = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(layer.weight, 2.0)
    torch.nn.init.constant_(layer.bias, 2.0)
    optimizer = make_optimizer(layer, config)
    layer.weight.grad, layer.bias.grad = torch.full((1, 1), 3.0), torch.full((1,), 3.0)
    optimizer.step()
    move = 0.1 * 3.0 / (math.sqrt(9.0) + 1e-8)
    assert layer.weight.item() == pytest.approx(2.0 - 0.1 * 0.5 * 2.0 - move)
    assert layer.bias.item() == pytest.approx(2.0 - move)


@pytest.mark.parametrize("kind", ["mlm", "clm"])
def test_norms_biases_and_embeddings_do_not_decay(kind):
    model = registry.build(tiny_config(kind).model, 64)
    groups = make_optimizer(model, OptimConfig(weight_decay=0.1)).param_groups
    names = {id(p): n for n, p in model.named_parameters()}
    decayed = {names[id(p)] for g in groups if g["weight_decay"] for p in g["params"]}
    rest = {names[id(p)] for g in groups if not g["weight_decay"] for p in g["params"]}
    assert decayed | rest == set(names.values())
    assert decayed
    assert all(n.endswith("weight") for n in decayed)
    tables = ("code.weight", "wte.weight", "wpe.weight", "visit.weight", "segment.weight")
    assert not any("norm" in n or "ln_" in n or n.endswith(tables) for n in decayed)
