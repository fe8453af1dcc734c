import json
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ehr_tracking.cli import main
from ehr_tracking.contracts import CONTRACTS, RESULTS
from ehr_tracking.errors import Group
from ehr_tracking.manifest import raw_source, source


def run(*args: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(a) for a in args])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def chain(make, tmp_path: Path) -> Path:
    (tmp_path / "meds/metadata").mkdir(parents=True)
    (tmp_path / "meds/data").mkdir()
    (tmp_path / "meds/metadata/dataset.json").write_text("{}")
    meds = raw_source(tmp_path / "meds", contract="meds/0.4", producer="someone")
    tokens = make("tokens", inputs={"meds": meds})
    make("results", contract=RESULTS, inputs={"tokens": source(tokens)})
    return tmp_path


def test_lineage_reaches_the_raw_data_and_checks_it_by_hash(chain: Path) -> None:
    text = run("lineage", chain / "results")
    assert "meds: meds/0.4 by someone" in text
    assert text.count("verified)") == 3
    (chain / "meds/metadata/dataset.json").write_text("{ }")
    (chain / "tokens/vocab.parquet").write_text("w")
    text = run("lineage", chain / "results")
    assert "tokens (CHANGED)" in text
    assert "raw, verified" not in text


def test_lineage_names_every_directory_of_the_same_bytes(chain: Path) -> None:
    shutil.copytree(chain / "tokens", chain / "copies" / "tokens")
    shutil.copytree(chain / "meds", chain / "copies" / "meds")
    tokens, meds = run("lineage", chain / "results").splitlines()[1:]
    for line, name, holds in ((tokens, "tokens", "verified"), (meds, "meds", "raw, verified")):
        found = (f"{root / name} ({holds})" for root in (chain / "copies", chain))
        assert line.endswith(" = " + " or ".join(found))


def test_what_links_lead_to_as_well_is_named_once_by_its_shortest_path(chain: Path) -> None:
    (chain / "store").mkdir()
    for name in ("meds", "tokens", "results"):
        (chain / name).rename(chain / "store" / name)
        (chain / name).symlink_to(chain / "store" / name)
    text = run("lineage", chain / "results")
    assert text.count("verified)") == 3
    assert f"= {chain}/tokens (verified)" in text
    assert f"{chain}/store" not in text
    assert "2 artifacts hold" in run("verify", chain)


def test_lineage_needs_none_of_the_directories(chain: Path, make, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (chain / "results").rename(moved / "results")
    assert "meds: meds/0.4" in run("lineage", moved / "results")


def test_list_and_show(chain: Path) -> None:
    text = run("list", chain)
    assert "tokens/1" in text
    assert "results/1" in text
    shown = json.loads(run("show", chain / "tokens"))
    assert shown["files"]["vocab.parquet"]["bytes"] == 1


def test_verify_holds_or_ends_with_one_line_and_code_2(chain: Path) -> None:
    assert "2 artifacts hold" in run("verify", chain)
    (chain / "tokens/vocab.parquet").write_text("w")
    text = run("verify", chain, code=2)
    assert "vocab.parquet was changed: its SHA-256 differs" in text.splitlines()[-1]


@pytest.mark.parametrize("command", ["list", "show", "verify", "lineage"])
def test_a_missing_directory_is_one_line_and_code_2(tmp_path: Path, command: str) -> None:
    text = run(command, tmp_path / "none", code=2)
    assert text == f"Error: {tmp_path / 'none'}: no such directory\n"


def test_contracts_are_printed() -> None:
    assert "tokens/1" in run("contracts")


FULL_DISK = """
import sys
from pathlib import Path
import click
from ehr_tracking.contracts import TOKENS
from ehr_tracking.errors import Group
from ehr_tracking.manifest import new_artifact, seal

@click.group(cls=Group)
def main(): ...

@main.command()
def write():
    with new_artifact(Path(sys.argv[2]), TOKENS) as partial:
        (partial / "big").write_bytes(bytes(1_000_000))
        seal(partial, TOKENS, producer="p", config={})

main(["write"])
"""


def limit_files() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that the write fails as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, "write", str(tmp_path / "out")],
        capture_output=True, text=True, preexec_fn=limit_files, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "Error: the disk is full; nothing was written, free some space\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: (p / "file" / "out").mkdir(), "file/out: Not a directory; choose another path"),
        (lambda p: (p / "file").mkdir(), "file: File exists; choose another path"),
        (lambda p: (p / ("a" * 300)).mkdir(), "aaa: File name too long; choose another path"),
        (lambda p: p.write_text(""), "Is a directory; choose another path"),
    ],
)
def test_an_output_that_cannot_be_there_is_named_in_one_line(tmp_path: Path, make, said) -> None:
    (tmp_path / "file").touch()

    @click.group(cls=Group)
    def main() -> None:
        """Hold one command."""

    @main.command()
    def write() -> None:
        """Write."""
        make(tmp_path)

    done = CliRunner().invoke(main, ["write"])
    assert done.exit_code == 2
    assert done.stderr.startswith(f"Error: {tmp_path}")
    assert done.stderr.endswith(f"{said}\n")
    assert done.stderr.count("\n") == 1


def test_a_bug_is_not_told_as_a_wrong_path(tmp_path: Path) -> None:
    @click.group(cls=Group)
    def main() -> None:
        """Hold one command."""

    @main.command()
    def read() -> None:
        """Read what is not there."""
        (tmp_path / "none").read_text()

    assert isinstance(CliRunner().invoke(main, ["read"]).exception, FileNotFoundError)


def test_stores_beside_tokens_are_part_of_nothing(chain: Path) -> None:
    def told() -> list[str]:
        return [run("list", chain), run("verify", chain), run("lineage", chain / "results")]

    before = told()
    for inside in (chain, chain / "results", chain / "meds"):
        store = inside / ".tokens.store" / "0123abcd" / "data"
        store.mkdir(parents=True)
        for name in ("token.safetensors", "manifest.json"):
            (store / name).write_text("{}")
    assert told() == before
    (chain / "tokens" / ".hidden").write_text("x")  # any other file is told as before
    assert "not in the manifest" in run("verify", chain, code=2)


def test_contracts_tell_every_column_of_every_table() -> None:
    text = run("contracts")
    for contract in CONTRACTS.values():
        for table, columns in {contract.tag: contract.columns, **contract.beside}.items():
            assert table in text
            assert all(f"    {c.name} " in text and c.doc in text for c in columns)
