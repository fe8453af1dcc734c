"""`ehr-train sweep`."""

from pathlib import Path

import click

from ehr_tracking.options import PATH, overwrite_option


@click.command()
@click.argument("file", type=PATH)
@click.option(
    "--run",
    required=True,
    metavar="OPTIONS",
    help="Options of one `ehr-train`, or of `text`, quoted, without --out.",
)
@click.option("--out", type=PATH, required=True, help="Directory of the sweep; runs go below it.")
@click.option("--trials", type=click.IntRange(1), help="In all; run_cap of FILE, else 20.")
@click.option(
    "--workers", type=click.IntRange(1), default=1, show_default=True, help="Runs at a time."
)
@click.option(
    "--minutes", type=click.FloatRange(0, min_open=True), help="Begin no trial after these."
)
@click.option(
    "--prune",
    type=click.Choice(["none", "median", "hyperband"]),
    help="Which trials end early; early_terminate of FILE, else none.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the search.")
@click.option("--resume", is_flag=True, help="Go on with a sweep in --out.")
@overwrite_option("a sweep")
@click.option(
    "--wandb", type=PATH, help="Write this file for `wandb sweep` instead, and run nothing."
)
@click.pass_context
def sweep(
    context: click.Context,
    /,
    file: Path,
    run: str,
    out: Path,
    trials: int | None,
    workers: int,
    minutes: float | None,
    prune: str | None,
    seed: int,
    resume: bool,
    overwrite: bool,
    wandb: Path | None,
) -> None:  # fmt: skip
    """Search for the settings that are best on validation: FILE is a sweep in the form of W&B.

    Each trial is an ordinary run below --out, with the settings that Optuna proposes. A sweep that was killed goes
    on with --resume, and so does each of its runs.

    Example: ehr-train sweep configs/sweep/lr.yaml --out demo/sweep --run "--tokens demo/tokens -c configs/train/behrt-mlm.yaml"
    """
    from ehr_train.sweep.checks import check_space, options_of
    from ehr_train.sweep.space import read_space

    space = read_space(file)
    options = options_of(run, context.find_root().command)
    check_space(space, options, file)
    if wandb is not None:
        from ehr_train.sweep.agents import write_agents

        write_agents(wandb, space, options.arguments, out, overwrite=overwrite)
        click.echo(f"wrote {wandb}; begin with: wandb sweep {wandb}")
        return
    from ehr_train.sweep.study import Search, run_sweep

    search = Search(trials=trials, workers=workers, minutes=minutes, prune=prune, seed=seed)
    done = run_sweep(space, options.arguments, out, search, resume=resume, overwrite=overwrite)
    click.echo("\n".join(done.lines()))
