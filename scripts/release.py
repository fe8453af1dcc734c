"""Build what a release consists of, check it, and name it with its hashes.

    uv run --no-sync scripts/release.py [--out dist]

Into `dist`, in place of the release that is there: a wheel and a source archive of each package, `SHA256SUMS`, and
`NOTES.md` from the changelogs. What is wrong is said a line each, with exit code 1, and nothing is written.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from packaging.metadata import Metadata

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = sorted(path.name for path in (ROOT / "packages").iterdir())
LICENCE = (ROOT / "LICENSE").read_bytes()
STRAY = re.compile(r"(^|/)(tests|__pycache__|\.[^/]+|conftest\.py|test_[^/]*\.py)(/|$)")


def contents(archive: Path) -> dict[str, bytes]:
    """Files of a wheel or a source archive by their path within; of the latter, below its one folder."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return {i.filename: wheel.read(i) for i in wheel.infolist() if not i.is_dir()}
    with tarfile.open(archive) as source:
        files = {m.name: source.extractfile(m) for m in source.getmembers() if m.isfile()}
        return {name.partition("/")[2]: file.read() for name, file in files.items() if file}


def metadata(files: dict[str, bytes]) -> Metadata:
    """The metadata among the files of an archive.

    Raises:
        ExceptionGroup: They are not valid, field by field.
    """
    found = [n for n in files if n == "PKG-INFO" or n.endswith(".dist-info/METADATA")]
    return Metadata.from_email(files[min(found)])


def wheel_faults(files: dict[str, bytes], told: Metadata) -> list[str]:
    """What is missing from a wheel, and what should not be in it."""
    module = told.name.replace("-", "_")
    info = f"{module}-{told.version}.dist-info"
    faults = [f"{path} has no place in it" for path in files if STRAY.search(path)]
    faults += [f"{path} is not of it" for path in files if path.split("/")[0] not in (module, info)]
    wanted = (f"{module}/py.typed", f"{info}/entry_points.txt")
    faults += [f"{path} is missing" for path in wanted if path not in files]
    source = ROOT / "packages" / told.name / "src"
    code = {path.relative_to(source).as_posix() for path in source.rglob("*.py")}
    faults += [f"{path} is missing" for path in sorted(code - files.keys())]
    if files.get(f"{info}/licenses/LICENSE") != LICENCE:
        faults.append("the licence is missing, or another")
    return faults


def source_faults(files: dict[str, bytes], told: Metadata) -> list[str]:
    """What is missing from a source archive."""
    typed = f"src/{told.name.replace('-', '_')}/py.typed"
    wanted = ("README.md", "LICENSE", "pyproject.toml", typed)
    return [f"{path} is missing" for path in wanted if path not in files]


def metadata_faults(told: Metadata, siblings: dict[str, Metadata]) -> list[str]:
    """What an index or an installer would stumble over, ranges of siblings included."""
    wanted = {
        "license_expression": told.license_expression,
        "requires_python": told.requires_python,
        "summary": told.summary,
        "description": told.description,
    }
    faults = [f"metadata without {field}" for field, value in wanted.items() if not value]
    if told.description_content_type != "text/markdown":
        faults.append(f"a description of type {told.description_content_type}, not text/markdown")
    for needed in told.requires_dist or ():
        if (sibling := siblings.get(needed.name)) is None:
            continue
        if sibling.version not in needed.specifier:
            faults.append(f"wants {needed}, but {needed.name} is {sibling.version}")
        if absent := needed.extras - set(sibling.provides_extra or ()):
            faults.append(f"wants {needed}, but there is no extra {', '.join(sorted(absent))}")
    return faults


def find_faults(dist: Path) -> list[str]:
    """What is wrong with the archives in a directory, a line each; none where they may be published."""
    stems = {name: name.replace("-", "_") for name in PACKAGES}
    wheels = {name: sorted(dist.glob(f"{stem}-*.whl")) for name, stem in stems.items()}
    sources = {name: sorted(dist.glob(f"{stem}-*.tar.gz")) for name, stem in stems.items()}
    faults = [
        f"{name}: {len(wheels[name])} wheels and {len(sources[name])} source archives, not one each"
        for name in PACKAGES
        if (len(wheels[name]), len(sources[name])) != (1, 1)
    ]
    if faults:
        return faults
    files = {a: contents(a) for of in (wheels, sources) for (a,) in of.values()}
    told = {}
    for archive, held in files.items():
        try:
            told[archive] = metadata(held)
        except ExceptionGroup as group:
            faults += [f"{archive.name}: {error}" for error in group.exceptions]
    siblings = {m.name: m for archive, m in told.items() if archive.suffix == ".whl"}
    for archive, one in told.items():
        look = wheel_faults if archive.suffix == ".whl" else source_faults
        found = [*metadata_faults(one, siblings), *look(files[archive], one)]
        faults += [f"{archive.name}: {fault}" for fault in found]
    return faults


def sums(dist: Path) -> str:
    """SHA-256 and name of each archive, as `sha256sum -c` reads them."""
    archives = sorted(p for p in dist.iterdir() if p.name.endswith((".whl", ".tar.gz")))
    return "".join(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in archives)


def notes(changelog: str, version: str) -> str:
    r"""What a changelog says of a version; of one that it does not name, what it says is unreleased.

    Examples:
        >>> notes("# Log\n\n## Unreleased\n\n- New.\n\n## 0.1.0\n\n- First.\n", "0.1.0")
        '- First.'
    """
    sections = dict(re.findall(r"^## (\S+).*\n((?:(?!## ).*\n?)*)", changelog, re.MULTILINE))
    return str(sections.get(version, sections.get("Unreleased", ""))).strip()


def write_notes(dist: Path) -> None:
    """Put what changed in each package beside the archives."""
    parts = []
    for name in PACKAGES:
        (wheel,) = dist.glob(f"{name.replace('-', '_')}-*.whl")
        version, log = (
            str(metadata(contents(wheel)).version),
            ROOT / "packages" / name / "CHANGELOG.md",
        )
        parts.append(f"## {name} {version}\n\n{notes(log.read_text(), version)}\n")
    (dist / "NOTES.md").write_text("\n".join(parts))


def main() -> None:
    """Build, check, name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    out: Path = parser.parse_args().out
    if out.exists() and not (out / "SHA256SUMS").exists():
        sys.exit(f"{out} is no release: remove it, or name another with --out")
    with tempfile.TemporaryDirectory() as scratch:
        dist = Path(scratch) / "dist"
        uv = os.environ.get("UV", "uv")  # `uv run` names itself; it need not be on the path
        build = [uv, "build", "--quiet", "--all-packages", "--no-create-gitignore", "-o", str(dist)]
        if (done := subprocess.run(build, cwd=ROOT, check=False)).returncode:
            sys.exit(done.returncode)
        if faults := find_faults(dist):
            sys.exit("\n".join(faults))
        (dist / "SHA256SUMS").write_text(sums(dist))
        write_notes(dist)
        shutil.rmtree(out, ignore_errors=True)
        shutil.move(dist, out)
    print((out / "SHA256SUMS").read_text(), end="")


if __name__ == "__main__":
    main()
