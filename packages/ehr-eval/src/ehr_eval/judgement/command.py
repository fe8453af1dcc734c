"""`ehr-eval judge`."""

from pathlib import Path

import click

from ehr_tracking.options import PATH, config_options, named_option, overwrite_option


@click.command()
@click.option("--labels", type=PATH, required=True, help="Labels that were predicted.")
@named_option(
    "--predictions",
    "Predictions of a model, or the results of `ehr-eval ehrshot`; may be given again.",
    required=True,
)
@click.option(
    "--meds", type=PATH, required=True, help="The data set: who is held out, sex, age, any code."
)
@click.option("--out", type=PATH, required=True, help="Where the judgement shall be.")
@config_options("JudgeConfig", 'groups.codes={diabetes: "^DIAGNOSIS//ICD10CM//E11"}')
@click.option(
    "--workers", type=click.IntRange(1), help="Threads, a task each.  [default: one a core]"
)
@overwrite_option("a judgement")
def judge(
    labels: Path,
    predictions: dict[str, Path],
    meds: Path,
    out: Path,
    config_file: Path | None,
    overrides: tuple[str, ...],
    workers: int | None,
    overwrite: bool,
) -> None:
    """Judge predictions by every metric, with curves, groups, recalibration and conformal sets.

    Discrimination, calibration, net benefit with bootstraps over patients; before and after recalibration on
    tuning rows; by sex, age, race and any code; tables as Parquet, CSV and Markdown, and one HTML report.

    Example: ehr-eval judge --labels demo/labels --predictions demo=demo/results --meds demo/meds --out demo/judgement
    """
    import os

    from ehr_eval.judgement.config import JudgeConfig
    from ehr_tracking.config import load_config

    config = load_config(JudgeConfig, config_file, overrides)
    from ehr_eval.judgement.run import run_judge, summary
    from ehr_tracking.report import text_table

    workers = workers or os.cpu_count() or 1
    found = run_judge(labels, predictions, meds, out, config, workers=workers, overwrite=overwrite)
    click.echo(text_table(summary(found)))
    click.echo(f"report: {out / 'report.html'}")
