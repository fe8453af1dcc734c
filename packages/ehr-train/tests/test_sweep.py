"""Sweeps: what is read, what is refused, and that a search finds, prunes and goes on."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from ehr_tracking.config import load_config, to_dict
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import verify
from ehr_tracking.runs import read_log
from ehr_train.cli import main
from ehr_train.config import TrainConfig
from ehr_train.sweep.space import Parameter, read_space
from ehr_train.sweep.study import Search, run_sweep

from .conftest import tiny_config

STAND_IN = """\
import fcntl, json, os, pathlib, signal, sys, time
arguments = sys.argv[1:]
settings = dict(x.split("=") for x in arguments if "=" in x)
out = pathlib.Path(arguments[arguments.index("--out") + 1])
out.mkdir(exist_ok=True)
lock = (out.parent / f".{out.name}.lock").open("w")
fcntl.flock(lock, fcntl.LOCK_EX)
log, lr = out / "metrics.jsonl", float(settings["optim.lr"])
done = len(log.read_text().splitlines()) if log.exists() else 0
for step in range(done + 1, 5):
    with log.open("a") as file:
        file.write(json.dumps({"step": step, "val_loss": (lr - 0.3) ** 2 + 1 / step}) + "\\n")
    if "--die" in arguments and step == 2:  # in the middle of every run
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(float(settings.get("wait", 0)))
(out / "config.yaml").write_text(json.dumps(settings))
"""
"""A run that is a curve: it learns, and ends at (lr - 0.3)^2 + 1/4."""
LR = {"optim.lr": {"min": 0.01, "max": 1.0}}


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "stand_in.py"
    path.write_text(STAND_IN)
    return [sys.executable, str(path)]


def write(path, **changes):
    tree = {
        "method": "bayes",
        "metric": {"name": "eval/loss", "goal": "minimize"},
        "parameters": LR,
        **changes,
    }
    path.write_text(yaml.safe_dump({k: v for k, v in tree.items() if v is not None}))
    return path


def found(out):
    with (out / "trials.csv").open() as file:
        return [(r["state"], r["optim.lr"], r["val_loss"]) for r in csv.DictReader(file)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"values": [8, "1e-6", True, [0.9, 0.98]]},
            {"choices": ("8", "1e-6", "true", "[0.9, 0.98]")},
        ),
        ({"value": None}, {"choices": ("null",)}),
        ({"min": 1, "max": 4}, {"low": 1, "high": 4, "whole": True}),
        ({"min": 1, "max": 4.5}, {"low": 1.0, "high": 4.5}),
        (
            {"distribution": "log_uniform_values", "min": "1e-6", "max": "5e-5"},
            {"low": 1e-6, "high": 5e-5, "log": True},
        ),
        (
            {"distribution": "log_uniform", "min": 0, "max": 0},
            {"low": 1.0, "high": 1.0, "log": True},
        ),
        (
            {"distribution": "q_uniform", "q": 32, "min": 64, "max": 256},
            {"low": 64, "high": 256, "step": 32, "whole": True},
        ),
    ],
)
def test_a_parameter_is_read_as_wandb_means_it(tmp_path, given, expected):
    nested = {"optim": {"parameters": {"x": given}}}
    space = read_space(write(tmp_path / "sweep.yaml", parameters=nested))
    assert space.parameters == (Parameter("optim.x", **expected),)
    assert space.config.metric.figure == "loss"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"parameters": {"optim.rate": {"value": 1}}},
            "parameters.optim.rate: .* unknown key optim.rate",
        ),
        (
            {"parameters": {"optim.lr": {"values": [0.1, -1]}}},
            r"parameters.optim.lr: .*optim.lr = -1",
        ),
        (
            {"parameters": {"optim.lr": {"distribution": "beta", "min": 0, "max": 1}}},
            "'beta' is none of",
        ),
        ({"parameters": {"optim.lr": {"min": 1}}}, "needs min and max"),
        ({"parameters": {"optim.lr": 3}}, "parameters.optim.lr says neither"),
        ({"metric": {"name": "val_loss"}}, "metric.goal has to be set"),
        ({"metric": {"name": "val_auroc", "goal": "maximize"}}, "objective mlm has .*val_loss"),
        ({"method": "grid"}, "a grid takes `values`"),
        ({"method": "anneal"}, "method = 'anneal'"),
    ],
)
def test_a_bad_sweep_is_refused_before_anything_runs(tmp_path, changes, message):
    file, out = write(tmp_path / "sweep.yaml", **changes), tmp_path / "out"
    arguments = ["sweep", str(file), "--out", str(out), "--run", "--tokens none"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert len(done.output.strip().splitlines()) == 1
    assert re.search(message, done.output), done.output
    assert not out.exists()


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("--tokens t --out o", "--out is not for the runs of a sweep"),
        ("--tokens t --folds 3", "--folds is not for"),
        ("--tokens t --nope", "No such option"),
        ("-s seed=1", "--tokens is needed"),
        ("slurm --run x", "a sweep is of runs"),
    ],
)
def test_options_that_a_run_of_a_sweep_cannot_have_are_refused(tmp_path, run, message):
    file = write(tmp_path / "sweep.yaml")
    done = CliRunner().invoke(
        main, ["sweep", str(file), "--out", str(tmp_path / "o"), "--run", run]
    )
    assert (done.exit_code, message in done.output) == (2, True), done.output


def test_a_search_finds_the_best_and_the_same_seed_finds_it_again(tmp_path, program):
    space = read_space(write(tmp_path / "sweep.yaml"))
    for name in "ab":
        swept = run_sweep(space, [], tmp_path / name, Search(trials=6), program=program)
    assert found(tmp_path / "a") == found(tmp_path / "b")
    assert len({lr for _, lr, _ in found(tmp_path / "a")}) == 6
    assert swept.value == min(float(value) for _, _, value in found(tmp_path / "a"))
    assert abs(swept.settings["optim.lr"] - 0.3) < 0.2
    best = json.loads((tmp_path / "b" / "best.yaml").read_text())
    assert float(best["optim.lr"]) == swept.settings["optim.lr"]
    page = (tmp_path / "b" / "report.html").read_text()
    assert page.count("<figure>") == 3
    with pytest.raises(UserError, match="pass --resume to go on or --overwrite"):
        run_sweep(space, [], tmp_path / "a", program=program)
    with pytest.raises(UserError, match="was begun with another sweep"):
        run_sweep(space, [], tmp_path / "a", Search(seed=1), resume=True, program=program)


def test_a_grid_tries_each_setting_once_and_ends(tmp_path, program):
    parameters = {"optim.lr": {"values": [0.1, 0.3]}, "seed": {"min": 1, "max": 3}}
    space = read_space(write(tmp_path / "sweep.yaml", method="grid", parameters=parameters))
    swept = run_sweep(space, [], tmp_path / "out", Search(trials=50, workers=3), program=program)
    assert swept.trials == 6
    assert sorted(lr for _, lr, _ in found(tmp_path / "out")) == ["0.1"] * 3 + ["0.3"] * 3
    assert swept.settings["optim.lr"] == "0.3"


def test_trials_that_do_worse_end_early(tmp_path, program):
    values = [0.3, 0.31, 0.32, 0.33, 9.0, 9.1]
    space = read_space(
        write(tmp_path / "sweep.yaml", method="grid", parameters={"optim.lr": {"values": values}})
    )
    search = Search(prune="median")
    run_sweep(space, ["-s", "wait=0.4"], tmp_path / "out", search, program=program)
    states = [state for state, _, _ in found(tmp_path / "out")]
    assert states == ["complete"] * 4 + ["pruned"] * 2
    cut = read_log(tmp_path / "out" / "trials" / "0004" / "metrics.jsonl")
    assert len(cut) < 4


def test_a_run_that_was_killed_is_resumed_and_one_that_fails_is_told(tmp_path, program):
    space = read_space(write(tmp_path / "sweep.yaml"))
    swept = run_sweep(space, ["--die"], tmp_path / "out", Search(trials=1), program=program)
    assert swept.value is not None
    steps = [r["step"] for r in read_log(tmp_path / "out" / "trials" / "0000" / "metrics.jsonl")]
    assert steps == [1, 2, 3, 4]
    broken = [sys.executable, "-c", "raise SystemExit('no such device')"]
    with pytest.raises(UserError, match=r"the first 3 trials failed, .* no such device"):
        run_sweep(space, [], tmp_path / "broken", program=broken)


def test_a_sweep_that_was_killed_goes_on_as_if_nothing_had_been(tmp_path, program):
    space = read_space(write(tmp_path / "sweep.yaml"))
    run_sweep(space, ["-s", "wait=0"], tmp_path / "whole", Search(trials=5), program=program)
    code = (
        "import sys; from ehr_train.sweep.space import read_space; "
        "from ehr_train.sweep.study import Search, run_sweep; "
        f"run_sweep(read_space({str(tmp_path / 'sweep.yaml')!r}), ['-s', 'wait=0.1'], "
        f"{str(tmp_path / 'cut')!r}, Search(trials=5), program={program!r})"
    )
    driver = subprocess.Popen([sys.executable, "-c", code])
    log = tmp_path / "cut" / "trials" / "0002" / "metrics.jsonl"
    while not log.is_file():
        assert driver.poll() is None
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    search = Search(trials=5)
    run_sweep(space, ["-s", "wait=0.1"], tmp_path / "cut", search, resume=True, program=program)
    assert found(tmp_path / "cut") == found(tmp_path / "whole")


def test_a_real_run(tmp_path, tokens):
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(to_dict(tiny_config())))
    parameters = {"optim": {"parameters": {"lr": {"value": 2e-3}}}}
    file, out = write(tmp_path / "sweep.yaml", parameters=parameters), tmp_path / "out"
    arguments = ["sweep", str(file), "--out", str(out), "--trials", "1"]
    run = f"--tokens {tokens} -c {config} -s optim.steps=2 --device cpu"
    done = CliRunner().invoke(main, [*arguments, "--run", run])
    assert done.exit_code == 0, done.output
    trial = out / "trials" / "0000"
    assert verify(trial) == []
    lowest = min(x["val_loss"] for x in read_log(trial / "metrics.jsonl") if "val_loss" in x)
    assert f"the best is trials/0000 with {lowest:.6g}: optim.lr=0.002" in done.output
    best = load_config(TrainConfig, out / "best.yaml")
    assert best == load_config(TrainConfig, trial / "config.yaml")
    assert (best.optim.lr, best.optim.steps) == (0.002, 2)


def test_agents_of_wandb_run_the_same_commands(tmp_path):
    parameters = {
        "optim.lr": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-3},
        "optim.betas": {"values": [[0.9, 0.98], [0.9, 0.95]]},
        "model": {"parameters": {"layers": {"min": 1, "max": 4}}},
    }
    file = write(tmp_path / "sweep.yaml", parameters=parameters, project="a b")
    made, run = tmp_path / "agents.yaml", "--tokens 'my tokens' -s seed=3"
    arguments = ["sweep", str(file), "--run", run, "--out", "runs of/it", "--wandb", str(made)]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert read_space(made).parameters == read_space(file).parameters
    tree = yaml.safe_load(made.read_text())
    assert tree["metric"] == {"name": "val_loss", "goal": "minimize"}
    # as an agent fills it in
    chosen = {"optim.lr": 0.0003, "optim.betas": "[0.9, 0.95]", "model.layers": 2}
    command = []
    for part in tree["command"]:
        filled = [f"{k}={v}" for k, v in chosen.items()]
        command += filled if part == "${args_no_hyphens}" else [part]
    place = tmp_path / "bin"
    place.mkdir()
    (place / "ehr-train").write_text('#!/bin/bash\nprintf "%s\\0" "$@"\n')
    (place / "ehr-train").chmod(0o755)
    environment = {**os.environ, "PATH": f"{place}:{os.environ['PATH']}", "WANDB_RUN_ID": "r1"}
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    given = main.make_context("ehr-train", told.stdout.split("\0")[:-1]).params
    assert (given["tokens"], given["out"]) == (Path("my tokens"), Path("runs of/it/r1"))
    assert (given["resume"], given["track"]) == (True, ("wandb:a b",))
    config = load_config(TrainConfig, None, given["overrides"])
    assert (config.seed, config.optim.lr, config.optim.betas) == (3, 0.0003, (0.9, 0.95))
    assert config.model.layers == 2
