import subprocess
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shell() -> Callable[..., str]:
    """Run one of our commands as a user does; return what it printed."""

    def shell(*words: object, code: int = 0) -> str:
        line = " ".join(str(w) for w in words).split()
        line[0] = str(Path(sysconfig.get_path("scripts")) / line[0])
        done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=ROOT)
        said = done.stdout + done.stderr
        assert done.returncode == code, f"{' '.join(line)}\nexit code {done.returncode}\n{said}"
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
