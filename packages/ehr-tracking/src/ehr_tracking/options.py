"""The options that commands of all packages have, each spelled once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ehr_tracking.errors import UserError

PATH = click.Path(path_type=Path)
"""The type of every option and argument that is a file or a directory."""
F = TypeVar("F", bound=Callable[..., Any])


def config_options(schema: str, example: str) -> Callable[[F], F]:
    """`-c FILE` and any number of `-s KEY=VALUE`, as `config_file` and `overrides`, for `load_config`.

    Args:
        schema: The dataclass that the file describes.
        example: Of a setting, e.g. `optim.lr=3e-4`.
    """
    file = click.option("-c", "--config", "config_file", type=PATH, help=f"YAML file of {schema}.")
    return lambda command: file(set_option(example)(command))


def set_option(example: str) -> Callable[[F], F]:
    """Any number of `-s KEY=VALUE`, as `overrides`.

    Args:
        example: Of a setting.
    """
    return click.option(
        "-s",
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help=f"One setting, e.g. {example}; may be repeated.",
    )


def named_option(flag: str, text: str, *, required: bool = False) -> Callable[[F], F]:
    """Any number of `flag NAME=PATH`, as a dictionary from name to path.

    Args:
        flag: E.g. `--features`.
        text: Its help.
        required: At least one.
    """
    return click.option(
        flag,
        multiple=True,
        required=required,
        metavar="NAME=PATH",
        help=text,
        callback=lambda _, __, given: _by_name(flag, given),
    )


def _by_name(flag: str, given: tuple[str, ...]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for item in given:
        name, equals, path = item.partition("=")
        if not equals or not name or not path:
            raise UserError(f"{flag} {item!r} is not of the form NAME=PATH")
        if name in found:
            raise UserError(f"{flag}: the name {name} is given twice")
        found[name] = Path(path)
    return found


def overwrite_option(what: str) -> Callable[[F], F]:
    """`--overwrite`, as `overwrite`.

    Args:
        what: That may be there, e.g. `a run`.
    """
    return click.option("--overwrite", is_flag=True, help=f"Replace {what} already there.")
