from pathlib import Path

import pytest
from click.testing import CliRunner

from ehr_models.cli import main
from ehr_models.describe import count_parameters
from ehr_models.kinds import KINDS
from ehr_models.kinds.behrt import BehrtModelConfig


def run(*args):
    return CliRunner().invoke(main, args)


def test_list_shows_every_preset_with_its_true_count():
    result = run("list", "--vocab-size", "300")
    assert result.exit_code == 0
    lines = {line.split()[0]: line for line in result.output.splitlines() if line.strip()}
    for kind in KINDS.values():
        for size in kind.sizes:
            assert f"{kind.name}-{size}" in lines
    small = count_parameters(BehrtModelConfig(size="small"), 300)["total"]
    assert lines["behrt-small"].split()[1:4] == ["mlm", "64", "128"]
    assert lines["behrt-small"].split()[-1] == f"{small:,}"
    assert "at 300 tokens" in result.output


def test_describe_prints_config_and_counts_by_part():
    result = run("describe", "behrt-small", "--vocab-size", "300", "-s", "layers=5")
    assert result.exit_code == 0
    counts = count_parameters(BehrtModelConfig(size="small", layers=5), 300)
    printed = dict(line.split() for line in result.output.splitlines()[-4:])
    assert {part: int(n.replace(",", "")) for part, n in printed.items()} == counts
    assert '"num_hidden_layers": 5' in result.output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("describe", "behrt-huge"), "no preset behrt-huge; choose one of behrt-tiny"),
        (("describe", "mamba"), "no preset mamba"),
        (("describe", "gpt2-tiny", "-s", "hiden=3"), "unknown key hiden"),
        (("describe", "gpt2-tiny", "-s", "heads=3"), "even multiple of heads = 3"),
        (("describe", "gpt2-tiny", "-s", "kind=bert"), "kind = 'bert'"),
    ],
)
def test_a_mistake_gets_one_line(args, message):
    result = run(*args)
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.strip().splitlines()) == 1


@pytest.mark.parametrize("command", [(), ("list",), ("describe",)])
def test_help_has_an_example(command):
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "Example: ehr-models" in result.output


def test_the_page_of_models_has_the_true_counts():
    page = (Path(__file__).parents[3] / "docs" / "models.md").read_text()
    told = {}
    for line in page.splitlines():
        if line.startswith("| `") and line.count("|") == 13:
            name, *cells = (cell.strip(" `") for cell in line.strip("|").split("|"))
            told[name] = [int(cell.replace(",", "")) for cell in cells]
    presets = {f"{k.name}-{n}": (k, n) for k in KINDS.values() for n in k.sizes}
    assert set(told) == set(presets) - {"mixer-tiny", "mixer-small"}
    for name, numbers in told.items():
        kind, size = presets[name]
        of, counts = kind.sizes[size], count_parameters(kind.config(size=size), 1000)
        widths = [of.embedding or of.hidden, of.hidden, of.layers, of.heads, of.intermediate]
        assert numbers[:-1] == [*widths, of.max_positions, *counts.values()], name
