"""Memory of a run: what is said before it, and what it takes; and passes that fit."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import yaml
from transformers import GPT2Model

from ehr_models.kinds.gpt2 import Gpt2ModelConfig
from ehr_tracking.config import load_config, to_dict
from ehr_tracking.errors import UserError
from ehr_tracking.runs import read_log
from ehr_train.config import DataConfig, OptimConfig, TrainConfig
from ehr_train.job import Job
from ehr_train.memory import Held
from ehr_train.micro import Trials, search
from ehr_train.run import train

from .conftest import random_subjects, tiny_config, write_tokens
from .test_resume import outcome, turn_back

WITHIN = 0.5
"""docs/train.md states it."""


def test_what_is_held_is_counted_while_it_is_held():
    made = torch.zeros(1000)
    with Held() as held:
        a = made + 1
        b = a.view(10, 100).t()
        a += 1
        assert held.now == 4000
        c = torch.cat([b.flatten(), a])
        assert held.now == held.most - 4000 == 12000 - 4000 + 4000
        del a, b, c
        assert held.now == 0


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    return write_tokens(
        tmp_path_factory.mktemp("long") / "t", {"train": random_subjects(0, 60, 0, longest=500)}
    )


def large(**data):
    return tiny_config(
        "clm",
        model=Gpt2ModelConfig(size="tiny"),
        optim=OptimConfig(steps=2, ema=0.9),
        data=DataConfig(context=256, batch_tokens=8192, **data),
    )


@pytest.mark.slow
def test_a_plan_says_what_a_run_takes(long, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(to_dict(large(micro_tokens=8192))))
    code = (
        "import sys, json; from ehr_tracking.config import load_config;"
        "from ehr_train.config import TrainConfig; from ehr_train.plan import plan;"
        "from ehr_train.run import train; tokens, out, recipe = sys.argv[1:];"
        "config = load_config(TrainConfig, recipe);"
        "print(json.dumps(plan(tokens, config))); train(tokens, out, config)"
    )
    run = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", code, str(long), str(run), str(recipe)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    planned = json.loads(done.stdout.splitlines()[0])
    timings = read_log(run / "timings.jsonl")
    assert planned["memory_mb"] == pytest.approx(timings[-1]["memory_mb"], rel=WITHIN)
    assert planned["seconds"] > 0


def job_of(tokens):
    return Job(tokens=tokens, out=tokens, init=None, labels=None, device="cpu")


def test_blocks_computed_again_are_seen_in_what_a_pass_takes(tokens):
    taken = []
    for recompute in (False, True):
        config = replace(tiny_config("clm"), recompute=recompute)
        config = replace(config, model=replace(config.model, layers=4))
        trials = Trials(job_of(tokens), config, 1)
        assert trials(64) > 0
        taken.append(trials.cost.per_token)
    assert 0 < taken[1] < taken[0] / 2


def without_room(monkeypatch, most):
    """A model that finds no memory for more tokens."""
    forward = GPT2Model.forward

    def limited(self, input_ids=None, **kwargs):
        given = kwargs["inputs_embeds"] if input_ids is None else input_ids
        if given.shape[:2].numel() > most:
            raise torch.OutOfMemoryError("Tried to allocate 2 GiB. GPU 0 has")
        return forward(self, input_ids, **kwargs)

    monkeypatch.setattr(GPT2Model, "forward", limited)


def test_passes_that_do_not_fit_are_survived_and_not_taken(tokens, monkeypatch):
    config = tiny_config("clm")
    trials = Trials(job_of(tokens), config, 1)
    assert trials(32) > 0  # measured by now
    without_room(monkeypatch, 100)
    assert trials(128) is None
    assert trials(64) > 0
    assert search(trials, config) in (32, 64)
    trials.room = trials.base + trials.cost.peak_bytes(40)
    assert trials(64) is None
    assert search(trials, config) == 32
    trials.room = 0
    with pytest.raises(UserError, match="a window of 32 tokens does not fit"):
        search(trials, config)


def test_memory_that_runs_out_in_a_step_is_one_line(tokens, tmp_path, monkeypatch):
    without_room(monkeypatch, 100)
    with pytest.raises(UserError, match=r"^out of memory: lower data\.micro_tokens .*2 GiB$"):
        train(tokens, tmp_path / "run", tiny_config("clm"))


def test_what_auto_finds_is_kept_for_the_run(tokens, tmp_path):
    config = tiny_config("clm", data=DataConfig(context=32, batch_tokens=200, micro_tokens="auto"))
    config = replace(config, optim=OptimConfig(steps=4))
    run = train(tokens, tmp_path / "run", config)
    found = load_config(TrainConfig, run / "config.yaml")
    assert found.data.micro_tokens in (32, 64, 128)
    before = outcome(run)
    (run / "manifest.json").unlink()
    turn_back(run)
    train(tokens, run, config, resume=True)
    assert outcome(run)["latest"] == before["latest"]
