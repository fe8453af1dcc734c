"""Keep the exact pins in the root `pyproject.toml` equal to what uv resolves.

`uv.lock` records download addresses, so it is not committed; the versions are, one line for each
package of the full resolution, under `[tool.uv] constraint-dependencies`.

    uv run --no-sync scripts/pins.py            # add what a changed dependency list newly needs
    uv run --no-sync scripts/pins.py --upgrade  # let everything move, then pin
    uv run --no-sync scripts/pins.py --check    # exit 1 where pins and resolution differ
"""

import argparse
import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = ROOT / "pyproject.toml"
BEGIN, END = "# pins: begin (written by scripts/pins.py)\n", "# pins: end\n"


def pinned() -> set[str]:
    """The pins as written: `name==version` each."""
    return set(tomllib.loads(PROJECT.read_text())["tool"]["uv"]["constraint-dependencies"])


def resolved(*lock_options: str) -> set[str]:
    """What `uv lock` takes from a registry, as `name==version`."""
    uv = os.environ.get("UV", "uv")  # `uv run` names itself; it need not be on the path
    done = subprocess.run([uv, "lock", "--quiet", *lock_options], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)  # uv has said why
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    return {f"{p['name']}=={p['version']}" for p in packages if "registry" in p["source"]}


def write(pins: set[str]) -> None:
    """Replace the lines between the two markers."""
    before, rest = PROJECT.read_text().split(BEGIN)
    after = rest.split(END)[1]
    block = "".join(f'    "{pin}",\n' for pin in sorted(pins))
    PROJECT.write_text(f"{before}{BEGIN}constraint-dependencies = [\n{block}]\n{END}{after}")


def main() -> None:
    """Update or check the pins."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit 1 on a difference"
    )
    parser.add_argument("--upgrade", action="store_true", help="let every version move")
    options = parser.parse_args()
    old = pinned()
    if options.check:
        new = resolved()
        if old != new:
            sys.exit("pins and resolution differ: " + ", ".join(sorted(old ^ new)))
        print(f"{len(old)} pins match the resolution")
        return
    if options.upgrade:
        write(set())
    new = resolved(*(["--upgrade"] if options.upgrade else []))
    write(new)
    resolved()
    print("\n".join(sorted(f"- {p}" for p in old - new) + sorted(f"+ {p}" for p in new - old)))


if __name__ == "__main__":
    main()
