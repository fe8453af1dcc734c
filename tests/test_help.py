"""Every command answers --help before anything heavy is loaded, and its help has an example."""

import importlib
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

COMMANDS = {
    "ehr-tokenize": "ehr_tokenize",
    "ehr-models": "ehr_models",
    "ehr-train": "ehr_train",
    "ehr-eval": "ehr_eval",
    "ehr-track": "ehr_tracking",
}
HEAVY = ("torch", "transformers", "polars", "pyarrow", "numpy", "sklearn", "matplotlib", "pydantic")


def walk(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from walk(f"{path} {name}", child)


def commands() -> list[tuple[str, click.Command]]:
    found = []
    for name, module in COMMANDS.items():
        found += walk(name, importlib.import_module(f"{module}.cli").main)
    return found


@pytest.mark.parametrize(
    ("path", "command"), commands(), ids=lambda x: x if isinstance(x, str) else ""
)
def test_help_has_an_example_of_the_very_command(path: str, command: click.Command) -> None:
    assert f"Example: {path}" in (command.help or ""), path
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{path} {parameter.name}"


def test_an_option_that_many_commands_have_is_the_same_in_all() -> None:
    found: dict[str, set[tuple[object, ...]]] = {}
    for path, command in commands():
        for option in command.params:
            if option.name in {"config_file", "overrides", "overwrite"}:
                spelled = (
                    *option.opts,
                    option.metavar,
                    option.multiple,
                    type(option.type).__name__,
                )
                found.setdefault(option.name, set()).add(spelled)
            assert option.name != "config", f"{path}: take it from ehr_tracking.options"
    assert found == {
        "config_file": {("-c", "--config", None, False, "Path")},
        "overrides": {("-s", "--set", "KEY=VALUE", True, "StringParamType")},
        "overwrite": {("--overwrite", None, False, "BoolParamType")},
    }


@pytest.mark.parametrize("module", COMMANDS.values())
def test_help_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}.cli; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
