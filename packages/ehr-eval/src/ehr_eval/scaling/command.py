"""`ehr-eval scaling`."""

from pathlib import Path

import click

from ehr_tracking.options import PATH, config_options, named_option, overwrite_option


@click.command()
@named_option(
    "--results",
    "Results of `ehrshot` with --risks; given again, of another data set.",
    required=True,
)
@named_option(
    "--run", "Training run of a model (MODEL, or MODEL@SEED); given again for each.", required=True
)
@click.option("--out", type=PATH, required=True, help="Where page and tables shall be.")
@config_options("ScalingConfig", "ks=[16,-1]")
@overwrite_option("a study")
def scaling(
    results: dict[str, Path],
    run: dict[str, Path],
    out: Path,
    config_file: Path | None,
    overrides: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Loss and share of the way to the best possible against parameters and tokens, with fitted laws.

    Runs of one kind and objective that differ in size and tokens are a family: at least six, of three sizes and
    three budgets of tokens.

    Example: ehr-eval scaling --results cohort=out/results --run gpt2-s-1m=out/runs/gpt2-s-1m --out out/scaling
    """
    from ehr_eval.scaling.config import ScalingConfig
    from ehr_tracking.config import load_config

    config = load_config(ScalingConfig, config_file, overrides)
    from ehr_eval.scaling.run import run_scaling
    from ehr_tracking.report import text_table

    click.echo(text_table(run_scaling(results, run, out, config, overwrite=overwrite)))
    click.echo(f"page: {out / 'page.html'}")
