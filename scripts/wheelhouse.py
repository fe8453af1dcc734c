"""Gather all wheels for one Python on this platform in a folder that installs where there is no network.

    uv run --no-sync scripts/wheelhouse.py --python 3.12 [--out build/wheelhouse-3.12] [PACKAGE ...]

PACKAGE is any of ours, with extras if wanted: `ehr-tokenize[desc]`; without one, all five with the extras that
the root of the workspace has, and the engine that runs comparisons. Versions are those that `pyproject.toml` pins. pip fetches, from where it is
told to in its own settings: which torch comes, for a CPU or for CUDA, is decided as for any other
installation, by PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UV = os.environ.get("UV", "uv")  # `uv run` names itself; it need not be on the path

INSTALL = """\
#!/bin/sh
# Install into a new environment, from this folder alone: sh install.sh [ENVIRONMENT [PACKAGE ...]]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python=${{PYTHON:-python{python}}}
env=${{1:-.venv}}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- {packages}
have=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if [ "$have" != {python} ]; then
  echo "these wheels are for Python {python}, but $python is $have: name another with PYTHON=" >&2
  exit 2
fi
if command -v sha256sum >/dev/null; then sums=sha256sum; else sums="shasum -a 256"; fi
(cd "$here" && $sums -c SHA256SUMS >/dev/null)
"$python" -m venv "$env"
"$env/bin/python" -m pip install --quiet --disable-pip-version-check \\
  --no-index --find-links "$here" "$@"
echo "installed: $env/bin"
"""

README = """\
# Wheels for Python {python} on {platform}

Copy this folder to a machine of the same kind, with or without a network, and

    sh install.sh .venv

or, in an environment of your own,

    pip install --no-index --find-links . {packages}

`sh install.sh .venv ehr-tokenize` installs one package and what it needs. `SHA256SUMS` tells whether all came over.
"""


def everything() -> list[str]:
    """All five packages with the extras that the root of the workspace has, and what runs comparisons."""
    root = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return [*root["project"]["dependencies"], *root["dependency-groups"]["compare"]]


def fetch(house: Path, python: str, packages: Sequence[str]) -> str:
    """Put our wheels and all that they need into `house`; return the Python they are for, as `3.12`."""
    run = [UV, "run", "--quiet", "--isolated", "--no-project", "--python", python, "--with", "pip", "python"]  # fmt: skip
    minor = 'import sys; print("%d.%d" % sys.version_info[:2])'
    told = subprocess.run([*run, "-c", minor], check=True, stdout=subprocess.PIPE, text=True).stdout
    build = [UV, "build", "--quiet", "--all-packages", "--wheel", "--no-create-gitignore"]
    subprocess.run([*build, "-o", house], cwd=ROOT, check=True)
    pins = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]
    constraints = house / "constraints.txt"
    constraints.write_text("\n".join(pins["constraint-dependencies"]))
    # also builds those few that are published as source alone, which a machine without a network could not
    wheel = ["-m", "pip", "wheel", "--disable-pip-version-check", "--wheel-dir", str(house)]
    subprocess.run(
        [*run, *wheel, "--find-links", str(house), "--constraint", str(constraints), *packages],
        check=True,
    )
    constraints.unlink()
    return told.strip()


def describe(house: Path, python: str, packages: Sequence[str]) -> None:
    """Write how to install, and the hashes of the wheels."""
    said = {"python": python, "packages": " ".join(f"'{p}'" if "[" in p else p for p in packages)}
    (house / "install.sh").write_text(INSTALL.format(**said))
    platform = f"{os.uname().sysname} {os.uname().machine}"
    (house / "README.md").write_text(README.format(**said, platform=platform))
    wheels = sorted(house.glob("*.whl"))
    sums = (hashlib.file_digest(wheel.open("rb"), "sha256").hexdigest() for wheel in wheels)
    lines = (f"{digest}  {wheel.name}\n" for digest, wheel in zip(sums, wheels, strict=True))
    (house / "SHA256SUMS").write_text("".join(lines))
    size = sum(wheel.stat().st_size for wheel in wheels) / 1e6
    print(f"{len(wheels)} wheels, {size:,.0f} MB")


def main() -> None:
    """Make the folder, whole or not at all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default="3.12", help="a version, or a path to an interpreter")
    parser.add_argument("--out", type=Path, help="build/wheelhouse-VERSION")
    parser.add_argument("packages", nargs="*", metavar="PACKAGE")
    options = parser.parse_args()
    out: Path = options.out or ROOT / f"build/wheelhouse-{options.python.replace('/', '_')}"
    if out.exists():
        print(f"{out} exists: remove it, or name another with --out", file=sys.stderr)
        sys.exit(2)
    out.parent.mkdir(parents=True, exist_ok=True)
    packages = options.packages or everything()
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".wheelhouse-") as scratch:
        house = Path(scratch) / "house"
        house.mkdir()
        try:
            describe(house, fetch(house, options.python, packages), packages)
        except subprocess.CalledProcessError as error:  # it has said why
            sys.exit(error.returncode)
        shutil.move(house, out)
    print(f"{out}: sh install.sh in it installs without a network")


if __name__ == "__main__":
    main()
