"""`ehr-train slurm`."""

import shutil
import subprocess
from pathlib import Path

import click

from ehr_tracking.errors import UserError
from ehr_tracking.options import PATH, overwrite_option


@click.command()
@click.option(
    "--run",
    "runs",
    multiple=True,
    required=True,
    metavar="OPTIONS",
    help="Options of one `ehr-train`, quoted; may be given again: runs share the GPUs of one machine.",
)
@click.option("--script", type=PATH, help="Job script to write; without it, it is printed.")
@click.option("--name", default="ehr-train", show_default=True, help="Of the job.")
@click.option(
    "--nnodes", default=1, show_default=True, help="Machines that train one run together."
)
@click.option("--gpus", default=1, show_default=True, help="On each machine; 0: none.")
@click.option("--cpus", default=8, show_default=True, help="On each machine.")
@click.option("--time", metavar="D-HH:MM:SS", help="Time limit, as sbatch takes it.")
@click.option("--memory", metavar="SIZE", help="On each machine, e.g. 64G.")
@click.option("--partition", help="As of sbatch.")
@click.option("--account", help="As of sbatch.")
@click.option("--qos", help="As of sbatch.")
@click.option("--constraint", help="As of sbatch.")
@click.option(
    "--grace",
    default=300,
    show_default=True,
    help="Seconds before the time limit at which runs are told to save.",
)
@click.option(
    "--setup", multiple=True, metavar="LINE", help="Shell before the runs; may be repeated."
)
@click.option(
    "--sbatch", "extra", multiple=True, metavar="OPTION", help="Further option of sbatch."
)
@click.option("--submit", is_flag=True, help="Give the script to sbatch.")
@click.option("--dry-run", is_flag=True, help="Print the script; write and submit nothing.")
@overwrite_option("a script")
@click.pass_context
def slurm(
    context: click.Context,
    /,
    runs: tuple[str, ...],
    script: Path | None,
    submit: bool,
    dry_run: bool,
    overwrite: bool,
    **resources: object,
) -> None:
    """Write a job script for Slurm: one run on one or several machines, or several runs on one.

    The job saves its runs ahead of the time limit, queues itself again and goes on with them.

    Example: ehr-train slurm --gpus 2 --time 1-00:00:00 --partition gpu --script job.sh --run "--tokens T --out runs/a" --run "--tokens T --out runs/b -s seed=1"
    """
    from ehr_tracking.config import validate
    from ehr_tracking.files import write_whole
    from ehr_train.slurm.script import Resources, job_script

    text = job_script(
        runs, validate(Resources, resources, where="slurm"), context.find_root().command
    )
    if script is None or dry_run:
        if submit and not dry_run:
            raise click.UsageError("--submit needs --script, the file that is submitted")
        click.echo(text, nl=False)
        return
    if script.exists() and not overwrite:
        raise UserError(f"{script} exists; pass --overwrite to replace it")
    if submit and shutil.which("sbatch") is None:
        raise UserError("there is no sbatch on this machine; submit where Slurm is")
    write_whole(script, text)
    script.chmod(0o755)
    if not submit:
        click.echo(f"wrote {script}; submit it with: sbatch {script}")
        return
    done = subprocess.run(["sbatch", str(script)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"sbatch refused {script}: {done.stderr.strip() or done.stdout.strip()}")
    click.echo(done.stdout.strip())
