"""`train_folds`: as many runs as there are folds, and what they say together (`--folds`)."""

import csv
import io
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import click
import numpy as np
import torch

from ehr_tracking.config import ConfigError
from ehr_tracking.contracts import ContractError
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike, write_whole
from ehr_tracking.outputs import held, refuse_inputs
from ehr_tracking.report import html_page, table
from ehr_tracking.runs import read_log
from ehr_train.config import FoldConfig, TrainConfig
from ehr_train.data.codes import Codes
from ehr_train.data.folds import in_fold
from ehr_train.job import Job
from ehr_train.report import best_record
from ehr_train.run import train

TABLE, REPORT = "folds.csv", "report.html"
_FOLD = "fold-"
_NOTE = """Each fold validates on subjects that it has not trained on; its figures are those of its best
checkpoint, which these same subjects chose, so they flatter a little. sd is the sample standard deviation
over folds, which share most of what they train on: no standard error."""


def train_folds(  # noqa: PLR0913 -- what the command's options say
    tokens: PathLike,
    out: PathLike,
    config: TrainConfig | None = None,
    *,
    folds: int,
    nproc: int = 1,
    init: PathLike | None = None,
    labels: PathLike | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: str | None = None,
    track: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Train a run for each fold of the subjects of train and tuning; held_out is not looked at.

    Fold i validates on its subjects, is fitted to all others, and is the run `out/fold-i`.

    Args:
        tokens: As those below of `train`.
        out: A directory of runs, with `folds.csv` and `report.html`.
        config: Of every run, but for `fold`.
        folds: How many, at least 2.
        nproc: Of each run; they follow one another.
        init: Where every fold starts.
        labels: Of subjects of any split.
        resume: Leave the folds that are finished, go on with one that is not, begin the others.
        overwrite: Replace folds in `out`.
        device: cpu or cuda.
        track: Trackers, each of which shows every fold as a run.

    Returns:
        The rows of `folds.csv`: of each fold, then `mean` and `sd` over those that have the figure.

    Raises:
        UserError: As `train` does; also, before anything is written, where a fold would have nothing
            to learn from or to validate on.
    """
    tokens, out = Path(tokens), Path(out)
    init = None if init is None else Path(init)
    labels = None if labels is None else Path(labels)
    config = config or TrainConfig()
    if config.fold is not None:
        raise ConfigError("--folds trains every fold: leave out fold, which names one of them")
    if folds < 2:
        raise ConfigError(f"--folds {folds}: take 2 or more")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    job = Job(tokens=tokens, out=out, init=init, labels=labels, device=device)
    first = of_folds(config, folds, 1)
    job.check(first, nproc)
    with held(out):
        begun = resume and (out / f"{_FOLD}1").is_dir()
        refuse_inputs(out, [path for path in (tokens, init, labels) if path])
        if not begun:
            _refuse_others(out, overwrite=overwrite)
        sizes = _sizes(job, first)
        rows = []
        with nullcontext() if begun else _replacing(out):
            runs = runs_of_folds(out, config, folds).items()
            for number, ((path, of_fold), size) in enumerate(
                zip(runs, sizes, strict=True), start=1
            ):
                click.echo(f"fold {number} of {folds}", err=True)
                run = train(
                    tokens, path, of_fold,
                    nproc=nproc, init=init, labels=labels, resume=resume, device=device, track=track,
                )  # fmt: skip
                about = dict(zip(("fold", "trained", "validated"), (number, *size), strict=True))
                rows.append({**about, **_best(run, config)})
        rows = _summed_up(rows)
        _write(out, rows)
    return rows


def runs_of_folds(out: PathLike, config: TrainConfig, folds: int) -> dict[Path, TrainConfig]:
    """The config of each run of `train_folds`, by where it writes."""
    numbers = range(1, folds + 1)
    return {Path(out) / f"{_FOLD}{n}": of_folds(config, folds, n) for n in numbers}


def of_folds(config: TrainConfig, folds: int, number: int) -> TrainConfig:
    """The config of one of them."""
    return replace(config, fold=FoldConfig(of=folds, number=number))


def _best(run: Path, config: TrainConfig) -> dict[str, Any]:
    """The step of its best validation, and the figures."""
    best = best_record(read_log(run / "metrics.jsonl"), config.score) or {}
    figures = {k.removeprefix("val_"): v for k, v in best.items() if k.startswith("val_")}
    return {"step": best.get("step"), **figures}


@contextmanager
def _replacing(out: Path) -> Iterator[None]:
    """Make way for folds; put back what was there if the first does not come to its first step."""
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    try:
        yield
    except BaseException:
        if old.exists() and not (out / f"{_FOLD}1").exists():
            shutil.rmtree(out, ignore_errors=True)
            old.rename(out)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _refuse_others(out: Path, *, overwrite: bool) -> None:
    """Raise unless there is nothing, or folds that may go."""
    if not out.exists():
        return
    there = sorted(out.iterdir()) if out.is_dir() else [out]
    strange = [path for path in there if not _is_ours(path)]
    if strange:
        raise UserError(f"{strange[0]} is no fold of a run; choose another path for --out")
    if there and not overwrite:
        raise UserError(f"{out} holds folds; pass --resume to go on or --overwrite")


def _is_ours(path: Path) -> bool:
    fold = path.name.startswith((_FOLD, f".{_FOLD}"))  # hidden: locks and what --overwrite put away
    return path.name in (TABLE, REPORT) or fold


def _sizes(job: Job, config: TrainConfig) -> list[tuple[int, int]]:
    """How many examples each fold trains and validates on.

    Raises:
        UserError: If one has none, or the objective cannot be fitted to those of a fold.
    """
    assert config.fold is not None
    tokens, folds = job.open_tokens(), config.fold.of
    pooled = job.pooled_examples(config, tokens)
    subjects = len(np.unique(pooled.subject))
    sizes = []
    for number in range(1, folds + 1):
        mine = in_fold(pooled, folds, number, config.seed)
        if mine.all() or not mine.any():
            raise ContractError(
                f"--folds {folds}: fold {number} has {'all' if mine.any() else 'none'} of the {subjects:,} "
                "subjects of train and tuning that there are examples of; take fewer folds"
            )
        config.objective.fitted(pooled.take(np.flatnonzero(~mine)), Codes(tokens))
        sizes.append((int((~mine).sum()), int(mine.sum())))
    return sizes


def _summed_up(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows, each with every column, and their means and sample standard deviations.

    Examples:
        >>> rows = [{"fold": 1, "step": 4, "auroc": 0.5}, {"fold": 2, "step": 6, "auroc": 0.7}]
        >>> mean, sd = _summed_up(rows)[2:]
        >>> mean["fold"], round(mean["auroc"], 3), sd["fold"], round(sd["auroc"], 3), sd["step"]
        ('mean', 0.6, 'sd', 0.141, None)
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    about = ("fold", "trained", "validated", "step")
    values = {
        name: [row[name] for row in rows if row.get(name) is not None]
        for name in columns
        if name not in about
    }
    mean = {name: fmean(found) for name, found in values.items() if found}
    sd = {name: stdev(found) for name, found in values.items() if len(found) > 1}
    return [
        {name: row.get(name) for name in columns}
        for row in (*rows, {"fold": "mean", **mean}, {"fold": "sd", **sd})
    ]


def _write(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    page = html_page(f"Folds {out.name}", [f'<p class="note">{_NOTE}</p>', table(rows)])
    write_whole(out / REPORT, page)
    write_whole(out / TABLE, text.getvalue())
