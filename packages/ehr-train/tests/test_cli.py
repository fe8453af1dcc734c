import subprocess
import sys

import pytest
import yaml
from click.testing import CliRunner

from ehr_tracking.config import to_dict
from ehr_tracking.manifest import verify
from ehr_train.cli import main
from ehr_train.config import OptimConfig
from ehr_train.run import train

from .conftest import tiny_config


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(to_dict(tiny_config())))
    return str(path)


def ehr_train(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_a_run_from_the_command_line(tokens, tmp_path, recipe):
    common = ["--tokens", tokens, "--out", tmp_path / "run", "-c", recipe, "-s", "optim.steps=5"]
    planned = ehr_train(*common, "--dry-run")
    assert planned.exit_code == 0, planned.output
    assert not (tmp_path / "run").exists()
    assert "steps: 5" in planned.output
    assert "tokens_per_step" in planned.output
    done = ehr_train(*common)
    assert done.exit_code == 0, done.output
    assert f"wrote {tmp_path / 'run'}" in done.output
    assert verify(tmp_path / "run") == []
    again = ehr_train(*common)
    assert again.exit_code == 2
    assert len(again.stderr.splitlines()) == 1
    assert "pass --overwrite" in again.stderr
    complete = ehr_train(*common, "--resume")
    assert complete.exit_code == 0
    assert "is complete" in complete.output


def test_a_checkpoint_says_which_objective_is_meant_where_none_is_named(tokens, tmp_path):
    base = train(tokens, tmp_path / "base", tiny_config("clm", optim=OptimConfig(steps=1)))
    common = ["--tokens", tokens, "--out", tmp_path / "run", "--init", base, "--dry-run"]
    common += ["-s", "data.context=32"]
    planned = ehr_train(*common)
    assert planned.exit_code == 0, planned.output
    assert "kind: clm" in planned.output
    refused = ehr_train(*common, "-s", "objective.kind=mlm")
    assert "kind gpt2 cannot be pretrained with objective mlm" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "x"], "--tokens and --out are needed"),
        (["--tokens", "none", "--out", "x"], "none: no such directory"),
        (["--tokens", "none", "--out", "x", "-s", "optim.rl=1"], "unknown key optim.rl"),
        (["--tokens", "none", "--out", "x", "-s", "model.kind=rnn"], "'rnn'"),
        (["--tokens", "none", "--out", "x", "-c", "no.yaml"], "no.yaml: no such config file"),
    ],
)
def test_what_is_wrong_is_said_with_exit_code_2(arguments, message):
    result = ehr_train(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_help_has_an_example_and_nothing_loads_a_library_that_it_does_not_need():
    """What trains or starts others is there before transformers is; pyarrow loads pandas for a list."""
    code = (
        "import sys; from click.testing import CliRunner; from ehr_train.cli import main\n"
        "print(CliRunner().invoke(main, ['--help']).output)\n"
        "assert not {'torch', 'transformers', 'pyarrow', 'pydantic', 'numpy'} & set(sys.modules)\n"
        "import ehr_train.run, ehr_tracking.arrow.label_files\n"
        "assert not {'transformers', 'pandas', 'matplotlib', 'scipy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Example: ehr-train --tokens" in done.stdout
