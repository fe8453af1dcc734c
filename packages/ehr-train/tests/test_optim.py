import math

import pytest
import torch
from transformers import get_scheduler

from ehr_models import registry
from ehr_train.config import OptimConfig
from ehr_train.optim import Muon, learning_rate, make_optimizers

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
    [optimizer] = make_optimizers(layer, config)
    layer.weight.grad, layer.bias.grad = torch.full((1, 1), 3.0), torch.full((1,), 3.0)
    optimizer.step()
    move = 0.1 * 3.0 / (math.sqrt(9.0) + 1e-8)
    assert layer.weight.item() == pytest.approx(2.0 - 0.1 * 0.5 * 2.0 - move)
    assert layer.bias.item() == pytest.approx(2.0 - move)


@pytest.mark.parametrize("kind", ["mlm", "clm"])
def test_norms_biases_and_embeddings_do_not_decay(kind):
    model = registry.build(tiny_config(kind).model, 64)
    [optimizer] = make_optimizers(model, OptimConfig(weight_decay=0.1))
    groups = optimizer.param_groups
    names = {id(p): n for n, p in model.named_parameters()}
    decayed = {names[id(p)] for g in groups if g["weight_decay"] for p in g["params"]}
    rest = {names[id(p)] for g in groups if not g["weight_decay"] for p in g["params"]}
    assert decayed | rest == set(names.values())
    assert decayed
    assert all(n.endswith("weight") for n in decayed)
    tables = ("code.weight", "wte.weight", "wpe.weight", "visit.weight", "segment.weight")
    assert not any("norm" in n or "ln_" in n or n.endswith(tables) for n in decayed)


def moved(optimizer, p, gradients):
    """The matrix after each gradient."""
    after = []
    for gradient in gradients:
        p.grad = gradient.clone()
        optimizer.step()
        after.append(p.detach().clone())
    return after


def test_muon_that_skips_equals_muon_that_never_saw_the_step():
    torch.manual_seed(0)
    start, gradients = torch.randn(6, 4), torch.randn(3, 6, 4)
    options = {"lr": 0.1, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
    p, q = (torch.nn.Parameter(start.clone()) for _ in range(2))
    theirs = moved(torch.optim.Muon([p], **options), p, gradients)
    ours = Muon([q], **options)
    found = []
    for bad, gradient in ((1, gradients[0] * math.nan), (0, gradients[0]), (0, gradients[1]),
                          (1, gradients[2] / 0), (0, gradients[2])):  # fmt: skip
        ours.found_inf = torch.tensor(float(bad))
        found += moved(ours, q, [gradient])
    assert torch.equal(found[0], start)
    assert torch.equal(found[2], found[3])
    assert all(
        torch.equal(a, b) for a, b in zip(theirs, (found[1], found[2], found[4]), strict=True)
    )


@pytest.mark.parametrize("kind", ["mlm", "clm"])
def test_muon_takes_the_matrices_of_linear_layers_and_adamw_all_else(kind):
    model = registry.build(tiny_config(kind).model, 64)
    muon, adamw = make_optimizers(model, OptimConfig(kind="muon"))
    names = {id(p): n for n, p in model.named_parameters()}
    taken, left = (
        {names[id(p)] for g in optimizer.param_groups for p in g["params"]}
        for optimizer in (muon, adamw)
    )
    assert taken | left == set(names.values())
    assert not taken & left
    assert {n for n in taken if model.get_parameter(n).ndim != 2} == set()
    blocks = {
        n for n, p in model.named_parameters() if p.ndim == 2 and (".h." in n or ".layers." in n)
    }
    assert taken == blocks
