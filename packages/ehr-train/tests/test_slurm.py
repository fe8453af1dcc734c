"""Job scripts, run by bash under a stand-in for Slurm: what it starts, signals and queues again."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
import yaml
from click.testing import CliRunner

from ehr_tracking.config import to_dict
from ehr_tracking.manifest import verify
from ehr_tracking.runs import read_log
from ehr_train.cli import main
from ehr_train.config import DataConfig, OptimConfig
from ehr_train.run import train

from .conftest import tiny_config
from .test_resume import lines, outcome

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="bash and signals")

STAND_IN = {
    # the command itself, and which GPUs it was given
    "ehr-train": """#!/bin/bash
echo "${CUDA_VISIBLE_DEVICES-none} $*" >> "$STAND_IN/started"
exec "$PYTHON" -c 'from ehr_train.cli import main; main()' "$@"
""",
    "scontrol": """#!/bin/bash
case "$1" in
  show) echo localhost ;;
  requeue) echo "$2" >> "$STAND_IN/requeued" ;;
esac
""",
    # a task a machine, as --ntasks-per-node=1 has it, and signals for all of them
    "srun": """#!/bin/bash
while [[ "$1" == --* ]]; do shift; done
tasks=()
trap 'kill -USR1 "${tasks[@]}"' USR1
for ((i = 0; i < SLURM_JOB_NUM_NODES; i++)); do SLURM_NODEID=$i "$@" & tasks+=($!); done
worst=0
for task in "${tasks[@]}"; do
  while true; do wait "$task"; code=$?; kill -0 "$task" 2> /dev/null || break; done
  [ "$code" -gt "$worst" ] && worst=$code
done
exit "$worst"
""",
    "sbatch": """#!/bin/bash
[ -f "$1" ] || exit 1
echo "Submitted batch job 7"
""",
}  # fmt: skip


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A machine with these commands; what they wrote down lies beside them."""
    place = tmp_path / "slurm"
    place.mkdir()
    for name, text in STAND_IN.items():
        (place / name).write_text(text)
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    monkeypatch.setenv("STAND_IN", str(place))
    monkeypatch.setenv("PYTHON", sys.executable)
    return place


def ehr_train(*arguments):
    return CliRunner().invoke(main, ["slurm", *map(str, arguments)])


def start(script, **variables):
    """As Slurm starts a job."""
    environment = {**os.environ, "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", **variables}
    return subprocess.Popen(
        ["bash", script], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip


def recipe(tmp_path, config):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(to_dict(config)))
    return path


@pytest.mark.slow
def test_two_runs_of_a_job_are_signalled_queued_again_and_end_with_the_same_bits(
    tokens, tmp_path, slurm
):
    config = tiny_config(optim=OptimConfig(lr=3e-3, steps=40))
    whole = train(tokens, tmp_path / "whole", config)
    common = f"--tokens {tokens} -c {recipe(tmp_path, config)} --device cpu --nproc 1"
    script = tmp_path / "job.sh"
    made = ehr_train(  # a core for each run, as `whole` had
        *(
            "--gpus",
            4,
            "--cpus",
            2,
            "--script",
            script,
            "--time",
            "10:00",
            "--setup",
            "ulimit -c 0",
        ),
        *("--run", f"{common} --out {tmp_path / 'a'}"),
        *("--run", f"{common} --out {tmp_path / 'b'} -s optim.steps=3"),
    )
    assert made.exit_code == 0, made.output
    assert not list(slurm.glob("started"))

    job = start(script, CUDA_VISIBLE_DEVICES="4,5,6,7")
    while lines(tmp_path / "a") < 8:
        assert job.poll() is None, job.communicate()[0]
        time.sleep(0.002)
    job.send_signal(signal.SIGUSR1)
    said = job.communicate()[0]
    assert "stopped by SIGUSR1 after step" in said
    assert (slurm / "requeued").read_text() == "7\n"
    assert 8 <= lines(tmp_path / "a") < 40
    started = sorted((slurm / "started").read_text().splitlines())
    assert [line.partition(" ")[0] for line in started] == ["4,5", "6,7"]
    assert all("--resume" in line for line in started)

    job = start(script)
    said = job.communicate()[0]
    assert job.returncode == 0, said
    assert outcome(tmp_path / "a") == outcome(whole)
    assert verify(tmp_path / "b") == []
    assert (slurm / "requeued").read_text() == "7\n"
    assert {
        line.partition(" ")[0] for line in (slurm / "started").read_text().splitlines()[2:]
    } == {
        "0,1",
        "2,3",
    }


@pytest.mark.slow
@pytest.mark.dist
def test_two_machines_learn_of_every_chunk_what_one_process_learns(tokens, tmp_path, slurm):
    """By an exact number of windows a step, of which the last of an epoch has fewer than processes."""
    data = DataConfig(context=8, window="all", loader="exact", batch_records=3, micro_tokens=16)
    config = tiny_config("clm", data=data, optim=OptimConfig(lr=3e-3, steps=5))
    train(tokens, tmp_path / "one", config)
    run = f"--tokens {tokens} -c {recipe(tmp_path, config)} --device cpu --out {tmp_path / 'two'}"
    script = tmp_path / "job.sh"
    made = ehr_train("--gpus", 0, "--nnodes", 2, "--cpus", 1, "--script", script, "--run", run)
    assert made.exit_code == 0, made.output
    job = start(script, SLURM_JOB_NUM_NODES="2", SLURM_JOB_ID=str(os.getpid()))
    said = job.communicate()[0]
    assert job.returncode == 0, said
    logs = [read_log(tmp_path / name / "metrics.jsonl") for name in ("one", "two")]
    assert len(logs[1]) == 5
    for x, y in zip(*logs, strict=True):
        assert x["loss"] == pytest.approx(y["loss"], abs=1e-5)
        assert (x["targets"], x["tokens"]) == (y["targets"], y["tokens"])
    assert verify(tmp_path / "two") == []


@pytest.mark.parametrize(("codes", "ends", "queued"), [((0, 75), 0, True), ((2, 0), 1, False)])
def test_a_run_that_was_stopped_is_queued_again_and_one_that_failed_is_not(
    tmp_path, slurm, codes, ends, queued
):
    """Also where somebody else sent the signal."""
    (slurm / "ehr-train").write_text('#!/bin/bash\n[[ "$*" == *"--out a"* ]] && exit $A; exit $B\n')
    runs = [part for name in "ab" for part in ("--run", f"--tokens t --out {name}")]
    script = tmp_path / "job.sh"
    made = ehr_train("--gpus", 0, "--script", script, *runs)
    assert made.exit_code == 0, made.output
    job = start(script, A=str(codes[0]), B=str(codes[1]))
    said = job.communicate()[0]
    assert (job.returncode, (slurm / "requeued").exists()) == (ends, queued), said


def test_a_script_says_what_is_asked_for_and_is_written_and_submitted_when_told(tmp_path, slurm):
    script = tmp_path / "job.sh"
    asked = ["--partition", "gpu", "--memory", "64G", "--account", "lab", "--time", "1-00:00:00"]
    asked += ["--grace", 90, "--sbatch", "--mail-type=FAIL", "--run", "--tokens 'my t' --out r"]
    printed = ehr_train(*asked)
    assert printed.exit_code == 0, printed.output
    assert not script.exists()
    directives = re.findall(r"^#SBATCH (.*)$", printed.output, re.MULTILINE)
    assert {
        *("--partition=gpu", "--mem=64G", "--account=lab", "--time=1-00:00:00", "--requeue"),
        *("--signal=B:USR1@90", "--mail-type=FAIL", "--gpus-per-node=1"),
    } <= {*directives}
    assert "ehr-train --tokens 'my t' --out r --resume --nproc 1 --device cuda" in printed.output
    assert (
        subprocess.run(["bash", "-n"], input=printed.output, text=True, check=False).returncode == 0
    )
    dry = ehr_train(*asked, "--script", script, "--submit", "--dry-run")
    assert (dry.output, script.exists()) == (printed.output, False)
    done = ehr_train(*asked, "--script", script, "--submit")
    assert (done.exit_code, done.output) == (0, "Submitted batch job 7\n")
    assert script.read_text() == printed.output
    assert "pass --overwrite" in ehr_train(*asked, "--script", script).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run", "--tokens t"], "--tokens and --out are needed"),
        (["--run", "--tokens t --out r --nope 1"], "No such option"),
        (["--run", "--tokens t --out 'r"], "No closing quotation"),
        (["--run", "--tokens t --out r --overwrite"], "--overwrite is not for a job script"),
        (["--run", "--tokens t --out r -s optim.lr=-1"], "optim.lr"),
        (["--run", "--tokens t --out r"] * 2, "two runs have the same --out"),
        (["--run", "--tokens t --out a", "--run", "--tokens t --out b", "--gpus", "3"], "3 GPUs"),
        (
            ["--run", "--tokens t --out a", "--run", "--tokens t --out b", "--nnodes", "2"],
            "--nnodes",
        ),
        (["--run", "--tokens t --out r", "--submit"], "--submit needs --script"),
    ],
)
def test_what_could_not_run_is_refused_before_anything_is_queued(arguments, message):
    refused = ehr_train(*arguments)
    assert refused.exit_code == 2
    assert message in refused.stderr


def test_machines_that_could_not_meet_are_refused(tmp_path):
    common = ["--tokens", str(tmp_path), "--out", str(tmp_path / "r"), "--nnodes", "2"]
    alone = CliRunner().invoke(main, common)
    assert "--nnodes needs --rdzv HOST:PORT and --resume" in alone.stderr
    third = CliRunner().invoke(main, [*common, "--rdzv", "h:1", "--resume", "--node-rank", "2"])
    assert "the last of 2 machines is 1" in third.stderr
