"""`ehr-eval counts`."""

from pathlib import Path

import click

from ehr_tracking.options import PATH, config_options, overwrite_option


@click.command()
@click.option("--meds", type=PATH, required=True, help="MEDS data set.")
@click.option("--labels", type=PATH, required=True, help="Labels.")
@click.option("--out", type=PATH, required=True, help="Where features go.")
@click.option("--tokens", type=PATH, help="Take `delay` from these tokens.")
@config_options("CountsConfig", "min_rows=10")
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Processes, a file each.",
)
@overwrite_option("features")
def counts(
    meds: Path,
    labels: Path,
    out: Path,
    tokens: Path | None,
    config_file: Path | None,
    overrides: tuple[str, ...],
    workers: int,
    overwrite: bool,
) -> None:
    """Write count features, the baseline to beat, for every labelled prediction time.

    Counts of codes, of their ancestors and of value bins over several windows, how recently each was
    there, how values go, age and static codes; sparse features/1. Compared with a model on tokens that were
    made with `delay`, they need the same: give --tokens, or set it. A run that was killed goes on when the same
    command is given again.

    Example: ehr-eval counts --meds demo/meds --labels demo/labels --out demo/features/counts
    """
    from ehr_eval.counts.config import CountsConfig
    from ehr_eval.counts.write import count_features
    from ehr_tracking.config import load_config

    settings = load_config(CountsConfig, config_file, overrides)
    done = count_features(
        meds, labels, out, settings, tokens=tokens, workers=workers, overwrite=overwrite
    )
    note = f"; {done.blind:,} rows see no event and are all zeros" if done.blind else ""
    click.echo(
        f"{done.path}: {done.rows:,} rows, {done.columns:,} columns, {done.nonzero:,} values{note}"
    )
