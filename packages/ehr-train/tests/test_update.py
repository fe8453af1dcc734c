"""The update: steps that are passed over, the scale of an fp16 loss, averaged weights, accumulation."""

import math
from dataclasses import replace
from itertools import islice

import pytest
import torch
from safetensors.torch import load_file
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ehr_models.adapters.config import AdapterConfig
from ehr_tracking.checkpoints import CheckpointStore
from ehr_tracking.errors import UserError
from ehr_tracking.runs import read_log
from ehr_train.config import (
    CheckpointConfig,
    DataConfig,
    OptimConfig,
    SkipConfig,
    ValidationConfig,
)
from ehr_train.data.sampler import Position
from ehr_train.guard import Guard, Tally
from ehr_train.optim import OPTIMIZERS
from ehr_train.report import write_report
from ehr_train.run import train

from .conftest import random_subjects, tiny_config, write_tokens
from .test_resume import outcome, turn_back
from .test_step import trainer

WAYS = {
    **{kind: {"kind": kind} for kind in OPTIMIZERS},
    "fp16": {},
    "ema": {"ema": 0.5},
    "muon, fp16 and ema": {"kind": "muon", "ema": 0.5},
}
every_way = pytest.mark.parametrize("way", WAYS)


def config_of(way="adamw", steps=6, skip=None, **changes):
    return tiny_config(
        "clm",
        **{
            "optim": OptimConfig(lr=3e-3, steps=steps, skip=skip or SkipConfig(), **WAYS[way]),
            "checkpoint": CheckpointConfig(every=3),
            "validation": ValidationConfig(every=100),
            "precision": "fp16" if "fp16" in way else "fp32",
            **changes,
        },
    )


def learnt(t):
    return [p.detach().clone() for p in t.model.parameters()]


def kept(t):
    with t.stepper.update.averaged():
        return learnt(t)


def everything(t):
    """Weights, and what optimizers hold of them, averages too."""
    states = [s for o in t.stepper.update.optimizers for s in o.state.values()]
    return [*learnt(t), *(v.clone() for s in states for v in s.values())]


def same(one, two):
    return all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(one, two, strict=True))


@every_way
def test_passes_add_up_to_one_large_batch(tokens, tmp_path, way):
    found = []
    for passes in (1, 2):
        data = DataConfig(context=32, batch_tokens=400, micro_tokens=400 if passes == 1 else 40)
        t = trainer(tokens, tmp_path / str(passes), config_of(way, data=data))
        for step in islice(t.prepared(Position()), 3):
            assert (len(step.passes) == 1) == (passes == 1)
            t.step(step)
        found.append([*learnt(t), *kept(t)])
    atol = (
        2e-3 if way in ("muon", "fp16") or "," in way else 2e-5
    )  # of weights that move 3e-3 a step
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, atol=atol, rtol=0)
    assert same(learnt(t), kept(t)) == ("ema" not in way)


@pytest.mark.parametrize("way", ["muon", "muon, fp16 and ema"])
def test_a_run_that_is_resumed_ends_with_the_same_bits(tokens, tmp_path, way):
    run = train(tokens, tmp_path / "run", config_of(way))
    before = outcome(run)
    (run / "manifest.json").unlink()
    assert turn_back(run).name == "step-00000003"
    train(tokens, run, config_of(way), resume=True)
    assert outcome(run) == before


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """A single record is longer than 20 tokens."""
    subjects = [*random_subjects(0, 30, 0, longest=18), *random_subjects(50, 40, 1)]
    long = next(s for s in subjects[30:] if len(s["token"]) > 40)
    return write_tokens(tmp_path_factory.mktemp("uneven") / "t", {"train": [*subjects[:30], long]})


def poisoned(uneven, out, config):
    """A trainer whose model gives no number for the long record."""
    t = trainer(
        uneven, out, replace(config, data=DataConfig(context=64, batch_tokens=120, micro_tokens=64))
    )
    with torch.no_grad():
        t.model.transformer.wpe.weight[30] = math.inf
    return t


@pytest.mark.parametrize("way", ["adamw", "muon, fp16 and ema"])
def test_a_batch_that_gives_no_number_changes_nothing(uneven, tmp_path, way):
    with_it, without = (poisoned(uneven, tmp_path / name, config_of(way)) for name in "ab")
    bad = []
    for step in islice(with_it.prepared(Position()), 9):
        before = everything(with_it)
        done = with_it.step(step)
        skipped = max(q.batch.max_length for q in step.passes) > 20
        if skipped:
            bad.append(with_it.state.progress.step)
            assert not done.figures[0].isfinite()
            assert same(everything(with_it), before)
            progress = without.state.progress
            without.state.progress = replace(progress, step=progress.step + 1)
        else:
            without.step(step)
            assert not same(learnt(with_it), before[: len(learnt(with_it))])
    assert 1 <= len(bad) < 5
    assert bad[0] > 1
    assert with_it.stepper.update.guard.tally().skipped == len(bad)
    assert same(everything(with_it), everything(without))


def test_skipped_steps_are_counted_and_end_a_run_past_the_limits(uneven, tmp_path):
    t = poisoned(uneven, tmp_path / "run", config_of(steps=12))
    t.run()
    log = read_log(tmp_path / "run" / "metrics.jsonl")
    lost = [r["step"] for r in log if "loss" not in r]
    assert len(lost) >= 2
    assert [r.get("skipped", 0) for r in log] == [sum(s <= r["step"] for s in lost) for r in log]
    summary = write_report(tmp_path / "run", t.config, [])
    assert f"{len(lost)} of 12 steps: loss or gradient not finite" in summary
    for limits, step in (
        (SkipConfig(in_a_row=0), lost[0]),
        (SkipConfig(in_all=1), lost[1]),
    ):
        out = tmp_path / f"run-{step}"
        with pytest.raises(UserError, match=rf"^step {step}: the loss is (nan|inf)"):
            poisoned(uneven, out, config_of(steps=12, skip=limits)).run()
        assert [r["step"] for r in read_log(out / "metrics.jsonl")] == list(range(1, step))


def test_the_scale_moves_as_that_of_torch():
    theirs = torch.amp.GradScaler("cpu", growth_interval=3)
    ours = Guard(torch.device("cpu"), scaled=True, interval=3)
    p = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([p], lr=0.0)
    for overflow in (1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 1, 0):
        theirs.scale(p.sum()).backward()
        p.grad.fill_(math.inf if overflow else 1.0)
        theirs.step(optimizer)
        theirs.update()
        found = ours.judge(torch.tensor(1.0), p.grad.norm())
        assert found == overflow
        tally = ours.tally()
        assert (tally.scale, tally.since) == (theirs.get_scale(), theirs._get_growth_tracker())
    assert (tally.skipped, tally.overflows) == (0, 4)


def test_fp16_learns_as_fp32_does_and_halves_a_scale_that_is_too_large(tokens, tmp_path):
    logs = []
    for name, scale in (("fp16", None), ("adamw", None), ("fp16", 2.0**26)):
        out = tmp_path / f"{name}-{scale}"
        t = trainer(tokens, out, config_of(name, steps=12))
        if scale:
            t.stepper.update.guard.restore(Tally(scale=scale))
        t.run()
        logs.append(read_log(out / "metrics.jsonl"))
        assert not any("skipped" in r for r in logs[-1])
    half, full, large = logs
    assert [r["loss"] for r in half] == pytest.approx([r["loss"] for r in full], abs=5e-3)
    assert (half[-1]["overflows"], half[-1]["scale"]) == (0, 2.0**16)
    over = large[-1]["overflows"]
    assert over >= 2
    assert large[-1]["scale"] == 2.0 ** (26 - over)
    assert [r["step"] for r in large if "grad_norm" not in r][:2] == [1, 2]
    assert sum("grad_norm" not in r for r in large) == over


def test_the_average_is_that_of_torch_and_is_what_is_validated_and_kept(tokens, tmp_path):
    run = train(tokens, tmp_path / "run", config_of("ema", steps=12))
    t = trainer(tokens, tmp_path / "by-hand", config_of())
    average = AveragedModel(t.model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    for step in islice(t.prepared(Position()), 12):
        t.step(step)
        average.update_parameters(t.model)
    latest = CheckpointStore(run / "checkpoints").latest()
    saved = load_file(latest / "model.safetensors")
    aside = load_file(latest / "training_state" / "optimizer.safetensors")
    for name, p in average.module.named_parameters():
        torch.testing.assert_close(saved[name], p.detach(), atol=1e-7, rtol=1e-6)
        assert torch.equal(aside[f"{name}/aside"], t.model.get_parameter(name))
    t.model.load_state_dict(average.module.state_dict())
    assert read_log(run / "metrics.jsonl")[-1]["val_loss"] == pytest.approx(
        t.validator.measure(t.stepper.learner)["val_loss"], abs=1e-6
    )


def test_an_adapter_is_averaged_and_resumed_alike(tokens, tmp_path):
    base = train(tokens, tmp_path / "base", config_of(steps=1))
    config = config_of("muon, fp16 and ema", adapter=AdapterConfig(rank=2))
    run = train(tokens, tmp_path / "run", config, init=base)
    before = outcome(run)
    (run / "manifest.json").unlink()
    turn_back(run)
    train(tokens, run, config, init=base, resume=True)
    assert outcome(run) == before
