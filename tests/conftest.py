import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import chdir
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shell() -> Callable[..., str]:
    """Run one of our commands from the root of the repository; return what it printed.

    In this process: one of its own would spend most of its time on imports. That the commands are
    installed and start is held by tests/test_wheels.py and tests/test_meds_dev.py.
    """

    def shell(*words: object, code: int = 0) -> str:
        name, *line = " ".join(str(w) for w in words).split()
        package = {"ehr-track": "ehr_tracking"}.get(name, name.replace("-", "_"))
        main = import_module(f"{package}.cli").main
        with chdir(ROOT):
            done = CliRunner().invoke(main, line, catch_exceptions=False)
        said = done.output
        assert done.exit_code == code, (
            f"{name} {' '.join(line)}\nexit code {done.exit_code}\n{said}"
        )
        return said

    return shell


@pytest.fixture(scope="session")
def write_clinvec() -> Callable[[Path, Mapping[str, Sequence[str]]], None]:
    """Make a directory in the form of ClinVec: vocabulary -> codes that have a made-up vector."""

    def write(directory: Path, codes: Mapping[str, Sequence[str]]) -> None:
        directory.mkdir()
        nodes, index = ["node_id\tnode_name\tntype\tnode_index"], 0
        for name, of in codes.items():
            lines = ["," + ",".join(map(str, range(128)))]
            for code in of:
                vector = ((index * index + k * (index + 3)) % 11 - 5 for k in range(128))
                lines.append(f"{index}," + ",".join(map(str, vector)))
                nodes.append(f"{code}:{name}\t{code}\t{name.upper()}\t{index}")
                index += 1
            (directory / f"ClinVec_{name}.csv").write_text("\n".join(lines) + "\n")
        (directory / "ClinGraph_nodes.csv").write_text("\n".join(nodes) + "\n")

    return write


@pytest.fixture(scope="session")
def offline() -> list[str]:
    """The words before a command that take the network from it; without effect where that is forbidden."""
    words = ["unshare", "--map-root-user", "--net"]
    try:
        allowed = subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:  # not on macOS
        allowed = False
    return words if allowed else []
