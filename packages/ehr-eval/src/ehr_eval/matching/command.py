"""`ehr-eval match`."""

from pathlib import Path

import click

from ehr_tracking.options import PATH, config_options, overwrite_option


@click.command()
@click.option("--meds", type=PATH, required=True, help="MEDS data set.")
@click.option(
    "--cases",
    type=PATH,
    required=True,
    help="Labels of one task, or a CSV file with subject_id and prediction_time: cases and index dates.",
)
@click.option("--out", type=PATH, required=True, help="Labels to write (labels/1).")
@click.option("--subject", default="subject_id", show_default=True, help="Column of a CSV file.")
@click.option("--time", default="prediction_time", show_default=True, help="Column of a CSV file.")
@click.option("--value", help="Column of a CSV file, 1 in each row; boolean_value where not given.")
@config_options("MatchConfig", "controls=4")
@overwrite_option("labels")
def match(
    meds: Path,
    cases: Path,
    out: Path,
    subject: str,
    time: str,
    value: str | None,
    config_file: Path | None,
    overrides: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Give controls the index dates of cases.

    Each case gets controls of its split, sex and age whose records reach to its index date and began about as long
    before; they are labelled no at that date. So records end alike for both, whatever is cut off later.

    Example: ehr-eval match --meds demo/meds --cases cases.csv --out demo/matched -s controls=4
    """
    from ehr_eval.matching.config import MatchConfig
    from ehr_eval.matching.write import match_controls
    from ehr_tracking.arrow.label_csv import LabelColumns
    from ehr_tracking.config import load_config

    settings = load_config(MatchConfig, config_file, overrides)
    columns = LabelColumns(subject=subject, time=time, value=value)
    done = match_controls(meds, cases, out, settings, columns=columns, overwrite=overwrite)
    click.echo("\n".join(done.lines()))
