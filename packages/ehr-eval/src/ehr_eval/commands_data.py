"""`ehr-eval labels` and `ehr-eval counts`."""

from pathlib import Path

import click


@click.command()
@click.option("--meds", type=click.Path(path_type=Path), required=True, help="MEDS data set.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Where labels go.")
@click.option("--task", "tasks", multiple=True, help="Only this task; may be given several times.")
@click.option("-c", "--config", type=click.Path(path_type=Path), help="YAML file of LabelsConfig.")
@click.option("-s", "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="One setting.")
@click.option("--overwrite", is_flag=True, help="Replace labels that are there.")
def labels(
    meds: Path,
    out: Path,
    tasks: tuple[str, ...],
    config: Path | None,
    overrides: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Make task labels from a MEDS data set.

    Without --task, every task whose codes the data set has. Writes labels/1: one directory a task
    with labels.parquet in the MEDS label schema, and tasks.json with the definitions.

    Example: ehr-eval labels --meds demo/meds --out demo/labels --task mortality_1y
    """
    import json

    from ehr_eval.labels import make_labels
    from ehr_eval.tasks.config import LabelsConfig
    from ehr_tracking.config import load_config
    from ehr_tracking.report import text_table

    given = [f"tasks={json.dumps(tasks)}"] if tasks else []
    settings = load_config(LabelsConfig, config, [*overrides, *given])
    done = make_labels(meds, out, settings, overwrite=overwrite)
    click.echo(text_table(done.counts.to_dicts()))
    for task, reason in done.skipped.items():
        click.echo(f"skipped {task}: {reason}")
    click.echo(f"{done.path}: {done.counts['rows'].sum():,} labels")


@click.command()
@click.option("--meds", type=click.Path(path_type=Path), required=True, help="MEDS data set.")
@click.option("--labels", type=click.Path(path_type=Path), required=True, help="Labels.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Where features go.")
@click.option("-c", "--config", type=click.Path(path_type=Path), help="YAML file of CountsConfig.")
@click.option("-s", "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="One setting.")
@click.option("--overwrite", is_flag=True, help="Replace features that are there.")
def counts(
    meds: Path,
    labels: Path,
    out: Path,
    config: Path | None,
    overrides: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Write count features, the baseline to beat, for every labelled prediction time.

    Counts of codes, of their ancestors and of value bins over several windows, with age and static
    codes; sparse features/1.

    Example: ehr-eval counts --meds demo/meds --labels demo/labels --out demo/features/counts
    """
    from ehr_eval.counts import count_features
    from ehr_eval.counts_config import CountsConfig
    from ehr_tracking.config import load_config

    settings = load_config(CountsConfig, config, overrides)
    done = count_features(meds, labels, out, settings, overwrite=overwrite)
    click.echo(
        f"{done.path}: {done.rows:,} rows, {done.columns:,} columns, {done.nonzero:,} counts"
    )
