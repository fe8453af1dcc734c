"""Job scripts for Slurm: one run on one or several machines, or several runs on the GPUs of one.

A script begins its runs or goes on with them, whichever it is, so that Slurm may start it again: it asks for
a signal ahead of the time limit, passes it on, waits until the runs have saved, and puts itself back into
the queue.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import click
from pydantic import Field
from pydantic.dataclasses import dataclass

from ehr_tracking.config import STRICT, ConfigError, load_config
from ehr_tracking.errors import STOPPED

Count = Annotated[int, Field(ge=1)]
_REFUSED = ("overwrite", "dry_run", "interactive", "nnodes", "node_rank", "rdzv")
"""Options of a run that a script cannot have, or sets itself."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Resources:
    """What is asked of Slurm; None leaves it to the cluster."""

    name: str = "ehr-train"
    nnodes: Count = 1
    gpus: Annotated[int, Field(ge=0)] = 1
    """On each machine; 0: the runs compute on CPUs."""
    cpus: Count = 8
    """On each machine."""
    time: str | None = None
    memory: str | None = None
    """On each machine, e.g. `64G`."""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    grace: Count = 300
    """Seconds before the time limit at which runs are told to save: more than a step, a validation and a
    checkpoint take."""
    setup: tuple[str, ...] = ()
    """Lines of shell before the runs, e.g. `module load cuda`."""
    extra: tuple[str, ...] = ()
    """Further options of sbatch, e.g. `--mail-type=FAIL`."""


def job_script(runs: Sequence[str], resources: Resources, ehr_train: click.Command) -> str:
    """A job script.

    Args:
        runs: Of each run its options of `ehr-train`, as on a command line of the shell.
        resources: What is asked of Slurm.
        ehr_train: The command, which knows its options.

    Raises:
        ConfigError: If a run cannot be read, runs would write to one place, or GPUs and machines cannot be
            shared out.
    """
    commands = [_checked(run, ehr_train) for run in runs]
    if len({out for _, out in commands}) < len(commands):
        raise ConfigError("two runs have the same --out; each needs a directory of its own")
    if resources.nnodes > 1 and len(commands) > 1:
        raise ConfigError(f"{len(commands)} runs share the GPUs of one machine: leave out --nnodes")
    if resources.gpus % len(commands):
        raise ConfigError(
            f"{resources.gpus} GPUs cannot be shared out evenly over {len(commands)} runs"
        )
    each = resources.gpus // len(commands)
    lines = [_with_devices(arguments, each) for arguments, _ in commands]
    start = _START_NODES if resources.nnodes > 1 else _START_SHARED
    starts = [
        start.format(number=number, each=each, command=shlex.join(["ehr-train", *arguments]))
        for number, arguments in enumerate(lines)
    ]
    return _SCRIPT.format(
        directives="\n".join(f"#SBATCH {line}" for line in _directives(resources)),
        setup="".join(f"{line}\n" for line in resources.setup),
        threads=max(1, resources.cpus // len(commands)),
        devices=",".join(map(str, range(resources.gpus))),
        starts="\n".join(starts),
        stopped=STOPPED,
    )


def _directives(r: Resources) -> list[str]:
    given = {
        "job-name": r.name,
        "nodes": r.nnodes,
        "ntasks-per-node": 1,
        "cpus-per-task": r.cpus,
        "gpus-per-node": r.gpus or None,
        "time": r.time,
        "mem": r.memory,
        "partition": r.partition,
        "account": r.account,
        "qos": r.qos,
        "constraint": r.constraint,
        "signal": f"B:USR1@{r.grace}",
        "open-mode": "append",
        "output": "%x-%j.log",
    }
    for name, value in given.items():
        if "\n" in str(value):
            raise ConfigError(f"{name} holds a line break")
    named = [f"--{name}={value}" for name, value in given.items() if value is not None]
    return [*named, "--requeue", *r.extra]


def _checked(run: str, ehr_train: click.Command) -> tuple[list[str], Path]:
    """The options of a run, and where it writes; refused is what `ehr-train` would refuse at once."""
    from ehr_train.config import TrainConfig

    try:
        arguments = shlex.split(run)
        context = ehr_train.make_context("ehr-train", [*arguments])
    except click.UsageError as e:
        raise ConfigError(f"--run {run!r}: {e.format_message()}") from None
    except (ValueError, click.exceptions.Exit) as e:
        raise ConfigError(f"--run {run!r} is no list of options: {e}") from None
    given = context.params
    if given["tokens"] is None or given["out"] is None:
        raise ConfigError(f"--run {run!r}: --tokens and --out are needed, and options alone")
    for name in _REFUSED:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise ConfigError(f"--run {run!r}: --{name.replace('_', '-')} is not for a job script")
    load_config(TrainConfig, given["config_file"], given["overrides"])
    return ([*arguments] if given["resume"] else [*arguments, "--resume"]), given["out"]


def _with_devices(arguments: list[str], each: int) -> list[str]:
    """With as many processes as a run has GPUs on a machine, where it does not say so itself."""
    if not each:
        return arguments
    said = {argument.partition("=")[0] for argument in arguments}
    more = [] if "--nproc" in said else ["--nproc", str(each)]
    return [*arguments, *more, *([] if "--device" in said else ["--device", "cuda"])]


_START_SHARED = """\
CUDA_VISIBLE_DEVICES="$(share {number} {each})" {command} &
runs+=($!)"""
_START_NODES = """\
first="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
srun --kill-on-bad-exit=1 {command} \\
  --nnodes "$SLURM_JOB_NUM_NODES" --rdzv "$first:$((20000 + SLURM_JOB_ID % 20000))" &
runs+=($!)"""
_SCRIPT = """\
#!/bin/bash
{directives}

# Written by `ehr-train slurm`. Slurm may start this script again (--requeue): runs go on where they were.
set -u
{setup}export OMP_NUM_THREADS={threads}

# GPUs of run $1 if each has $2; Slurm says which ones the job has
share() {{
  local all
  IFS=, read -ra all <<< "${{CUDA_VISIBLE_DEVICES:-{devices}}}"
  (IFS=,; echo "${{all[*]:$1 * $2:$2}}")
}}

# ahead of the time limit, and where the job is preempted: runs save at their next step and end
runs=() told=
tell() {{
  told=1
  kill -USR1 "${{runs[@]}}" 2> /dev/null
}}
trap tell USR1 TERM

{starts}

failed=0
for run in "${{runs[@]}}"; do
  while true; do
    wait "$run"
    code=$?
    # a signal to this shell ends `wait`, not the run
    kill -0 "$run" 2> /dev/null || break
  done
  [ "$code" -eq 0 ] || failed=1
  # stopped by a signal, whoever sent it
  [ "$code" -ne {stopped} ] || told=1
done

if [ "$failed" -ne 0 ] && [ -n "$told" ]; then
  exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$failed"
"""
