import pytest
from click.testing import CliRunner

from ehr_eval.cli import main
from ehr_eval.features.config import FeaturesConfig
from ehr_eval.heads.gbm import LightGBMConfig
from ehr_eval.protocol.config import EhrshotConfig
from ehr_tracking.config import ConfigError, load_config


@pytest.fixture
def invoke():
    def run(*args):
        return CliRunner().invoke(main, [str(a) for a in args])

    return run


def test_every_command_has_help_with_an_example(invoke):
    assert "ehrshot" in main.commands
    for name in main.commands:
        result = invoke(name, "--help")
        assert result.exit_code == 0
        assert f"Example: ehr-eval {name} " in result.output


def test_ehrshot_ends_with_a_table_and_the_path_of_the_report(invoke, toys, tmp_path):
    labels, features = toys.tasks(tmp_path, subjects=45)
    config = tmp_path / "small.yaml"
    config.write_text("ks: [2, -1]\nreplicates: 1\nreplicates_all: 1\nbootstraps: 5\n")
    out = tmp_path / "results"
    result = invoke(
        "ehrshot",
        *("--labels", labels),
        *("--features", f"model={features['model']}"),
        *("--features", f"counts={features['counts']}"),
        *("--out", out),
        *("-c", config),
        *("-s", "heads={lr: {kind: lr, c: [1.0]}}"),
        *("--workers", 1),
    )
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[1].split("  ")[0] == "task"
    assert "model lr" in lines[1]
    assert "counts lr" in lines[1]
    assert [line.split()[0] for line in lines[2:4]] == ["told", "untold"]
    assert lines[-1] == f"report: {out / 'report.html'}"
    assert (out / "report.html").is_file()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--features", "nothing"], "'nothing' is not of the form NAME=PATH"),
        (["--features", "a=x", "--features", "a=y"], "the name a is given twice"),
        (["--features", "a=missing"], "missing: no such directory"),
        (["--features", "a=missing", "-s", "kz=[1]"], "kz"),
        (["--features", "a=missing", "-s", "heads.lr.kind=svm"], "heads.lr"),
        (["--features", "a=missing", "-c", "absent.yaml"], "absent.yaml: no such config file"),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(
    invoke, toys, tmp_path, args, message
):
    labels, _ = toys.tasks(tmp_path, subjects=12)
    out = tmp_path / "results"
    result = invoke("ehrshot", "--labels", labels, "--out", out, *args)
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.strip().splitlines()) == 1
    assert not out.exists()
    assert not list(tmp_path.glob(".*partial"))


def test_features_of_something_else_are_refused(invoke, toys, tmp_path):
    labels, features = toys.tasks(tmp_path, subjects=12)
    out = tmp_path / "out"
    args = ["--tokens", features["model"], "--labels", labels, "--out", out]
    result = invoke("features", "--checkpoint", features["model"], *args)
    assert result.exit_code == 2
    assert "holds features/1" in result.output
    assert not out.exists()


def test_defaults_are_the_protocol():
    config = EhrshotConfig()
    assert config.ks == (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 128, -1)
    assert (config.replicates, config.replicates_all, config.bootstraps) == (5, 5, 1000)
    assert config.heads["lr"].c == (1e-8, 1e-6, 1e-4, 1e-2, 1e-1, 1, 1e2, 1e4)
    trees = config.heads["gbm"]
    assert isinstance(trees, LightGBMConfig)
    assert (trees.max_depth, trees.num_leaves) == ((3, 6, -1), (10, 25, 100))
    assert trees.learning_rate == (0.02, 0.1, 0.5)


def test_impossible_settings_name_their_key():
    with pytest.raises(ConfigError, match=r"pooling = 'bigru': .*fine-tune one .*pooling=bigru"):
        load_config(FeaturesConfig, None, ["pooling=bigru"])
    with pytest.raises(ConfigError, match="bootstraps"):
        load_config(EhrshotConfig, None, ["bootstraps=-1"])
