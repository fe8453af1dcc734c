"""`train`: from a token set and a config to a sealed run directory.

What pulls in transformers is imported where it is used: a process that only launches others shall
not wait for it.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import click
import torch

from ehr_models.precision import resolve_precision
from ehr_tracking.backends import Card
from ehr_tracking.backends.follow import following
from ehr_tracking.checkpoints import reading
from ehr_tracking.config import dotted, to_dict
from ehr_tracking.contracts import RUN
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import MANIFEST, seal
from ehr_tracking.outputs import held
from ehr_train import PRODUCER
from ehr_train.compiling import pays
from ehr_train.config import TrainConfig
from ehr_train.data.codes import Codes
from ehr_train.job import (
    Job,
    count_steps,
    nothing_to_validate,
    require_targets,
    sampler,
)
from ehr_train.report import write_report
from ehr_train.scale import launch
from ehr_train.scale.stop import Stop
from ehr_train.start import check_start, directory, write_config, write_start

_WORKER = "ehr_train.worker"


def train(  # noqa: PLR0913 -- what the command's options say
    tokens: PathLike,
    out: PathLike,
    config: TrainConfig | None = None,
    *,
    nproc: int = 1,
    init: PathLike | None = None,
    labels: PathLike | None = None,
    resume: bool = False,
    overwrite: bool = False,
    allow_changes: bool = False,
    device: str | None = None,
    track: Sequence[str] = (),
    processes: launch.Processes = launch.TOGETHER,
) -> Path:  # fmt: skip
    """Train a model and write a sealed `run/1` directory.

    Args:
        tokens: A `tokens/1` data set.
        out: The run directory.
        config: What to do; the defaults pretrain a small BEHRT.
        nproc: Processes on this machine. One trains in this very process; more are started under
            torchrun's agent, each with its share of the cores or a GPU of its own.
        init: A run or checkpoint to start from.
        labels: MEDS labels of one task, for an objective that learns from such.
        resume: Go on where a run in `out` was stopped; begin where there is none.
        overwrite: Replace a run in `out`.
        allow_changes: Go on also where the config is another one, as far as it may be: learning rate,
            steps, validation, checkpoints and the like; a finished run as well. `changes.jsonl` keeps it.
        device: cpu or cuda; the GPU where there is one.
        track: Trackers that show the run, `NAME` or `NAME:WHERE` each; they change nothing of it.
        processes: This machine among several, on each of which `train` is called alike, and what happens
            where a process dies.

    Returns:
        `out`.

    Raises:
        UserError: For bad input; also `ConfigError` and `ContractError`, which are such. For a disk
            that fills after the first step.
    """
    tokens, out = Path(tokens), Path(out)
    init = None if init is None else Path(init)
    labels = None if labels is None else Path(labels)
    config = config or TrainConfig()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    job = Job(tokens=tokens, out=out, init=init, labels=labels, device=device)
    job.check(config, nproc)
    stop = Stop()
    if processes.node_rank:
        if not (out / MANIFEST).is_file():
            with stop.listening():
                launch.launch(_WORKER, {"device": device}, nproc, device, stop, processes)
        return out
    with stop.listening(), held(out):
        start = check_start(
            job, config, resume=resume, overwrite=overwrite, allow_changes=allow_changes
        )
        job = start.job
        if start.complete:
            return out
        if start.begun:
            if passed_over := job.checkpoints().fall_back(f"val_{config.score.name}"):
                click.echo(passed_over, err=True)
            start.go_on()
            adapted = job.init if config.adapter is not None else None
            with directory(out, None), reading(adapted) if adapted else nullcontext():
                _run(job, nproc, stop, track, processes)
            return out
        with reading(init) if init else nullcontext() as checkpoint:
            job, inputs = job.resolved(checkpoint)
            precision = resolve_precision(config.precision, device, training=True)
            resolved = replace(config, precision=precision)
            with directory(out, lambda new: write_start(new, resolved, inputs, device)):
                _run(job, nproc, stop, track, processes)
    return out


def _run(
    job: Job, nproc: int, stop: Stop, track: Sequence[str], processes: launch.Processes
) -> None:
    job = _prepare(job, nproc)
    with following(job.out, track, _card(job)):
        if nproc == processes.nnodes == 1 and not processes.max_restarts:
            from ehr_train.worker import work

            work(job, stop)
        else:
            launch.launch(_WORKER, job.spec(), nproc, job.device, stop, processes)
        _report(job)
    _seal(job)


def _card(job: Job) -> Card:
    inputs = {f"input.{role}": s.fingerprint for role, s in job.inputs().sources.items()}
    return Card(
        name=job.out.absolute().name,
        params=dotted(to_dict(job.config())),
        tags={"producer": PRODUCER, **inputs},
    )


def _prepare(job: Job, nproc: int) -> Job:
    """Have the memory-mapped arrays there before any process looks for them, and count the steps."""
    tokens, config = job.open_tokens(), job.config()
    if config.data.micro_tokens == "auto":
        from ehr_train.micro import with_passes

        config = with_passes(job, config, nproc)
        write_config(job.out, config)
    order = sampler(config, job.train_examples(config, tokens))
    objective = config.objective.fitted(order.examples, Codes(tokens))
    require_targets(objective, order, tokens)
    tuning = job.tuning_examples(config, tokens)
    if config.validation.patience and nothing_to_validate(objective, config, tuning, tokens):
        click.echo(
            f"validation.patience = {config.validation.patience} stops nothing: the tuning split has "
            f"nothing that objective {objective.kind} could predict, so the run goes to its end",
            err=True,
        )
    steps = count_steps(order, config)
    if config.compile == "auto":
        write_config(job.out, replace(config, compile=pays(config, job.device, steps)))
    return replace(job, steps=steps)


def _report(job: Job) -> None:
    inputs = job.inputs().sources.items()
    write_report(
        job.out, job.config(), [f"{role} {s.contract} by {s.producer}" for role, s in inputs]
    )


def _seal(job: Job) -> None:
    config = job.config()
    seal(
        job.out,
        RUN,
        producer=PRODUCER,
        config=to_dict(config),
        seed=config.seed,
        inputs=job.inputs().sources,
    )
