"""`ehr-eval survival`."""

from pathlib import Path

import click

from ehr_tracking.options import PATH, config_options, named_option, overwrite_option


@click.command()
@click.option("--labels", type=PATH, required=True, help="Labels with duration_days.")
@named_option(
    "--features",
    "Features for a Cox regression; may be given again. Name the count baseline `counts`.",
    required=True,
)
@named_option(
    "--predictions", "Risks of a fine-tuned model, from `ehr-eval predict`; may be given again."
)
@click.option("--out", type=PATH, required=True, help="Where the results shall be.")
@config_options("SurvivalConfig", "horizons_days=[30,365]")
@overwrite_option("results")
def survival(
    labels: Path,
    features: dict[str, Path],
    predictions: dict[str, Path],
    out: Path,
    config_file: Path | None,
    overrides: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Judge predicted times to an event beside Cox regressions on features.

    Harrell's and Uno's C, time-dependent AUROC and Brier score with bootstraps over patients, survival by
    group of risk, and one HTML report.

    Example: ehr-eval survival --labels demo/timed --features counts=demo/features/counts-timed --predictions tuned=demo/predictions/death --out demo/survival
    """
    from ehr_eval.survival.config import SurvivalConfig
    from ehr_tracking.config import load_config

    config = load_config(SurvivalConfig, config_file, overrides)
    from ehr_eval.survival.run import run_survival, summary
    from ehr_tracking.report import text_table

    found = run_survival(
        labels, features, out, config, predictions=predictions, overwrite=overwrite
    )
    click.echo(text_table(summary(found)))
    click.echo(f"report: {out / 'report.html'}")
