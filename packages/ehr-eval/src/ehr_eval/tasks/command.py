"""`ehr-eval labels` and `ehr-eval tasks`."""

from pathlib import Path

import click

from ehr_tracking.options import PATH, config_options, overwrite_option


@click.command()
@click.option("--meds", type=PATH, required=True, help="MEDS data set.")
@click.option("--out", type=PATH, required=True, help="Where labels go.")
@click.option(
    "--task", "tasks", multiple=True, help="Only this task, by name; may be given several times."
)
@click.option(
    "--task-file",
    "task_files",
    type=PATH,
    multiple=True,
    help="A task as YAML, see docs/tasks.md; may be given several times.",
)
@click.option(
    "--collection",
    "collections",
    multiple=True,
    help="Every task of a collection of the library that fits: ehrshot, fomoh, mimic, ...",
)
@click.option(
    "--aces", type=PATH, multiple=True, help="A task of ACES; may be given several times."
)
@click.option("--predicates", type=PATH, help="Predicates for ACES tasks, in the place of theirs.")
@click.option(
    "--chexpert", type=PATH, help="Table of chest X-ray reports: the 14 tasks of EHRSHOT."
)
@config_options("LabelsConfig", "rows_per_subject=1")
@overwrite_option("labels")
def labels(
    meds: Path,
    out: Path,
    tasks: tuple[str, ...],
    task_files: tuple[Path, ...],
    collections: tuple[str, ...],
    aces: tuple[Path, ...],
    predicates: Path | None,
    chexpert: Path | None,
    config_file: Path | None,
    overrides: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Make task labels from a MEDS data set.

    Without a task of any kind, every built-in one whose codes the data set has. Writes labels/1: one directory a
    task with labels.parquet in the MEDS label schema, tasks.json with the definitions, and _cohort/ with rows,
    positives and what was left out, by reason and split.

    Example: ehr-eval labels --meds demo/meds --out demo/labels --task mortality_1y
    """
    import json

    from ehr_eval.tasks.choice import Asked
    from ehr_eval.tasks.config import LabelsConfig
    from ehr_eval.tasks.make import make_labels
    from ehr_tracking.config import load_config
    from ehr_tracking.errors import UserError
    from ehr_tracking.report import text_table

    if predicates and not aces:
        raise UserError("--predicates are of ACES tasks: give --aces FILE as well")
    given = [f"tasks={json.dumps(tasks)}"] if tasks else []
    settings = load_config(LabelsConfig, config_file, [*overrides, *given])
    asked = Asked(
        task_files=task_files,
        collections=collections,
        aces=aces,
        predicates=predicates,
        chexpert=chexpert,
    )
    done = make_labels(meds, out, settings, asked=asked, overwrite=overwrite)
    click.echo(text_table(done.counts.to_dicts()))
    if done.left_out.height:
        click.echo(text_table(done.left_out.to_dicts()))
    for task, reason in done.skipped.items():
        click.echo(f"skipped {task}: {reason}")
    click.echo(f"{done.path}: {done.counts['rows'].sum():,} labels")


@click.command()
@click.argument("name", required=False)
@click.option("--meds", type=PATH, help="MEDS data set: say which of its codes a task lacks.")
@click.option(
    "--copy", "copies", type=PATH, help="Copy the file of NAME and its tables into this folder."
)
def tasks(name: str | None, meds: Path | None, copies: Path | None) -> None:
    """List the tasks that come with ehr-eval, or describe one.

    NAME is a task of the library or a file: its question, when it is asked and of whom, what answers it, its
    codes, where it is from and what it was checked against.

    Example: ehr-eval tasks guo_icu --meds demo/omop
    """
    from ehr_eval.tasks.library import copy_task
    from ehr_eval.tasks.listing import described, listed
    from ehr_tracking.errors import UserError
    from ehr_tracking.report import text_table

    if name is None:
        if copies:
            raise UserError("--copy takes the NAME of a task")
        click.echo(text_table(listed(meds)))
        return
    click.echo(described(name, meds))
    for path in copy_task(name, copies) if copies else ():
        click.echo(path)
