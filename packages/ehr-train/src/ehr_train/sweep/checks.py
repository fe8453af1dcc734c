"""What of a sweep can be refused before its first run."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click

from ehr_tracking.config import ConfigError, load_config
from ehr_tracking.files import PathLike
from ehr_train.config import TrainConfig
from ehr_train.sweep.space import Space
from ehr_train.text.command import load as load_text

_REFUSED = ("out", "resume", "overwrite", "dry_run", "interactive", "folds", "shots", "predictions")
"""Options of a run that a sweep cannot have, or sets itself."""


class Options(NamedTuple):
    """Of one run."""

    arguments: list[str]
    """As they are given."""
    config_file: Path | None
    overrides: tuple[str, ...]
    of_text: bool

    def config(self, settings: Sequence[str]) -> TrainConfig:
        """Of a run with these settings.

        Raises:
            ConfigError: As of `load_config`.
        """
        overrides = (*self.overrides, *settings)
        if self.of_text:
            return load_text(self.config_file, overrides)
        return load_config(TrainConfig, self.config_file, overrides)


def options_of(run: str, ehr_train: click.Command) -> Options:
    """Read the options of a run.

    Args:
        run: As on a command line of the shell, `text` in front for one of a language model.
        ehr_train: The command, which knows its options.

    Raises:
        ConfigError: If `ehr-train` would not take them, or they are for the sweep to set.
    """
    try:
        arguments = shlex.split(run)
    except ValueError as e:
        raise ConfigError(f"--run {run!r} is no list of options: {e}") from None
    name, command, rest = "ehr-train", ehr_train, arguments
    of = getattr(ehr_train, "commands", {})
    if arguments and arguments[0] in of:
        name, command, rest = arguments[0], of[arguments[0]], arguments[1:]
    if name not in ("ehr-train", "text"):
        raise ConfigError(f"--run {run!r}: a sweep is of runs of ehr-train or of its text")
    try:
        context = command.make_context(name, [*rest, "--out", "out"])
    except click.UsageError as e:
        raise ConfigError(f"--run {run!r}: {e.format_message()}") from None
    except click.exceptions.Exit:
        raise ConfigError(f"--run {run!r} runs nothing") from None
    said = {argument.partition("=")[0] for argument in rest}
    for option in _REFUSED:
        flag = f"--{option.replace('_', '-')}"
        if flag in said:
            raise ConfigError(f"--run {run!r}: {flag} is not for the runs of a sweep")
    given = context.params
    if name == "ehr-train" and given["tokens"] is None:
        raise ConfigError(f"--run {run!r}: --tokens is needed")
    return Options(arguments, given["config_file"], tuple(given["overrides"]), name == "text")


def check_space(space: Space, options: Options, path: PathLike) -> None:
    """Hold each setting to the config of a run, and the metric to its objective.

    Args:
        space: The sweep.
        options: Of its runs.
        path: Of its file, for messages.

    Raises:
        ConfigError: Naming the parameter or the metric.
    """
    first = space.first()
    for i, parameter in enumerate(space.parameters):
        for text in parameter.ends:
            tried = [*first[:i], f"{parameter.key}={text}", *first[i + 1 :]]
            try:
                options.config(tried)
            except ConfigError as e:
                # one that two settings only give together is for the trials to find out
                if parameter.key in str(e):
                    raise ConfigError(f"{path}: parameters.{parameter.key}: {e}") from None
    config = options.config(first)
    figures, metric = {"loss", *config.objective.figures}, space.config.metric
    if metric.figure not in figures:
        raise ConfigError(
            f"{path}: metric.name = {metric.name}, but objective {config.objective.kind} has "
            f"{', '.join(f'val_{name}' for name in sorted(figures))}"
        )
