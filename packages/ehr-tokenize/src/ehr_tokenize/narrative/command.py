"""`ehr-tokenize narrate`."""

from pathlib import Path

import click

from ehr_tracking.options import PATH, config_options, overwrite_option


@click.command()
@click.option("--meds", type=PATH, required=True, help="MEDS 0.4 data set.")
@click.option(
    "--labels",
    type=PATH,
    help="Subjects and prediction times: labels/1, or <task>/**/*.parquet as MEDS labels. Without, whole "
    "records of train and tuning.",
)
@click.option("--out", type=PATH, required=True, help="Data set of texts to write.")
@click.option("--tokens", type=PATH, help="Token data set whose delays are followed.")
@config_options("NarrateConfig", "gap_days=30")
@overwrite_option("a data set of texts")
def narrate(
    meds: Path,
    labels: Path | None,
    out: Path,
    tokens: Path | None,
    config_file: Path | None,
    overrides: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Tell each labelled record up to its prediction time, as text for a language model.

    Without labels, tell whole records of train, and of tuning to validate on, in pieces that each fit
    the limit: a corpus to go on pretraining with.

    Demographics come first, then events in order of time. Nothing after the prediction time is
    told, and what becomes known later is told later; with gap_days or gap_months, nothing from (prediction
    time - gap) on, for cases and controls alike.

    Example: ehr-tokenize narrate --meds demo/meds --labels demo/labels --out demo/text -s gap_days=30
    """
    from ehr_tokenize.narrative.config import NarrateConfig
    from ehr_tokenize.narrative.corpus import narrate_records
    from ehr_tokenize.narrative.driver import narrate as narrate_labelled
    from ehr_tracking.config import load_config

    settings = load_config(NarrateConfig, config_file, overrides)
    if labels is None:
        lines = narrate_records(meds, out, settings, tokens=tokens, overwrite=overwrite).lines()
    else:
        done = narrate_labelled(meds, labels, out, settings, tokens=tokens, overwrite=overwrite)
        lines = done.lines()
    click.echo("\n".join(lines))
