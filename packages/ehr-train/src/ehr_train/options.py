"""Options that every command which trains a run has."""

import click

nproc_option = click.option(
    "--nproc",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Processes on this machine.",
)
device_option = click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), help="The GPU where there is one."
)
resume_option = click.option(
    "--resume", is_flag=True, help="Go on where a run in --out was stopped."
)
