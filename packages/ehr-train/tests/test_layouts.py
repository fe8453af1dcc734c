"""One run on one, two and four processes, by DDP and by FSDP2, each from a checkpoint of another of these."""

import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from pydantic import ValidationError
from safetensors.torch import load_file

from ehr_models.adapters.config import AdapterConfig
from ehr_tracking.checkpoints import CheckpointStore
from ehr_tracking.config import to_dict
from ehr_tracking.runs import read_log
from ehr_train.config import CheckpointConfig, DataConfig, OptimConfig, TrainConfig
from ehr_train.run import train

from .conftest import tiny_config
from .test_resume import outcome

pytestmark = [pytest.mark.dist, pytest.mark.slow]

STEPS = 8
MEMBER = """
import os, torch, torch.distributed as dist
from ehr_train.job import Job
from ehr_train.loop import Trainer

os.environ["GLOO_SOCKET_IFNAME"] = "lo"
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://" + meeting, rank=rank, world_size=world)
Trainer(Job.from_spec(spec)).run()
dist.destroy_process_group()
"""
"""As text: what a forked process is to do has to be found where there are no tests."""


def go_on(run: Path, step: int, out: Path, tokens: Path, world: int, config: TrainConfig) -> Path:
    """From a checkpoint of a run to the end in `out`, as so many processes."""
    shutil.copytree(run, out)
    (out / "manifest.json").unlink(missing_ok=True)
    store = CheckpointStore(out / "checkpoints")
    kept = f"step-{step:08}"
    for path in store.directory.glob("step-*"):
        if path.name != kept:
            shutil.rmtree(path)
    pointers = f'{{"latest": "{kept}", "best": "{kept}", "scores": {{"{kept}": null}}}}'
    (store.directory / "pointers.json").write_text(pointers)
    (out / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    spec = {"tokens": str(tokens), "out": str(out), "init": None, "labels": None}
    told = {"meeting": f"{out}.meeting", "world": world}
    told["spec"] = {**spec, "device": "cpu", "steps": STEPS}
    forked = multiprocessing.get_context("forkserver")
    forked.set_forkserver_preload(["ehr_train.worker"])
    members = [
        forked.Process(target=exec, args=(MEMBER, {**told, "rank": rank})) for rank in range(world)
    ]
    for process in members:
        process.start()
    for process in members:
        process.join()
    assert [process.exitcode for process in members] == [0] * world
    return out


def same_but_for_rounding(one: Path, other: Path) -> None:
    logs = read_log(one / "metrics.jsonl"), read_log(other / "metrics.jsonl")
    for x, y in zip(*logs, strict=True):
        for name in ("step", "epoch", "targets", "tokens"):
            assert x[name] == y[name]
        for name in ("loss", "grad_norm", "val_loss"):
            assert x.get(name) == (y.get(name) and pytest.approx(y[name], abs=1e-5))
    for file in ("model.safetensors", "training_state/optimizer.safetensors"):
        found = [
            load_file(CheckpointStore(run / "checkpoints").latest() / file) for run in (one, other)
        ]
        assert found[0].keys() == found[1].keys()
        for name, tensor in found[0].items():
            torch.testing.assert_close(found[1][name], tensor, rtol=1e-3, atol=1e-5, msg=name)


def test_a_run_goes_on_under_any_layout_from_the_checkpoint_of_any_other(tokens, tmp_path):
    ddp = tiny_config(
        # at times one process has a window and another none
        optim=OptimConfig(lr=3e-3, steps=STEPS, ema=0.9),
        data=DataConfig(context=32, batch_tokens=200, micro_tokens=64),
        checkpoint=CheckpointConfig(every=2, keep=10),
    )
    fsdp = replace(ddp, parallel="fsdp", recompute=True)
    one = train(tokens, tmp_path / "one", ddp)
    four = go_on(one, 2, tmp_path / "four", tokens, 4, fsdp)
    sharded = go_on(four, 4, tmp_path / "sharded", tokens, 2, fsdp)
    two = go_on(sharded, 6, tmp_path / "two", tokens, 2, ddp)
    last = go_on(sharded, 6, tmp_path / "last", tokens, 1, ddp)
    for run in (four, sharded, two, last):
        same_but_for_rounding(one, run)
    again = go_on(sharded, 6, tmp_path / "again", tokens, 2, fsdp)
    assert outcome(again)["latest"] == outcome(sharded)["latest"]
    assert outcome(again)["log"] == outcome(sharded)["log"]


def test_the_scaled_loss_of_a_sharded_model_goes_on_from_that_of_a_whole_one(tokens, tmp_path):
    config = tiny_config(
        "clm",
        precision="fp16",
        optim=OptimConfig(lr=3e-3, steps=STEPS),
        data=DataConfig(context=32, batch_tokens=200, micro_tokens=64),
        checkpoint=CheckpointConfig(every=4, keep=10),
    )
    one = train(tokens, tmp_path / "one", config)
    two = go_on(one, 4, tmp_path / "two", tokens, 2, replace(config, parallel="fsdp"))
    logs = [read_log(run / "metrics.jsonl") for run in (one, two)]
    for x, y in zip(*logs, strict=True):
        assert (x["scale"], x["overflows"]) == (y["scale"], y["overflows"])
        assert y["loss"] == pytest.approx(x["loss"], abs=5e-3)
        assert y.get("grad_norm") == (
            x.get("grad_norm") and pytest.approx(x["grad_norm"], rel=0.03)
        )


def test_weights_of_4_bits_are_not_sharded():
    with pytest.raises(ValidationError, match="parallel = fsdp cannot share out the 4-bit weights"):
        tiny_config(parallel="fsdp", adapter=AdapterConfig(kind="qlora"))
