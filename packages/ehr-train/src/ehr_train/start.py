"""How a run begins, and whether it may go on: what is there, what was begun, and what has changed since."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from ehr_tracking.checkpoints import CheckpointStore, step_of
from ehr_tracking.config import to_dict
from ehr_tracking.contracts import RUN
from ehr_tracking.errors import UserError, is_disk_full
from ehr_tracking.files import write_whole
from ehr_tracking.manifest import MANIFEST, refuse_existing
from ehr_tracking.outputs import refuse_inputs
from ehr_tracking.runs import environment, read_log
from ehr_train.config import TrainConfig
from ehr_train.job import INPUTS, Inputs, Job, count_steps, sampler

CHANGES = "changes.jsonl"
"""Each time that a run went on with another config: behind which step, and of each key what it was and is."""
Change = tuple[str, Any, Any]
"""Dotted key, what it was, what it is."""

_FREE = ("data.ahead", "log.every", "parallel")
"""What changes no result, but by rounding, may be another one at any time."""
_OPTIM = "lr schedule warmup floor decay steps epochs betas eps momentum weight_decay clip skip"
_MAY = (
    *(f"optim.{name}" for name in _OPTIM.split()),
    *("validation.every", "validation.patience", "checkpoint", "log"),
    *("data.micro_tokens", "precision", "compile", "recompute"),
)
"""What may be another one from some step on."""
_STAYS = {
    "model": "the weights are its",
    "objective": "its head has learnt for it",
    "trained": "the optimizer knows what is trained",
    "adapter": "the weights are its",
    "optim": "the optimizer's state is of it",
    "data": "the position in an epoch counts steps of it",
    "validation": "the best so far was measured with it",
    "precision": "the scale of the loss is of it",
    "seed": "every draw depends on it",
}
"""Why others stay."""
_OF_THE_DATA = "it says what is learnt from"


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """How a run begins or goes on."""

    job: Job
    """As it was begun, where it goes on."""
    config: TrainConfig
    begun: bool
    changes: tuple[Change, ...] = ()
    """What is another one than before."""

    @property
    def complete(self) -> bool:
        """Whether there is nothing left to do."""
        return self.begun and not self.changes and (self.job.out / MANIFEST).is_file()

    def go_on(self) -> None:
        """Write what is another one now; with it, a finished run is none any more."""
        out = self.job.out
        if self.changes:
            (out / MANIFEST).unlink(missing_ok=True)
            _note(out, self.changes)
        write_config(out, self.config)


def check_start(
    job: Job, config: TrainConfig, *, resume: bool, overwrite: bool, allow_changes: bool = False
) -> Start:
    """Refuse to begin where something else is, or to go on otherwise; writes nothing.

    Raises:
        UserError: Saying what is there, or what differs.
    """
    if resume and (job.out / "config.yaml").is_file():
        return _as_begun(job, config, allow_changes=allow_changes)
    _refuse_existing(job, overwrite=overwrite)
    return Start(job=job, config=config, begun=False)


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


def _as_begun(job: Job, config: TrainConfig, *, allow_changes: bool) -> Start:
    """The job as the run in `job.out` was begun.

    Raises:
        UserError: If that was with another config that may not or shall not change, or with other inputs.
    """
    old = job.config()
    if config.precision == "auto":
        config = replace(config, precision=old.precision)
    if config.compile == "auto":
        config = replace(config, compile=old.compile)
    if config.data.micro_tokens == "auto":
        found = old.data.micro_tokens
        config = replace(config, data=replace(config.data, micro_tokens=found))
    changes = [
        change
        for change in differences(to_dict(old), to_dict(config))
        if not _is_one_of(change[0], _FREE)
    ]
    same, others = job.again(job.inputs())
    fixed = [change for change in changes if not _may(change)]
    shown = fixed if allow_changes else changes
    if shown or others:
        refused = [_shown(change) for change in shown] + others
        way = "begin anew with --overwrite, or into another --out"
        if not fixed and not others:
            way = f"go on so with --allow-changes, or {way}"
        raise UserError(f"{job.out} was begun otherwise: {'; '.join(refused)}. {way.capitalize()}")
    _refuse_less(same, config, changes)
    _require_init(same, old)
    return Start(job=same, config=config, begun=True, changes=tuple(changes))


def _require_init(job: Job, config: TrainConfig) -> None:
    if job.init is None or job.init.exists():
        return
    gone = f"{job.init}, from which {job.out} was begun, is gone"
    if config.adapter is not None:
        raise UserError(f"{gone}, and the run holds an adapter of it alone")
    if job.checkpoints().latest() is None:
        raise UserError(
            f"{gone}, and the run has no checkpoint of its own yet; begin anew with --overwrite"
        )


def _refuse_less(job: Job, config: TrainConfig, changes: list[Change]) -> None:
    """Raise if a run shall end ahead of where it stands."""
    if not any(key in ("optim.steps", "optim.epochs") for key, *_ in changes):
        return
    done = _done(job.checkpoints())
    steps = count_steps(sampler(config, job.train_examples(config, job.open_tokens())), config)
    if steps < done:
        raise UserError(f"{job.out} has done {done:,} steps: it cannot end after {steps:,}")


def _done(store: CheckpointStore) -> int:
    latest = store.latest()
    return 0 if latest is None else step_of(latest.name)


def _is_one_of(key: str, keys: tuple[str, ...]) -> bool:
    return any(f"{key}.".startswith(f"{one}.") for one in keys)


def _may(change: Change) -> bool:
    """Whether a run may go on with it; fp16 has a scale of the loss that it has come to."""
    return _is_one_of(change[0], _MAY) and "fp16" not in change


def _shown(change: Change) -> str:
    key, was, now = change
    why = "" if _may(change) else f" (stays: {_STAYS.get(key.split('.')[0], _OF_THE_DATA)})"
    return f"{key}: {was} -> {now}{why}"


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[Change]:
    """The dotted keys by which two configs differ, with what each was and is.

    Examples:
        >>> differences({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "e": 3})
        [('a.c', 2, 4), ('d', 3, None), ('e', None, 3)]
    """
    found: list[Change] = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append((f"{prefix}{key}", before, after))
    return found


def _note(out: Path, changes: tuple[Change, ...]) -> None:
    """Append to `changes.jsonl`; once, also where a run is killed before it has its new config."""
    record = {
        "step": _done(CheckpointStore(out / "checkpoints")),
        "changes": {key: [was, now] for key, was, now in changes},
    }
    before = read_log(out / CHANGES)
    records = before if before[-1:] == [record] else [*before, record]
    write_whole(out / CHANGES, "".join(json.dumps(r) + "\n" for r in records))


def changes_of(out: Path) -> list[str]:
    """In one line each, with what a run went on otherwise than before."""
    return [
        f"{key}: {was} -> {now} behind step {record['step']}"
        for record in read_log(out / CHANGES)
        for key, (was, now) in record["changes"].items()
    ]


def write_start(out: Path, config: TrainConfig, inputs: Inputs, device: str) -> None:
    """Write the resolved config, the inputs and the environment into a new run directory.

    Args:
        out: The directory.
        config: Resolved.
        inputs: What the run reads.
        device: cpu or cuda; of a GPU the environment says which one.
    """
    used = torch.cuda.get_device_name() if device == "cuda" else device
    text = json.dumps({**environment(), "device": used}, indent=1) + "\n"
    (out / "environment.json").write_text(text, encoding="utf-8")
    inputs.write(out)
    # last: it is what tells a begun run from other folders
    write_config(out, config)


def write_config(out: Path, config: TrainConfig) -> None:
    """Write the resolved config of a run."""
    write_whole(out / "config.yaml", yaml.safe_dump(to_dict(config), sort_keys=False))


@contextmanager
def directory(out: Path, begin: Callable[[Path], None] | None) -> Iterator[None]:
    """In which a run is trained; put back what was there if it fails before its first step.

    Args:
        out: The run directory.
        begin: Writes what a run begins with into the directory that it is given; None: it goes on.

    Raises:
        UserError: If the disk fills later: the run stays, to be resumed.
    """
    old = out.with_name(f".{out.name}.old")
    if begin is not None:
        _make_way(out, old, begin)
    try:
        yield
    except BaseException as e:
        if begin is not None and not read_log(out / "metrics.jsonl"):
            shutil.rmtree(out)
            if old.exists():
                old.rename(out)
        elif is_disk_full(e):
            raise UserError(
                f"the disk is full; {_what_is_kept(out)}; free some space and pass --resume"
            ) from e
        raise
    shutil.rmtree(old, ignore_errors=True)


def _make_way(out: Path, old: Path, begin: Callable[[Path], None]) -> None:
    """Put a run that begins at `out`, whole: however it is killed, it can be gone on with, or begins anew."""
    new = out.with_name(f".{out.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        begin(new)
    except BaseException:
        shutil.rmtree(new)
        raise
    if out.exists():
        shutil.rmtree(old, ignore_errors=True)
        out.rename(old)
    new.rename(out)


def _what_is_kept(out: Path) -> str:
    latest = CheckpointStore(out / "checkpoints").latest()
    if latest is None:
        return f"the run {out} has no checkpoint yet and will begin anew"
    return f"the run {out} is kept at its last checkpoint, {latest.name}"
