"""`ehr-eval strata`."""

from pathlib import Path

import click

from ehr_tracking.options import PATH, config_options, named_option, overwrite_option


@click.command()
@click.option("--meds", type=PATH, required=True, help="MEDS data set.")
@click.option("--labels", type=PATH, required=True, help="Labels of it.")
@named_option(
    "--predictions",
    "Predictions of held-out rows (predictions/1), or results/1 of `ehr-eval ehrshot`; may be given again.",
    required=True,
)
@click.option("--tokens", type=PATH, help="Tokens of it: their number is one more measure.")
@click.option("--out", type=PATH, required=True, help="Where the table, plots and page shall be.")
@config_options("StrataConfig", "bootstraps=1000")
@overwrite_option("an artifact")
def strata(
    meds: Path,
    labels: Path,
    predictions: dict[str, Path],
    tokens: Path | None,
    out: Path,
    config_file: Path | None,
    overrides: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Brier scores by quartile of how repetitive, irregular and long records are.

    Repetition is the share of n-grams of codes that recur, irregularity the spread of the time between events,
    both of what is known at the prediction time. Intervals are bootstraps over patients.

    Example: ehr-eval strata --meds demo/meds --labels demo/labels --predictions ehrshot=demo/results --tokens demo/tokens --out demo/strata
    """
    from ehr_eval.strata.config import StrataConfig
    from ehr_tracking.config import load_config

    config = load_config(StrataConfig, config_file, overrides)
    from ehr_eval.strata.run import run_strata, summary
    from ehr_tracking.report import text_table

    found = run_strata(meds, labels, predictions, out, config, tokens=tokens, overwrite=overwrite)
    click.echo(text_table(summary(found)))
    click.echo(f"report: {out / 'report.html'}")
