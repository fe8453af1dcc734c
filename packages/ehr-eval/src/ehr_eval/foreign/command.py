"""`ehr-eval adopt`."""

from pathlib import Path

import click

from ehr_tracking.options import PATH, config_options, overwrite_option


@click.command()
@click.argument("files", type=PATH, nargs=-1, required=True)
@click.option("--labels", type=PATH, required=True, help="Labels of what is predicted.")
@click.option("--out", type=PATH, required=True, help="Where the predictions shall be.")
@click.option("--task", help="That files without a column for it are of.")
@click.option(
    "--meds",
    type=PATH,
    help="Its held-out subjects are judged; its tuning subjects beside, to recalibrate by.",
)
@config_options("ForeignConfig", "probability=p_death")
@overwrite_option("predictions")
def adopt(
    files: tuple[Path, ...],
    labels: Path,
    out: Path,
    task: str | None,
    meds: Path | None,
    config_file: Path | None,
    overrides: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Take predictions of another system as predictions/1, to be judged and compared like ours.

    FILES are CSV or Parquet, with any names of columns; outcomes are those of the labels.

    Example: ehr-eval adopt theirs.csv --labels demo/labels --task mortality_1y -s probability=p_death --out demo/predictions/theirs
    """
    from ehr_eval.foreign.config import ForeignConfig
    from ehr_tracking.config import load_config

    config = load_config(ForeignConfig, config_file, overrides)
    from ehr_eval.foreign.adopt import adopt as write

    done = write(files, labels, out, config, task=task, meds=meds, overwrite=overwrite)
    for each in done:
        beside = f", and its {each.tuning:,} tuning labels" if each.tuning else ""
        left = f"; {each.elsewhere:,} rows of other splits left out" if each.elsewhere else ""
        of = "held-out labels" if meds else "labels"
        click.echo(
            f"{out}: {each.rows:,} of {each.labelled:,} {of} of {each.task} are predicted{beside}{left}"
        )
