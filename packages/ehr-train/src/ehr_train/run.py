"""`train`: from a token set and a config to a sealed run directory.

What pulls in transformers is imported where it is used: a process that only launches others shall
not wait for it.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
import yaml

from ehr_models.precision import resolve_precision
from ehr_tracking.backends import Card
from ehr_tracking.backends.follow import following
from ehr_tracking.checkpoints import CheckpointStore, reading
from ehr_tracking.config import dotted, to_dict
from ehr_tracking.contracts import RUN
from ehr_tracking.errors import UserError, is_disk_full
from ehr_tracking.files import PathLike, write_whole
from ehr_tracking.manifest import MANIFEST, refuse_existing, seal
from ehr_tracking.outputs import held, refuse_inputs
from ehr_tracking.runs import environment, read_log
from ehr_train import PRODUCER
from ehr_train.config import TrainConfig
from ehr_train.data.codes import Codes
from ehr_train.job import (
    INPUTS,
    Inputs,
    Job,
    count_steps,
    nothing_to_validate,
    require_targets,
    sampler,
)
from ehr_train.report import write_report
from ehr_train.scale import launch
from ehr_train.scale.stop import Stop

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
    device: str | None = None,
    track: Sequence[str] = (),
    nodes: launch.Nodes = launch.ALONE,
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
        device: cpu or cuda; the GPU where there is one.
        track: Trackers that show the run, `NAME` or `NAME:WHERE` each; they change nothing of it.
        nodes: This machine among several, on each of which `train` is called alike.

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
    if nodes.number:
        if not (out / MANIFEST).is_file():
            with stop.listening():
                launch.launch(_WORKER, {"device": device}, nproc, device, stop, nodes)
        return out
    with stop.listening(), held(out):
        job, begun = check_start(job, config, resume=resume, overwrite=overwrite)
        if begun:
            if (out / MANIFEST).is_file():
                return out
            _write_config(out, _taken_over(config, job.config()))
            if passed_over := job.checkpoints().fall_back(f"val_{job.config().score.name}"):
                click.echo(passed_over, err=True)
            adapted = job.init if config.adapter is not None else None
            with _directory(out, begun=True), reading(adapted) if adapted else nullcontext():
                _run(job, nproc, stop, track, nodes)
            return out
        with reading(init) if init else nullcontext() as checkpoint:
            job, inputs = job.resolved(checkpoint)
            with _directory(out, begun=False):
                resolved = replace(
                    config, precision=resolve_precision(config.precision, device, training=True)
                )
                write_start(out, resolved, inputs)
                _run(job, nproc, stop, track, nodes)
    return out


def _run(job: Job, nproc: int, stop: Stop, track: Sequence[str], nodes: launch.Nodes) -> None:
    job = _prepare(job)
    with following(job.out, track, _card(job)):
        if nproc == nodes.count == 1:
            from ehr_train.worker import work

            work(job, stop)
        else:
            launch.launch(_WORKER, job.spec(), nproc, job.device, stop, nodes)
        _report(job)
    _seal(job)


def _card(job: Job) -> Card:
    inputs = {f"input.{role}": s.fingerprint for role, s in job.inputs().sources.items()}
    return Card(
        name=job.out.absolute().name,
        params=dotted(to_dict(job.config())),
        tags={"producer": PRODUCER, **inputs},
    )


def check_start(
    job: Job, config: TrainConfig, *, resume: bool, overwrite: bool
) -> tuple[Job, bool]:
    """Refuse to begin where something else is, or to go on otherwise; writes nothing.

    Returns:
        The job, and whether it goes on: then it is as it was begun.

    Raises:
        UserError: Saying what is there, or what differs.
    """
    if resume and (job.out / "config.yaml").is_file():
        return _as_begun(job, config), True
    _refuse_existing(job, overwrite=overwrite)
    return job, False


def _taken_over(config: TrainConfig, old: TrainConfig) -> TrainConfig:
    """How a run was begun, with what changes no result as it is wanted now."""
    ahead, every = config.data.ahead, config.log.every
    return replace(old, data=replace(old.data, ahead=ahead), log=replace(old.log, every=every))


def _refuse_existing(job: Job, *, overwrite: bool) -> None:
    """Raise unless there is nothing, or a run of ours that may go and that nothing is read from."""
    out, read = job.out, [path for path in (job.tokens, job.labels, job.init) if path]
    ours = all((out / name).is_file() for name in ("config.yaml", INPUTS))
    if not ours or (out / MANIFEST).is_file():
        refuse_existing(out, RUN, overwrite=overwrite, inputs=read)
    else:
        refuse_inputs(out, read)
        if not overwrite:
            raise UserError(f"{out} holds an unfinished run; pass --resume to go on or --overwrite")


def _as_begun(job: Job, config: TrainConfig) -> Job:
    """The job as the run in `job.out` was begun.

    Raises:
        UserError: If that was with another config or other inputs.
    """
    old = job.config()
    if config.precision == "auto":
        config = replace(config, precision=old.precision)
    old = _taken_over(config, old)
    same, changed = job.again(job.inputs())
    differences = differing_keys(to_dict(old), to_dict(config)) + changed
    if differences:
        raise UserError(
            f"{job.out} was begun otherwise, so it cannot be resumed with: {'; '.join(differences)}"
        )
    if same.init is not None and not same.init.exists():
        gone = f"{same.init}, from which {job.out} was begun, is gone"
        if old.adapter is not None:
            raise UserError(f"{gone}, and the run holds an adapter of it alone")
        if job.checkpoints().latest() is None:
            raise UserError(
                f"{gone}, and the run has no checkpoint of its own yet; begin anew with --overwrite"
            )
    return same


def differing_keys(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The dotted keys by which two configs differ.

    Examples:
        >>> differing_keys({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "e": 3})
        ['a.c: 2 -> 4', 'd: 3 -> None', 'e: None -> 3']
    """
    differences = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            differences += differing_keys(before, after, f"{prefix}{key}.")
        elif before != after:
            differences.append(f"{prefix}{key}: {before} -> {after}")
    return differences


@contextmanager
def _directory(out: Path, *, begun: bool) -> Iterator[None]:
    """Make way for a run; put everything back as it was if it fails before its first step.

    Raises:
        UserError: If the disk fills after it: the run stays, to be resumed.
    """
    old = out.with_name(f".{out.name}.old")
    if not begun and out.exists():
        shutil.rmtree(old, ignore_errors=True)
        out.rename(old)
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException as e:
        if not begun and not read_log(out / "metrics.jsonl"):
            shutil.rmtree(out)
            if old.exists():
                old.rename(out)
        elif is_disk_full(e):
            raise UserError(
                f"the disk is full; {_what_is_kept(out)}; free some space and pass --resume"
            ) from e
        raise
    shutil.rmtree(old, ignore_errors=True)


def _what_is_kept(out: Path) -> str:
    latest = CheckpointStore(out / "checkpoints").latest()
    if latest is None:
        return f"the run {out} has no checkpoint yet and will begin anew"
    return f"the run {out} is kept at its last checkpoint, {latest.name}"


def write_start(out: Path, config: TrainConfig, inputs: Inputs) -> None:
    """Write the resolved config, the inputs and the environment into a new run directory."""
    (out / "environment.json").write_text(
        json.dumps(environment(), indent=1) + "\n", encoding="utf-8"
    )
    inputs.write(out)
    # last: it is what tells a begun run from other folders
    _write_config(out, config)


def _write_config(out: Path, config: TrainConfig) -> None:
    write_whole(out / "config.yaml", yaml.safe_dump(to_dict(config), sort_keys=False))


def _prepare(job: Job) -> Job:
    """Have the memory-mapped arrays there before any process looks for them, and count the steps."""
    tokens, config = job.open_tokens(), job.config()
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
    return replace(job, steps=count_steps(order, config))


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
