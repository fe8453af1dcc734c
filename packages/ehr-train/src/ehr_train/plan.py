"""`plan`: what a run would do and cost, without a step (`--dry-run`)."""

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ehr_models.precision import resolve_precision
from ehr_tracking.checkpoints import reading
from ehr_tracking.files import PathLike
from ehr_train.config import TrainConfig
from ehr_train.data.codes import Codes
from ehr_train.job import Job, count_steps, require_targets, sampler
from ehr_train.memory import as_one_of, measure, resident
from ehr_train.micro import with_passes
from ehr_train.model import load_or_build
from ehr_train.objectives.asker import Asker
from ehr_train.objectives.learner import Learner
from ehr_train.scale.launch import threads_each
from ehr_train.speed import flops_per_token, matmul_peak
from ehr_train.start import check_start
from ehr_train.step import Stepper


def plan_all(
    tokens: PathLike,
    runs: Iterable[tuple[PathLike, TrainConfig]],
    *,
    labels: PathLike | None = None,
    resume: bool = False,
    **common: Any,  # noqa: ANN401 -- as of `plan`
) -> dict[str, Any]:
    """What several runs on the same tokens would do, one after the other.

    Args:
        tokens: As of `plan`.
        runs: Of each, where it would write, and its config.
        labels: As of `plan`.
        resume: Leave those that are finished, go on with those that are begun.
        common: As of `plan`.

    Returns:
        That of `plan` for the first, and `runs`, `steps_of_all`, `flops_of_all` and `seconds_at_peak_of_all`.

    Raises:
        UserError: As `plan` does of the first; also where another has nothing to learn from.
    """
    (out, config), *others = [(Path(path), config) for path, config in runs]
    first = plan(tokens, config, labels=labels, out=out, resume=resume and out.is_dir(), **common)
    labels = None if labels is None else Path(labels)
    job = Job(tokens=Path(tokens), out=out, init=None, labels=labels, device=first["device"])
    token_set, steps, seen = job.open_tokens(), 0, 0.0
    for one in (config, *(other for _, other in others)):
        order = sampler(one, job.train_examples(one, token_set))
        steps += count_steps(order, one)
        seen += count_steps(order, one) * order.tokens / order.steps_an_epoch
    share = seen / (first["steps"] * first["tokens_per_step"])
    return {
        **first,
        "runs": 1 + len(others),
        "steps_of_all": steps,
        "flops_of_all": first["flops"] * share,
        "seconds_at_peak_of_all": round(first["seconds_at_peak"] * share, 1),
    }


def plan(  # noqa: PLR0913 -- what the command's options say
    tokens: PathLike,
    config: TrainConfig,
    *,
    nproc: int = 1,
    init: PathLike | None = None,
    labels: PathLike | None = None,
    device: str | None = None,
    out: PathLike | None = None,
    resume: bool = False,
    overwrite: bool = False,
    allow_changes: bool = False,
) -> dict[str, Any]:
    """What `train` would do, from the data and the model but without a step.

    All that it would refuse at the start is refused; where it would write only if `out` is given.

    Returns:
        `parameters`, `trained`, `steps`, `steps_per_epoch`, `tokens_per_step` (mean),
        `budget_filled` (share of `data.batch_tokens` that these are),
        `micro_tokens`, `passes_per_step` (of each process), `flops`, `seconds_at_peak` (a lower bound:
        all matrix products at this machine's measured peak), `seconds` (of all steps, from a few passes
        measured here), `memory_mb` (peak of each process, or of its GPU, from the same),
        `precision`, `device`.

    Raises:
        UserError: As `train` does.
    """
    tokens = Path(tokens)
    init = None if init is None else Path(init)
    labels = None if labels is None else Path(labels)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    job = Job(tokens=tokens, out=Path(out or ""), init=init, labels=labels, device=device)
    job.check(config, nproc)
    begun = False
    if out is not None:
        start = check_start(
            job, config, resume=resume, overwrite=overwrite, allow_changes=allow_changes
        )
        job, begun = start.job, start.begun
    latest = job.checkpoints().latest() if begun else None
    token_set = job.open_tokens()
    order = sampler(config, job.train_examples(config, token_set))
    objective = config.objective.fitted(order.examples, Codes(token_set))
    require_targets(objective, order, token_set)
    job.tuning_examples(config, token_set)
    with reading(init) if init and not begun else nullcontext() as checkpoint:
        if not begun:
            job, _ = job.resolved(checkpoint)
        model = load_or_build(job.init, config, objective, token_set, latest)
    base = resident() - sum(p.nbytes for p in model.parameters()) if device == "cpu" else 0
    steps, per_epoch = count_steps(order, config), order.steps_an_epoch
    mean_tokens = order.tokens / per_epoch
    filled = {}
    if order.loader == "tokens":
        filled["budget_filled"] = round(mean_tokens / order.batch, 4)
    precision = resolve_precision(config.precision, device, training=True)
    config = with_passes(job, replace(config, precision=precision, compile=False), nproc)
    stepper = Stepper(Learner(model.train(), objective), config, torch.device(device))
    asker = Asker(objective, order.examples, token_set.vocab_size, config.seed, Codes(token_set))
    with as_one_of(nproc):
        cost = measure(stepper, asker, config, processes=nproc)
    passes = -(-round(mean_tokens / nproc) // config.data.pass_tokens)
    tokens_each = min(config.data.pass_tokens, config.data.context + round(mean_tokens / nproc))
    update = mean_tokens / nproc * cost.seconds_per_token + cost.seconds_per_update
    flops = flops_per_token(model) * mean_tokens * steps
    return {
        "model": type(model).__name__,
        "parameters": model.num_parameters(),
        "trained": model.num_parameters(only_trainable=True),
        "examples": len(order.examples),
        "steps": steps,
        "steps_per_epoch": per_epoch,
        "tokens_per_step": round(mean_tokens),
        **filled,
        "micro_tokens": config.data.micro_tokens,
        "passes_per_step": passes,
        "flops": flops,
        "seconds_at_peak": round(flops / nproc / matmul_peak(torch.device(device), precision), 1),
        "seconds": round(steps * update, 1),
        "memory_mb": round((base + cost.peak_bytes(tokens_each, passes=passes)) / 1e6),
        "precision": precision,
        "device": device,
        "processes": nproc,
        "threads_each": threads_each(nproc),
    }
