import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ehr_tracking.checkpoints import CheckpointStore
from ehr_tracking.config import to_dict
from ehr_tracking.contracts import CHECKPOINT
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import read_manifest, seal, sha256, verify
from ehr_tracking.runs import read_log
from ehr_train.config import CheckpointConfig, OptimConfig
from ehr_train.run import train
from ehr_train.scale.stop import Stop

from .conftest import tiny_config, write_tokens


def outcome(run):
    """Hashes of all that must be reproduced: weights, optimizer, position, log, and who is best."""
    store = CheckpointStore(run / "checkpoints")
    return {
        "latest": sha256(store.latest() / "manifest.json"),  # lists every file with its hash
        "best": sha256(store.best() / "manifest.json"),
        "log": sha256(run / "metrics.jsonl"),
    }


def lines(run):
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_at(step, run, *args, **kwargs):
    """Train in a process of its own and kill it without warning once it has logged `step` steps."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ehr_train.worker"])
    process = context.Process(target=train, args=args, kwargs=kwargs)
    process.start()
    while lines(run) < step and process.is_alive():
        time.sleep(0.001)
    time.sleep(random.random() * 0.03)
    process.kill()
    process.join()
    return process.exitcode


@pytest.fixture(scope="module")
def config():
    config = tiny_config(optim=OptimConfig(lr=3e-3, steps=40))
    return replace(config, model=replace(config.model, dropout=0.1, layers=3))


@pytest.fixture(scope="module")
def whole(tokens, tmp_path_factory, config):
    return train(tokens, tmp_path_factory.mktemp("whole") / "run", config)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch, while it compiles
def test_a_compiled_run_is_resumed_bit_identical_and_near_one_that_is_not(tokens, tmp_path):
    """What is compiled when it goes on was compiled for the first batch, not for the one that it goes on with."""
    config = tiny_config("clm", optim=OptimConfig(lr=3e-3, steps=40))
    runs = {name: tmp_path / name for name in ("whole", "killed")}
    train(tokens, runs["whole"], replace(config, compile=True))
    kill_at(8, runs["killed"], tokens, runs["killed"], replace(config, compile=True))
    assert 8 <= lines(runs["killed"]) < 40
    train(tokens, runs["killed"], replace(config, compile=True), resume=True)
    assert outcome(runs["whole"]) == outcome(runs["killed"])
    plain = read_log(train(tokens, tmp_path / "plain", config) / "metrics.jsonl")
    losses = [m["loss"] for m in read_log(runs["whole"] / "metrics.jsonl")]
    assert losses == pytest.approx([m["loss"] for m in plain], rel=1e-4)


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_bit_identical(tokens, tmp_path, config, whole):
    run = tmp_path / "killed"
    codes = []
    for step in (2, 9, 16, 25, 36):
        codes.append(kill_at(step, run, tokens, run, config, resume=True))
        assert not (run / "manifest.json").exists() or codes[-1] == 0
    assert codes.count(-9) >= 4
    train(tokens, run, config, resume=True)
    assert outcome(run) == outcome(whole)
    assert verify(run) == []


def test_a_run_that_died_while_writing_its_report_is_finished(tokens, tmp_path, config):
    run = train(tokens, tmp_path / "run", config)
    before = outcome(run)
    (run / "manifest.json").unlink()
    (run / "report.html").unlink()
    train(tokens, run, config, resume=True)
    assert outcome(run) == before
    assert verify(run) == []
    sealed = sha256(run / "manifest.json")
    train(tokens, run, config, resume=True)  # complete: nothing to do
    assert sha256(run / "manifest.json") == sealed


def test_a_torn_log_and_steps_after_the_checkpoint_are_dropped(tokens, tmp_path, config):
    run = train(tokens, tmp_path / "run", config)
    before = outcome(run)
    (run / "manifest.json").unlink()
    store = CheckpointStore(run / "checkpoints")
    shutil.rmtree(store.directory / "step-00000040")
    pointers = store.directory / "pointers.json"
    kept = max(p.name for p in store.directory.glob("step-*"))
    pointers.write_text(f'{{"latest": "{kept}", "best": "{kept}", "scores": {{"{kept}": null}}}}')
    with (run / "metrics.jsonl").open("a") as f:
        f.write('{"step": 41, "lo')
    train(tokens, run, config, resume=True)
    assert outcome(run)["latest"] == before["latest"]
    assert outcome(run)["log"] == before["log"]


def test_a_damaged_latest_checkpoint_is_passed_over_and_the_end_is_the_same(
    tmp_path, tokens, config, whole, capsys
):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    (run / "manifest.json").unlink()
    weights = CheckpointStore(run / "checkpoints").latest() / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    train(tokens, run, config, resume=True)
    said = capsys.readouterr().err
    assert re.search(r"going on from step-\d+: .*model\.safetensors was changed: 1000 bytes", said)
    for what in ("latest", "log"):
        assert outcome(run)[what] == outcome(whole)[what]


def test_what_was_begun_otherwise_is_not_resumed(tokens, tmp_path, config):
    run = train(tokens, tmp_path / "run", config)
    other_tokens = write_tokens(
        tmp_path / "t", {"train": [{"subject_id": 1, "token": [5, 7, 8], "time": [None, 1, 2]}]}
    )
    changed = replace(config, seed=4, optim=replace(config.optim, lr=1.0))
    for finished in (True, False):
        if not finished:
            (run / "manifest.json").unlink()
        with pytest.raises(UserError, match=r"optim\.lr: 0\.003 -> 1\.0; seed: 0 -> 4 \(stays: "):
            train(tokens, run, changed, resume=True)
        with pytest.raises(UserError, match="tokens: another one"):
            train(other_tokens, run, config, resume=True)
    with pytest.raises(UserError, match=r"unfinished run; pass --resume to go on or --overwrite"):
        train(tokens, run, config)
    before = outcome(run)
    train(tokens, run, replace(config, precision="auto"), resume=True)  # auto is what it was
    assert outcome(run) == before
    (run / "manifest.json").unlink()
    train(tokens, run, changed, overwrite=True)
    assert outcome(run) != before


def test_a_run_whose_steps_were_made_up_otherwise_is_not_gone_on_with(
    tmp_path, tokens, whole, config
):
    """As by versions whose position says epoch and step alone."""
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    (run / "manifest.json").unlink()
    latest = CheckpointStore(run / "checkpoints").latest()
    path = latest / "training_state" / "state.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in state.items() if k not in ("order", "block")}))
    manifest = read_manifest(latest, CHECKPOINT, reader="test")
    kept = {"config": manifest.config, "seed": manifest.seed, "inputs": manifest.inputs}
    seal(latest, CHECKPOINT, producer=manifest.producer, **kept)
    with pytest.raises(UserError, match=r"step-00000040 is of a run whose steps.*--overwrite$"):
        train(tokens, run, config, resume=True)


def test_tokens_that_changed_under_a_run_are_not_gone_on_with(tmp_path, config):
    """Written anew in the same place, while what was mapped of the old ones lies beside them."""
    rows = [{"subject_id": i, "token": [5, 7 + i % 3, 8], "time": [None, 1, 2]} for i in range(9)]
    place = write_tokens(tmp_path / "t", {"train": rows, "tuning": rows[:2]})
    run = train(place, tmp_path / "run", replace(config, optim=OptimConfig(steps=2)))
    (run / "manifest.json").unlink()
    shutil.rmtree(place)
    rows[4]["token"] = [5, 9, 8]
    write_tokens(place, {"train": rows, "tuning": rows[:2]})
    with pytest.raises(UserError, match=r"was begun otherwise: tokens: another one\. Begin anew"):
        train(place, run, replace(config, optim=OptimConfig(steps=2)), resume=True)


def turn_back(run):
    """Leave the oldest checkpoint alone, as it was when it was the latest; and where it is."""
    store = CheckpointStore(run / "checkpoints")
    kept, *newer = sorted(store.directory.glob("step-*"))
    assert newer
    for path in newer:
        shutil.rmtree(path)
    pointers = {"latest": kept.name, "best": None, "scores": {kept.name: None}}
    (store.directory / "pointers.json").write_text(json.dumps(pointers))
    return kept


def test_a_run_goes_on_although_the_run_that_it_began_from_trained_on(tokens, tmp_path):
    final = train(tokens, tmp_path / "final", tiny_config())
    base = shutil.copytree(final, tmp_path / "base")
    begun_from = turn_back(base).name
    run = train(tokens, tmp_path / "run", tiny_config(seed=1), init=base)
    before = outcome(run)
    shutil.rmtree(base)
    shutil.copytree(final, base)
    shutil.rmtree(base / "checkpoints" / begun_from)  # pruned while it trained on
    (run / "manifest.json").unlink()
    turn_back(run)
    train(tokens, run, tiny_config(seed=1), init=base, resume=True)
    after = outcome(run)
    assert (after["latest"], after["log"]) == (before["latest"], before["log"])
    assert verify(run) == []
    assert str(tmp_path) not in (run / "inputs.json").read_text()
    other = train(tokens, tmp_path / "other", tiny_config(seed=2))
    for given, message in ((other, "init: another one"), (None, "init: not given")):
        with pytest.raises(UserError, match=message):
            train(tokens, run, tiny_config(seed=1), init=given, resume=True)
    shutil.rmtree(run / "checkpoints")
    (run / "manifest.json").unlink()
    with pytest.raises(UserError, match=rf"{begun_from}, from which .* is gone.*--overwrite$"):
        train(tokens, run, tiny_config(seed=1), init=base, resume=True)


def test_resuming_nothing_begins(tokens, tmp_path):
    run = train(tokens, tmp_path / "run", tiny_config(), resume=True)
    assert lines(run) == 12


def command(tokens, run, config, *options):
    """`ehr-train` in a process of its own."""
    recipe = run.with_suffix(".yaml")
    recipe.write_text(yaml.safe_dump(to_dict(config)))
    code = [sys.executable, "-c", "from ehr_train.cli import main; main()"]
    given = ["--tokens", tokens, "--out", run, "-c", recipe, *options]
    return subprocess.Popen(
        [*code, *map(str, given)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


PROGRESS = re.compile(r"step [\d,]+ of [\d,]+ \(\d+%\): loss .* tokens/s .* left\n")


def stop(process, run, step, by):
    """Send a signal once so many steps are logged; the exit code, the lines of progress, the rest."""
    while lines(run) < step and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(by)
    error = process.communicate()[1]
    return process.returncode, PROGRESS.findall(error), PROGRESS.sub("", error)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
@pytest.mark.parametrize("by", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_a_run_that_is_told_to_stop_saves_its_state_and_is_resumed_bit_identical(
    tokens, tmp_path, config, whole, by
):
    run = tmp_path / "run"
    code, _, said = stop(command(tokens, run, config), run, 7, getattr(signal, by))
    assert code == 75
    stopped = re.fullmatch(
        rf"Error: stopped by {by} after step (\d+) of 40; the state is saved, "
        r"go on with --resume\n",
        said,
    )
    assert stopped, said
    assert lines(run) == int(stopped[1])
    latest = CheckpointStore(run / "checkpoints").latest()
    assert latest.name == f"step-{int(stopped[1]):08d}"
    assert verify(latest) == []
    train(tokens, run, config, resume=True)
    assert outcome(run) == outcome(whole)


def test_a_signal_while_no_step_is_taken_is_one_line_at_once():
    message = r"^stopped by SIGTERM; go on with --resume$"
    with pytest.raises(UserError, match=message), Stop().listening():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_what_is_ignored_stays_ignored_and_a_second_signal_is_not_held_back():
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    heard = []
    old = signal.signal(signal.SIGTERM, lambda *_: heard.append("mine"))
    try:
        asked = Stop()
        with asked.listening(), asked.heeded(heard.append):
            os.kill(os.getpid(), signal.SIGUSR1)
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGUSR1, before)
        signal.signal(signal.SIGTERM, old)
    assert (asked.by, heard) == ("SIGTERM", ["SIGTERM", "mine"])


def test_progress_is_said_where_no_terminal_shows_it(tokens, tmp_path, capfd):
    train(tokens, tmp_path / "run", tiny_config(checkpoint=CheckpointConfig(every=50)))
    error = capfd.readouterr().err
    assert [line.split(":")[0] for line in error.splitlines()] == [
        "step 5 of 12 (42%)",
        "step 10 of 12 (83%)",
        "step 12 of 12 (100%)",
    ]
    assert re.fullmatch(
        r"(step .*: loss \d\.\d{4}, tokens/s [\d,]+, mfu \d+\.\d%, unused \d+\.\d%, "
        r"val \d\.\d{4}, \d\d:\d\d left\n){3}",
        error,
    )


def children(pid):
    return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def fill_disk(tokens, run, config, step, *options):
    """Train from the command line; after `step` steps no file can grow any more, as on a full disk.

    Returns:
        The exit code and what was printed to stderr.
    """
    process = command(tokens, run, config, *options)
    while lines(run) < step and process.poll() is None:
        time.sleep(0.001)
    for pid in (process.pid, *children(process.pid)):
        _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, most))
    error = process.communicate()[1]
    return process.returncode, PROGRESS.sub("", error)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits another process")
def test_a_run_that_filled_the_disk_is_resumed_bit_identical(tokens, tmp_path, config, whole):
    run = tmp_path / "run"
    code, error = fill_disk(tokens, run, config, 5)
    assert code == 2
    kept = re.fullmatch(
        rf"Error: the disk is full; the run {run} is kept at its last checkpoint, (step-\d{{8}}); "
        r"free some space and pass --resume\n",
        error,
    )
    assert kept, error
    assert verify(run / "checkpoints" / kept[1]) == []
    train(tokens, run, config, resume=True)
    assert outcome(run) == outcome(whole)
    assert verify(run) == []
