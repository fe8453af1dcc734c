"""`python -m workflow`: one comparison, from its file to its page."""

import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

import click

from ehr_tracking.errors import STOPPED, UserError
from ehr_tracking.options import PATH


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("config", type=PATH)
@click.option("--out", type=PATH, required=True, help="Folder of all that is made.")
@click.option(
    "--meds",
    multiple=True,
    metavar="[NAME=]PATH",
    help="A MEDS data set in place of what CONFIG says; without NAME of the one that is trained on.",
)
@click.option(
    "--cores",
    type=click.IntRange(1),
    default=os.cpu_count() or 1,
    show_default=True,
    help="Of this machine; with --slurm the most jobs at a time.",
)
@click.option("--slurm", is_flag=True, help="Run each part as a job of Slurm.")
@click.option("--dry-run", is_flag=True, help="Check all and print the plan; make nothing.")
@click.argument("engine", nargs=-1, type=click.UNPROCESSED)
def main(
    config: Path,
    out: Path,
    meds: tuple[str, ...],
    cores: int,
    slurm: bool,
    dry_run: bool,
    engine: tuple[str, ...],
) -> None:
    """Make the comparison that CONFIG describes; what is there already is not made again.

    What stands behind -- is for Snakemake, such as --default-resources slurm_partition=gpu. Exit code 0: all is
    there; 1: something failed, the rest is there; 2: the input is wrong, nothing ran; 75: stopped, goes on with
    the same command.

    Example: python -m workflow configs/compare/demo.yaml --out demo
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    from workflow.driver import Driver, Options
    from workflow.loaded import load

    options = Options(out=out.absolute(), cores=cores, slurm=slurm, more=engine)
    try:
        driver = Driver(load(config, _named(meds)), options)
        if dry_run:
            driver.plan_runs()
        click.echo(driver.table())
        if dry_run:
            return
        options.out.mkdir(parents=True, exist_ok=True)
        whole = driver.make()
    except UserError as e:
        click.echo(f"Error: {e}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        click.echo("stopped; the same command goes on", err=True)
        sys.exit(STOPPED)
    for page in driver.pages():
        click.echo(page)
    sys.exit(0 if whole else 1)


def _named(meds: Iterable[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for item in meds:
        name, equals, path = item.partition("=")
        found[name if equals else ""] = Path(path if equals else name)
    return found


if __name__ == "__main__":
    main()
