"""Each wheel, installed alone with what it declares, has a working command and working functions.

The five environments hand each other nothing but directories, as five machines would.
"""

import os
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UV = os.environ.get("UV", "uv")
COMMAND = {"ehr-tracking": "ehr-track"}

USES = {
    "ehr-tracking": """
from pathlib import Path
from ehr_tracking.contracts import LABELS
from ehr_tracking.manifest import load_manifest, new_artifact, seal, verify
with new_artifact(Path("sealed")) as partial:
    (partial / "a.txt").write_text("a")
    seal(partial, LABELS, producer="me 1", config={"n": 1})
assert verify(Path("sealed")) == []
assert load_manifest(Path("sealed")).files["a.txt"].bytes == 1
""",
}
ORDER = ("ehr-tracking",)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dist = tmp_path_factory.mktemp("dist")
    subprocess.run([UV, "build", "--quiet", "--all-packages", "--wheel", "-o", dist], cwd=ROOT, check=True)  # fmt: skip
    return dist


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


def install(name: str, dist: Path, env: Path) -> Path:
    """A new environment with one of our wheels and what it declares, at the pinned versions."""
    pins = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]
    constraints = env.with_suffix(".txt")
    constraints.write_text("\n".join(pins["constraint-dependencies"]))
    subprocess.run([UV, "venv", "--quiet", env], check=True)
    refresh = [f"--refresh-package={p.name}" for p in (ROOT / "packages").iterdir()]
    subprocess.run(
        [
            UV, "pip", "install", "--quiet", "--link-mode=symlink", "--python", env / "bin/python",
            "--find-links", dist, "--constraints", constraints, *refresh, name,
        ],
        cwd=dist, check=True,
    )  # fmt: skip
    return env / "bin"


@pytest.mark.slow
@pytest.mark.xdist_group("wheels")
@pytest.mark.parametrize("name", ORDER)
def test_a_wheel_works_alone(name: str, wheels: Path, work: Path, tmp_path: Path) -> None:
    programs = install(name, wheels, tmp_path / "env")
    command = programs / COMMAND.get(name, name)
    said = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout
    assert "0.1.0" in said
    frozen = subprocess.run(
        [UV, "pip", "freeze", "--python", programs / "python"], capture_output=True, text=True, check=True
    ).stdout  # fmt: skip
    ours = {line.split("==")[0].split(" @")[0] for line in frozen.splitlines() if line.startswith("ehr-")}
    assert ours == {name} | SIBLINGS[name]
    script = work / f"{name}.py"
    script.write_text(USES[name])
    # -P: not the folder of the script, so that only what is installed can be imported
    subprocess.run([programs / "python", "-P", script], cwd=work, check=True)


SIBLINGS: dict[str, set[str]] = {
    "ehr-tracking": set(),
    "ehr-tokenize": {"ehr-tracking"},
    "ehr-models": {"ehr-tracking"},
    "ehr-train": {"ehr-models", "ehr-tracking"},
    "ehr-eval": {"ehr-models", "ehr-tracking"},
}
