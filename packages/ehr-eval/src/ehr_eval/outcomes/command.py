"""`ehr-eval outcomes`."""

from pathlib import Path

import click

from ehr_tracking.options import PATH, config_options, named_option, overwrite_option


@click.command()
@click.option(
    "--problem",
    type=click.Choice(["multiclass", "regression"]),
    required=True,
    help="What the labels say: one of several classes, or a number.",
)
@click.option("--labels", type=PATH, required=True, help="Labels of the one task.")
@named_option(
    "--features",
    "Features for an ordinary model; may be given again. Name the count baseline `counts`.",
    required=True,
)
@named_option(
    "--predictions", "Those of a fine-tuned model, from `ehr-eval predict`; may be given again."
)
@click.option("--out", type=PATH, required=True, help="Where the results shall be.")
@config_options("OutcomesConfig", "bootstraps=1000")
@overwrite_option("results")
def outcomes(
    problem: str,
    labels: Path,
    features: dict[str, Path],
    predictions: dict[str, Path],
    out: Path,
    config_file: Path | None,
    overrides: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Judge predicted classes or numbers beside ordinary models on features.

    Macro AUROC, accuracy, macro F1 and confusion matrices beside multinomial logistic regression and the
    majority class; MAE, RMSE, R2 and Spearman's correlation beside ridge regression and the mean of
    train; with bootstraps over patients, and one HTML report.

    Example: ehr-eval outcomes --problem multiclass --labels demo/stage --features counts=demo/features/counts-stage --predictions tuned=demo/predictions/stage --out demo/outcomes
    """
    from ehr_eval.outcomes.config import OutcomesConfig
    from ehr_tracking.config import load_config

    config = load_config(OutcomesConfig, config_file, overrides)
    from ehr_eval.outcomes.run import run_outcomes, summary
    from ehr_tracking.report import text_table

    judged = run_outcomes(
        problem, labels, features, out, config, predictions=predictions, overwrite=overwrite
    )
    click.echo(text_table(summary(judged)))
    click.echo(f"report: {out / 'report.html'}")
