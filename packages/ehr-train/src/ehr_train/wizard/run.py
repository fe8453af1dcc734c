"""The last step: everything shown, and then done or left."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import yaml

from ehr_tracking.config import to_dict
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike, write_whole
from ehr_train.wizard.ask import ask, heading
from ehr_train.wizard.steps import CONFIG, SCRIPT, commands, script


def run(
    config_file: PathLike | None, overrides: tuple[str, ...], folder: PathLike | None, nproc: int
) -> None:
    """Ask, show, and on a yes write the config and the script and run the commands one by one.

    Args:
        config_file: Of the training; its values are offered as answers.
        overrides: Settings on top of it.
        folder: Where everything goes; asked for where None.
        nproc: Processes that train.

    Raises:
        UserError: Where there is nobody to ask, a command is not installed, or one fails.
    """
    if not sys.stdin.isatty():
        raise UserError(
            "--interactive asks questions, but there is no terminal; give --tokens, --out and -c"
        )
    config_file = None if config_file is None else Path(config_file)
    folder = None if folder is None else Path(folder)
    answers, config = ask(config_file, overrides, folder, nproc)
    lines = commands(answers)
    text = yaml.safe_dump(to_dict(config), sort_keys=False)
    click.echo(heading(4, "Review"))
    click.echo(f"{answers.folder / CONFIG}:\n")
    click.echo("".join(f"  {line}\n" for line in text.splitlines()))
    click.echo(f"Commands, in {answers.folder}:\n")
    click.echo("".join(f"  {shlex.join(line)}\n" for line in lines))
    if not click.confirm("Proceed with training?", default=True):
        click.echo("Nothing was written.")
        return
    found = {line[0]: _which(line[0]) for line in lines}
    answers.folder.mkdir(parents=True, exist_ok=True)
    write_whole(answers.folder / CONFIG, text)
    write_whole(answers.folder / SCRIPT, script(lines))
    (answers.folder / SCRIPT).chmod(0o755)
    for line in lines:
        click.echo(f"\n$ {shlex.join(line)}")
        done = subprocess.run([found[line[0]], *line[1:]], cwd=answers.folder, check=False)
        if done.returncode:
            raise UserError(
                f"{line[0]} ended with {done.returncode}; mend it and run {answers.folder / SCRIPT}"
            )
    click.echo(f"\nTo do it again without questions: {answers.folder / SCRIPT}")


def _which(command: str) -> str:
    """Where a command is: beside this Python, else on the PATH.

    Raises:
        UserError: If it is not installed.
    """
    found = shutil.which(command, path=str(Path(sys.executable).parent)) or shutil.which(command)
    if found is None:
        raise UserError(f"{command} is not installed here: pip install its package, or give tokens")
    return found
