"""`train_shots`: a run for each draw of `shots/1` (`--shots`), so that a fine-tuned model stands beside heads."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import click

from ehr_tracking.config import ConfigError
from ehr_tracking.contracts import TRAIN
from ehr_tracking.files import PathLike
from ehr_train.config import ShotsConfig, TrainConfig
from ehr_train.data.labels import shots_table
from ehr_train.run import train


def train_shots(  # noqa: PLR0913 -- what the command's options say
    tokens: PathLike,
    out: PathLike,
    config: TrainConfig,
    *,
    shots: PathLike,
    init: PathLike,
    tasks: Sequence[str] = (),
    nproc: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    device: str | None = None,
) -> list[Path]:
    """Fine-tune a model on each draw of each task, one after the other.

    Args:
        tokens: `tokens/1`.
        out: Each run is `<task>/k=<k>/replicate=<r>` in it.
        config: Of every run, but for `shots`.
        shots: `shots/1`, as `ehr-eval ehrshot --shots` writes them.
        init: Where every run starts.
        tasks: Of them; all without.
        nproc: Processes of each run.
        resume: Leave runs that are finished, go on with one that is not.
        overwrite: Replace runs.
        device: cpu or cuda.

    Returns:
        The runs.

    Raises:
        UserError: As `train`; also if the shots have none of the tasks.
    """
    runs = runs_of(out, config, shots=shots, tasks=tasks)
    for number, (run, of_draw) in enumerate(runs.items(), start=1):
        click.echo(f"{run} ({number} of {len(runs)})", err=True)
        train(
            tokens, run, of_draw, nproc=nproc, init=init, labels=shots,
            resume=resume and run.is_dir(), overwrite=overwrite, device=device,
        )  # fmt: skip
    return list(runs)


def runs_of(
    out: PathLike, config: TrainConfig, *, shots: PathLike, tasks: Sequence[str] = ()
) -> dict[Path, TrainConfig]:
    """The config of each run of `train_shots`, by where it writes.

    Raises:
        ConfigError: If the shots have none of the tasks.
    """
    draws = [draw for draw in draws_of(Path(shots)) if not tasks or draw.task in tasks]
    missing = sorted({*tasks} - {draw.task for draw in draws})
    if missing or not draws:
        raise ConfigError(f"{shots} has no shots of {missing[0] if missing else 'any task'}")
    return {
        Path(out) / draw.task / f"k={draw.k}" / f"replicate={draw.replicate}": replace(
            config, shots=draw
        )
        for draw in draws
    }


def draws_of(shots: Path) -> list[ShotsConfig]:
    """Every draw, in the order of the file.

    Raises:
        ContractError: If it is no `shots/1`.
    """
    table = shots_table(shots)
    names = ("task", "k", "replicate", "split")
    rows: Iterable[tuple[str, int, int, str]] = dict.fromkeys(
        zip(*(table[name].to_pylist() for name in names), strict=True)
    )
    return [ShotsConfig(task=t, k=k, replicate=r) for t, k, r, split in rows if split == TRAIN]
