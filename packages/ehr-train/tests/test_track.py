"""Runs with trackers on: the same bits, killed and resumed as well, and each step told once."""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ehr_tracking.checkpoints import CheckpointStore
from ehr_tracking.manifest import load_manifest, sha256, verify
from ehr_tracking.runs import read_log
from ehr_train.run import train

from .conftest import tiny_config
from .test_cli import ehr_train
from .test_resume import config, kill_at, outcome  # noqa: F401 -- a fixture


def scalars(run, name):
    events = EventAccumulator(str(run / "tensorboard"), {"scalars": 0})
    events.Reload()
    return events, [(e.step, e.value) for e in events.Scalars(name)]


def logged(run, name):
    return [
        (r["step"], pytest.approx(r[name])) for r in read_log(run / "metrics.jsonl") if name in r
    ]


def test_a_run_is_the_same_with_a_tracker_that_has_all_its_figures(tokens, tmp_path):
    alone = train(tokens, tmp_path / "alone", tiny_config())
    run = train(tokens, tmp_path / "run", tiny_config(), track=["tensorboard"])
    assert outcome(run) == outcome(alone)
    assert verify(run) == []
    assert verify(alone) == []
    for name in ("loss", "val_loss", "lr", "tokens"):
        events, found = scalars(run, name)
        assert found == logged(run, name)
    assert scalars(run, "tokens_per_second")[1]
    shown = {
        t: events.Tensors(t)[-1].tensor_proto.string_val[0].decode()
        for t in events.Tags()["tensors"]
    }
    assert load_manifest(run).inputs["tokens"].fingerprint in shown["tags"]
    assert "| optim.lr | 0.003 |" in shown["config"]
    best = CheckpointStore(run / "checkpoints").best()
    assert sha256(best / "manifest.json") in shown["end"]
    assert "train loss" in shown["SUMMARY.txt"]
    told = "".join(shown.values()) + (run / "tracking.json").read_text()
    assert str(tmp_path) not in told
    assert json.loads((run / "tracking.json").read_text()) == {"tensorboard": "tensorboard"}


@pytest.mark.slow
def test_a_tracked_run_killed_and_resumed_ends_bit_identical_and_tells_each_step_once(
    tokens,
    tmp_path,
    config,  # noqa: F811
):
    whole = train(tokens, tmp_path / "whole", config)
    run = tmp_path / "killed"
    for step in (8, 25):
        kill_at(step, run, tokens, run, config, resume=True, track=["tensorboard"])
    train(tokens, run, config, resume=True, track=["tensorboard"])
    assert outcome(run) == outcome(whole)
    assert scalars(run, "loss")[1] == logged(run, "loss")
    assert verify(run) == []


def test_a_tracker_that_cannot_be_reached_is_one_line_and_leaves_nothing(tokens, tmp_path):
    common = ["--tokens", tokens, "--out", tmp_path / "run", "--track"]
    for spec, said in [
        ("mlflow:http://127.0.0.1:9", "http://127.0.0.1:9 cannot be reached: Connection refused"),
        ("mlfow", "no tracker mlfow; choose one of mlflow, tensorboard, wandb"),
    ]:
        refused = ehr_train(*common, spec)
        assert refused.exit_code == 2
        assert said in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
        assert not (tmp_path / "run").exists()
