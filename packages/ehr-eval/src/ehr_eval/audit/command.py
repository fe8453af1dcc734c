"""`ehr-eval audit`."""

from pathlib import Path

import click

from ehr_tracking.options import PATH, config_options, named_option, overwrite_option


@click.command()
@click.option("--meds", type=PATH, help="MEDS data set.")
@click.option("--labels", type=PATH, help="Labels of one or more tasks.")
@click.option("--tokens", type=PATH, help="Tokens of the data set.")
@click.option("--checkpoint", type=PATH, help="The run or checkpoint that features were read from.")
@named_option("--features", "Features of a model, or counts; may be given again.")
@named_option("--predictions", "Predictions of a model; may be given again.")
@click.option("--results", type=PATH, help="Results of `ehrshot`.")
@click.option("--shots", type=PATH, help="Shots, as `ehrshot --shots` writes them.")
@click.option(
    "--task-file",
    "task_files",
    type=PATH,
    multiple=True,
    help="A task as YAML, where labels do not say what their outcome is; may be given again.",
)
@click.option("--out", type=PATH, required=True, help="Where the audit shall be.")
@click.option("--show-ids", is_flag=True, help="Name the subjects that findings are of.")
@config_options("AuditConfig", "rows=200")
@overwrite_option("an audit")
@click.pass_context
def audit(
    context: click.Context,
    meds: Path | None,
    labels: Path | None,
    tokens: Path | None,
    checkpoint: Path | None,
    features: dict[str, Path],
    predictions: dict[str, Path],
    results: Path | None,
    shots: Path | None,
    task_files: tuple[Path, ...],
    out: Path,
    show_ids: bool,
    config_file: Path | None,
    overrides: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Look for what makes results look better than they are: leaks, duplicates, mix-ups.

    Runs every check whose inputs are given, and says of the others what they need. Exit code 0: nothing was found
    (warnings apart); 1: a check found something, or could not look at what is there; 2: an input is no input.

    Example: ehr-eval audit --meds demo/meds --labels demo/labels --tokens demo/tokens --features counts=demo/features/counts --results demo/results --out demo/audit
    """
    from ehr_eval.audit.config import AuditConfig
    from ehr_tracking.config import load_config

    config = load_config(AuditConfig, config_file, overrides)
    from ehr_eval.audit.run import write_audit
    from ehr_tracking.report import text_table

    found = write_audit(
        out,
        config,
        meds=meds,
        labels=labels,
        tokens=tokens,
        checkpoint=checkpoint,
        features=features,
        predictions=predictions,
        results=results,
        shots=shots,
        task_files=task_files,
        show_ids=show_ids,
        overwrite=overwrite,
    )
    click.echo(text_table(found.table()))
    if show_ids:
        for each in found.checked:
            for finding in each.findings:
                if finding.subjects:
                    click.echo(
                        f"{each.check.name}, {finding.where}: {', '.join(map(str, finding.subjects))}"
                    )
    click.echo(f"report: {out / 'report.html'}")
    if not found.is_clean:
        context.exit(1)
