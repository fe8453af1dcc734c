"""What uv does not check of a workspace: sibling ranges, and that each package can stand alone."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
PACKAGES = sorted((ROOT / "packages").iterdir())
PROJECTS = {p.name: tomllib.loads((p / "pyproject.toml").read_text())["project"] for p in PACKAGES}
MAY_NEED = {
    "ehr-tracking": set(),
    "ehr-tokenize": {"ehr-tracking"},
    "ehr-models": {"ehr-tracking"},
    "ehr-train": {"ehr-models", "ehr-tracking"},
    "ehr-eval": {"ehr-models", "ehr-tracking"},
}


@pytest.mark.parametrize("name", PROJECTS)
def test_sibling_ranges_are_bounded_and_admit_the_versions_in_this_tree(name: str) -> None:
    needed = [Requirement(r) for r in PROJECTS[name]["dependencies"]]
    siblings = {r.name: r.specifier for r in needed if r.name in PROJECTS}
    assert set(siblings) == MAY_NEED[name]
    for sibling, allowed in siblings.items():
        assert allowed.contains(PROJECTS[sibling]["version"]), f"{name} wants {sibling}{allowed}"
        assert any(s.operator == "<" for s in allowed), f"{name}: {sibling} has no upper bound"


@pytest.mark.parametrize("path", PACKAGES, ids=lambda p: p.name)
def test_a_package_is_typed_documented_and_licensed(path: Path) -> None:
    assert (path / "src" / path.name.replace("-", "_") / "py.typed").exists()
    assert (path / "README.md").read_text().startswith(f"# {path.name}\n")
    assert "## Unreleased" in (path / "CHANGELOG.md").read_text()
    assert (path / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert PROJECTS[path.name]["requires-python"] == ">=3.11.4,<3.14"


def test_modules_stay_small() -> None:
    sizes = {p: len(p.read_text().splitlines()) for p in ROOT.glob("packages/*/src/**/*.py")}
    assert {p.name: n for p, n in sizes.items() if n > 400} == {}


def test_nothing_in_the_product_can_unpickle() -> None:
    banned = ("import " + "pickle", "pickle.load", "weights_only=" + "False", "yaml.load(")
    for path in ROOT.glob("packages/*/src/**/*.py"):
        text = path.read_text()
        assert not [word for word in banned if word in text], path


def test_one_file_knows_where_real_data_lie() -> None:
    """So whatever asks for them carries the marker, and is left out where there are none."""
    tests = [*ROOT.glob("packages/*/tests/**/*.py"), *ROOT.glob("tests/**/*.py")]
    names = ("EHR_" + "REAL_DATA", "shared" + "/data", '"shared"' + " /")
    assert [p for p in tests if any(name in p.read_text() for name in names)] == []


def standing_on(name: str) -> set[str]:
    """A package and all of ours that it needs."""
    return {name}.union(*(standing_on(sibling) for sibling in MAY_NEED[name]))


@pytest.mark.parametrize("name", PROJECTS)
def test_a_guide_installs_its_package_with_those_it_stands_on(name: str) -> None:
    guide = (ROOT / "packages" / name / "README.md").read_text()
    lines = re.findall(r"^ *pip install (.*)$", guide, re.MULTILINE)
    assert lines
    for line in lines:
        assert set(re.findall(r"\./packages/([a-z-]+)", line)) == standing_on(name)


def test_hosts_run_the_gate_on_every_python_that_packages_admit() -> None:
    job = yaml.safe_load((ROOT / ".github/workflows/gate.yaml").read_text())["jobs"]["check"]
    admitted = SpecifierSet(PROJECTS["ehr-eval"]["requires-python"])
    minors = [f"3.{n}" for n in range(30) if f"3.{n}.99" in admitted]
    assert job["strategy"]["matrix"]["python"] == minors
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == ["make check", "make docs"]
    for page in ("README.md", "CONTRIBUTING.md"):
        assert all(f"    {c}  " in (ROOT / page).read_text() for c in commands), page


def test_the_citation_names_the_version_and_licence_in_this_tree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {citation["version"]} == {p["version"] for p in PROJECTS.values()}
    assert {citation["license"]} == {p["license"] for p in PROJECTS.values()}
