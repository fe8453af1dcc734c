import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ehr_models.kinds.gpt2_moe import Gpt2MoeModelConfig
from ehr_tracking.config import to_dict
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import verify
from ehr_tracking.runs import read_log
from ehr_train.config import CheckpointConfig, DataConfig, OptimConfig, ValidationConfig
from ehr_train.objectives import CLM
from ehr_train.run import train
from ehr_train.scale.launch import Processes, launch
from ehr_train.scale.stop import Stop

from .conftest import TINY, tiny_config
from .test_resume import children, command, fill_disk, lines, outcome, stop
from .test_track import logged, scalars

pytestmark = [pytest.mark.dist, pytest.mark.slow]


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def config():
    # 15 windows of 20 steps: at times one process has a single window and the other none
    return tiny_config(
        optim=OptimConfig(lr=3e-3, steps=20, kind="muon", ema=0.5),
        data=DataConfig(context=32, batch_tokens=200, micro_tokens=64),
    )


@pytest.fixture(scope="module")
def two(tokens, tmp_path_factory, config):
    run = tmp_path_factory.mktemp("two") / "run"
    return train(tokens, run, config, nproc=2, track=["tensorboard"])


def test_two_processes_learn_what_one_learns(tokens, tmp_path, config, two):
    one = train(tokens, tmp_path / "one", config)
    a, b = read_log(one / "metrics.jsonl"), read_log(two / "metrics.jsonl")
    assert len(a) == len(b) == 20
    for x, y in zip(a, b, strict=True):
        assert x["loss"] == pytest.approx(y["loss"], abs=1e-5)
        assert x.get("val_loss") == (y.get("val_loss") and pytest.approx(y["val_loss"], abs=1e-5))
        assert (x["targets"], x["tokens"]) == (y["targets"], y["tokens"])
    assert verify(two) == []
    assert scalars(two, "loss")[1] == logged(two, "loss")  # of several processes one tells
    assert len(list((two / "tensorboard").iterdir())) == 1


def test_two_processes_move_experts_as_one_does(tokens, tmp_path, config):
    """By shares over both, also where one has no window in a pass."""
    model = Gpt2MoeModelConfig(**TINY, every=1, balance=0.0, bias_rate=0.01)
    config = replace(config, model=model, objective=CLM())
    config = replace(config, optim=OptimConfig(lr=3e-3, steps=4))
    config = replace(config, checkpoint=CheckpointConfig(every=None, minutes=1e-9))
    one, two = (train(tokens, tmp_path / f"{n}", config, nproc=n) for n in (1, 2))
    for run in (one, two):  # by the clock of the first process, of which all hear
        saves = read_log(run / "saves.jsonl")
        assert [(s["step"], "minutes" in s["why"]) for s in saves] == [
            (n, True) for n in (1, 2, 3, 4)
        ]
    logs = (read_log(run / "metrics.jsonl") for run in (one, two))
    for x, y in zip(*logs, strict=True):
        told = [name for name in x if name.startswith(("loss", "aux_z", "share_"))]
        assert len(told) == 10
        assert [y[n] for n in told] == pytest.approx([x[n] for n in told], abs=1e-4)


def workers(launcher):
    return [
        child
        for child in children(launcher)
        if "-m\0ehr_train.worker" in Path(f"/proc/{child}/cmdline").read_text()
    ]


def signalled(run, step, number, found):
    """A thread that sends a signal to a process of a run once that has logged so many steps."""

    def send():
        while lines(run) < step:
            time.sleep(0.001)
        found.extend(workers(os.getpid()))
        os.kill(found[-1], number)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def test_after_a_process_is_killed_all_begin_anew_and_end_bit_identical(
    tokens, tmp_path, config, two, capfd
):
    run, found = tmp_path / "run", []
    thread = signalled(run, 8, signal.SIGKILL, found)
    train(tokens, run, config, nproc=2, processes=Processes(max_restarts=1))
    thread.join()
    assert re.search(
        r"process \d was killed, perhaps for want of memory.*; restart 1 of 1\n",
        capfd.readouterr().err,
    )
    assert not any(map(is_running, found))
    assert outcome(run) == outcome(two)
    starts = read_log(run / "starts.jsonl")
    assert [(s["processes"], s["restart"]) for s in starts] == [(2, 0), (2, 1)]
    assert starts[1]["step"] >= 5
    assert "restarted 1 times" in (run / "SUMMARY.txt").read_text()


def test_a_process_that_says_nothing_ends_the_run_which_goes_on_as_one(
    tokens, tmp_path, config, two
):
    run, found = tmp_path / "run", []
    thread = signalled(run, 8, signal.SIGSTOP, found)
    with pytest.raises(UserError, match=r"process \d has said nothing for 4 seconds; .*--resume$"):
        train(tokens, run, config, nproc=2, processes=Processes(timeout=4))
    thread.join()
    assert not any(map(is_running, found))
    assert 8 <= lines(run) < 20
    train(tokens, run, config, resume=True)
    for x, y in zip(*(read_log(r / "metrics.jsonl") for r in (run, two)), strict=True):
        assert x["loss"] == pytest.approx(y["loss"], abs=1e-5)
        assert (x["targets"], x["tokens"]) == (y["targets"], y["tokens"])
    assert re.search(
        r"processes +2 \(ddp\); 1 behind step \d+\n", (run / "SUMMARY.txt").read_text()
    )


FAILS = """
import torch.distributed as dist
from ehr_train.scale.member import member

with member("cpu"):
    if dist.get_rank() == 1:
        raise ValueError("out of range")
    dist.barrier()
"""


def test_an_error_of_one_process_ends_the_others_and_is_what_is_said(tmp_path, monkeypatch, capfd):
    (tmp_path / "fails.py").write_text(FAILS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(
        UserError, match=r"^process 1 failed with ValueError: out of range; .* above"
    ):
        launch("fails", {}, 2, "cpu", Stop(), Processes(max_restarts=1))
    said = capfd.readouterr().err
    assert said.count("Traceback") == said.count('ValueError("out of range")') == 2
    assert said.count("its traceback is above; restart 1 of 1\n") == 1


def test_a_machine_that_is_lost_ends_the_run_on_the_other_one_which_goes_on_alone(
    tokens, tmp_path, config, two
):
    run = tmp_path / "run"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        rdzv = f"localhost:{free.getsockname()[1]}"
    joined = ("--nnodes", 2, "--node-rank", 1, "--rdzv", rdzv, "--resume")
    other = command(tokens, run, config, *joined)

    def kill():
        while lines(run) < 8:
            time.sleep(0.001)
        other.kill()
        other.communicate()

    thread = threading.Thread(target=kill)
    thread.start()
    first = Processes(nnodes=2, rdzv=rdzv)
    with pytest.raises(UserError, match=r"^a process of another machine is gone; .*--resume$"):
        train(tokens, run, config, resume=True, processes=first)
    thread.join()
    train(tokens, run, config, resume=True)
    for x, y in zip(*(read_log(r / "metrics.jsonl") for r in (run, two)), strict=True):
        assert x["loss"] == pytest.approx(y["loss"], abs=1e-5)


def end(processes):
    """Wait for what is to end by itself."""
    deadline = time.monotonic() + 20
    while any(map(is_running, processes)):
        assert time.monotonic() < deadline, "workers outlive their launcher"
        time.sleep(0.05)


def test_workers_end_with_their_launcher(tokens, tmp_path):
    config = to_dict(tiny_config(optim=OptimConfig(steps=100_000)))
    code = (
        "import sys, json; from pathlib import Path\n"
        "from ehr_tracking.config import validate; from ehr_train.config import TrainConfig\n"
        "from ehr_train.run import train\n"
        "train(Path(sys.argv[1]), Path(sys.argv[2]),"
        " validate(TrainConfig, json.loads(sys.argv[3]), where=''), nproc=2)\n"
    )
    run = tmp_path / "run"
    launcher = subprocess.Popen(
        [sys.executable, "-c", code, str(tokens), str(run), json.dumps(config)],
        stderr=subprocess.PIPE,
        text=True,
    )
    while lines(run) < 3:
        assert launcher.poll() is None
        time.sleep(0.05)
    started = children(launcher.pid)
    assert len(started) >= 2
    launcher.kill()
    launcher.communicate()
    end(started)


def test_two_processes_told_to_stop_end_with_their_state_saved_and_resume_bit_identical(
    tokens, tmp_path, config, two
):
    run = tmp_path / "run"
    launcher = command(tokens, run, config, "--nproc", 2)
    while lines(run) < 3:
        assert launcher.poll() is None
        time.sleep(0.001)
    started = children(launcher.pid)
    assert len(started) >= 2
    code, _, said = stop(launcher, run, 7, signal.SIGTERM)
    assert code == 75
    stopped = re.fullmatch(
        r"Error: stopped by SIGTERM after step (\d+) of 20; the state is saved, "
        r"go on with --resume\n",
        said,
    )
    assert stopped, said
    assert lines(run) == int(stopped[1])
    end(started)
    train(tokens, run, config, nproc=2, resume=True)
    assert outcome(run) == outcome(two)


def test_a_disk_that_fills_under_two_processes_is_one_line(tokens, tmp_path):
    never = 100_000
    config = tiny_config(
        optim=OptimConfig(steps=never),
        validation=ValidationConfig(every=never),
        checkpoint=CheckpointConfig(every=never),
    )
    run = tmp_path / "run"
    code, error = fill_disk(tokens, run, config, 4, "--nproc", 2)
    assert code == 2
    assert error == (
        f"Error: the disk is full; the run {run} has no checkpoint yet and will begin anew; "
        "free some space and pass --resume\n"
    )
    assert lines(run) >= 4


def test_a_workers_refusal_reaches_the_caller_as_one_line(tokens, tmp_path, config, capfd):
    bad = tiny_config(objective=CLM())
    with pytest.raises(UserError, match=r"^model kind behrt cannot be pretrained with objective"):
        train(tokens, tmp_path / "run", bad, nproc=2)
    assert "Traceback" not in "".join(capfd.readouterr())
    assert not (tmp_path / "run").exists()
