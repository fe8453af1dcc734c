"""`ehr-eval zeroshot` and `ehr-eval curve`."""

from pathlib import Path

import click

from ehr_tracking.options import PATH, config_options, overwrite_option

_NAMES = ("mc", "scope", "reach", "direct")


@click.command()
@click.option("--checkpoint", type=PATH, required=True, help="A run or checkpoint directory.")
@click.option("--tokens", type=PATH, required=True, help="Tokens of the same vocabulary.")
@click.option("--labels", type=PATH, required=True, help="Labels of the tasks: whom to ask, when.")
@click.option(
    "--task",
    "tasks",
    type=PATH,
    multiple=True,
    required=True,
    help="A task: its name in the library, or a file.",
)
@click.option("--out", type=PATH, required=True, help="Where the predictions shall be.")
@click.option("--estimator", type=click.Choice(_NAMES), help="How.  [default: scope]")
@click.option("--samples", type=click.IntRange(1), help="Futures of each row.  [default: 20]")
@config_options("ZeroshotConfig", "draw.seed=1")
@click.option("--device", default="cpu", show_default=True, help="As torch names it: cpu, cuda.")
@click.option("--workers", type=click.IntRange(1), help="Processes.  [default: one a core or GPU]")
@overwrite_option("predictions")
def zeroshot(
    checkpoint: Path,
    tokens: Path,
    labels: Path,
    tasks: tuple[Path, ...],
    out: Path,
    estimator: str | None,
    samples: int | None,
    config_file: Path | None,
    overrides: tuple[str, ...],
    device: str,
    workers: int | None,
    overwrite: bool,
) -> None:
    """Estimate the risk of any outcome from simulated futures, without learning from a label.

    Writes predictions/1 of the held-out rows, with an interval of each risk and the tokens that it took,
    for `ehr-eval ehrshot --predictions NAME=PATH`; with -s tuning=true of the tuning rows as well, by which
    `ehr-eval judge` recalibrates. Tasks asked at the same times share futures, but with `reach`. A run that was
    killed goes on where it was when the same command is given again.

    Example: ehr-eval zeroshot --checkpoint demo/runs/chrono --tokens demo/tokens --labels demo/labels --task mortality_1y --estimator scope --out demo/predictions/zeroshot
    """
    from ehr_eval.generate.zeroshot_config import ZeroshotConfig
    from ehr_tracking.config import load_config
    from ehr_tracking.report import text_table

    given = _given(estimator, samples)
    config = load_config(ZeroshotConfig, config_file, [*overrides, *given])
    from ehr_tracking.imports import loading

    with loading():
        from ehr_eval.generate.zeroshot import zeroshot as run

    done = run(
        checkpoint,
        tokens,
        labels,
        tasks,
        out,
        config,
        device=device,
        workers=workers,
        overwrite=overwrite,
    )
    click.echo(text_table(done.told))
    click.echo(f"{out}: {done.drawn:,} tokens drawn")


@click.command()
@click.option("--checkpoint", type=PATH, required=True, help="A run or checkpoint directory.")
@click.option("--tokens", type=PATH, required=True, help="Tokens of the same vocabulary.")
@click.option(
    "--task",
    "tasks",
    type=PATH,
    multiple=True,
    required=True,
    help="A task: its name in the library, or a file.",
)
@click.option("--subject", type=int, required=True, help="Whose record.")
@click.option(
    "--from",
    "start",
    help="First time, e.g. 2150-03-01T08:00.  [default: first event after birth]",
)
@click.option("--to", "end", help="Last time.  [default: last event]")
@click.option("--every", default="6h", show_default=True, help="A number with m, h, d, w or y.")
@click.option("--out", type=PATH, required=True, help="Where the curve shall be.")
@click.option("--estimator", type=click.Choice(_NAMES), help="How.  [default: scope]")
@click.option("--samples", type=click.IntRange(1), help="Futures of each point.  [default: 20]")
@config_options("ZeroshotConfig", "draw.seed=1")
@click.option("--device", default="cpu", show_default=True, help="As torch names it: cpu, cuda.")
@overwrite_option("curve")
def curve(
    checkpoint: Path,
    tokens: Path,
    tasks: tuple[Path, ...],
    subject: int,
    start: str | None,
    end: str | None,
    every: str,
    out: Path,
    estimator: str | None,
    samples: int | None,
    config_file: Path | None,
    overrides: tuple[str, ...],
    device: str,
    overwrite: bool,
) -> None:
    """Draw the risk of outcomes along one record, with its interval: a table, PNG plots and one HTML page.

    At each time the model sees what was known then. Lines mark what came.

    Example: ehr-eval curve --checkpoint demo/runs/chrono --tokens demo/tokens --task in_hospital_mortality --subject 17 --from 2150-03-01T08:00 --to 2150-03-08T08:00 --every 6h --out demo/curve
    """
    from ehr_eval.generate.zeroshot_config import ZeroshotConfig
    from ehr_tracking.config import load_config

    config = load_config(ZeroshotConfig, config_file, [*overrides, *_given(estimator, samples)])
    from ehr_eval.generate.curve import Stretch, parse_time
    from ehr_eval.generate.curve import curve as run

    first = parse_time(start, "--from") if start else None
    last = parse_time(end, "--to") if end else None
    stretch = Stretch(subject, first, last, every)
    found = run(checkpoint, tokens, tasks, stretch, out, config, device=device, overwrite=overwrite)
    click.echo(f"{out}: {found.height:,} points, {found['tokens'].sum():,} tokens")
    click.echo(f"report: {out / 'report.html'}")


@click.command()
@click.option("--trajectories", type=PATH, required=True, help="Futures, of `ehr-eval generate`.")
@click.option("--meds", type=PATH, required=True, help="The data set that they go on with.")
@click.option("--labels", type=PATH, required=True, help="Labels of the task, as ACES makes them.")
@click.option("--task", type=PATH, required=True, help="The task, as ACES has it.")
@click.option("--out", type=PATH, required=True, help="Where the predictions shall be.")
@click.option(
    "--confidence",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.95,
    show_default=True,
    help="Of the intervals.",
)
@overwrite_option("predictions")
def aces(
    trajectories: Path,
    meds: Path,
    labels: Path,
    task: Path,
    out: Path,
    confidence: float,
    overwrite: bool,
) -> None:
    """Let ACES label simulated futures: the risk of any task that it can tell.

    Writes predictions/1 of the held-out rows, the share of futures that are positive; of the tuning rows as well where
    each has futures. Needs the extra aces.

    Example: ehr-eval aces --trajectories demo/futures --meds demo/meds --labels demo/aces/readmission --task readmission.yaml --out demo/predictions/aces
    """
    from ehr_eval.generate.aces import aces as run

    found = run(trajectories, meds, labels, task, out, confidence=confidence, overwrite=overwrite)
    without = found["risk"].null_count()
    click.echo(f"{out}: {found.height:,} rows, {without:,} of them without an answer in any future")


def _given(estimator: str | None, samples: int | None) -> list[str]:
    named = {"estimator": estimator, "draw.samples": samples}
    return [f"{name}={value}" for name, value in named.items() if value is not None]
