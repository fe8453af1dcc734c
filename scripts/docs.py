"""Build the documentation as a site that asks for nothing from elsewhere.

    uv run --no-sync scripts/docs.py [--out build/site] [--no-reference]

Pages open from the folder; their search wants a server: python -m http.server -d build/site. Every page lies
where it lies in the repository, so that its links hold there and here alike; those to files that are no pages
bring the files along. A page a room of a package is made of docstrings. A link that leads nowhere ends the
build with exit code 1.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import TypeAlias

ROOT = Path(__file__).resolve().parents[1]
Nav: TypeAlias = "str | list[Nav] | dict[str, Nav]"
PAGES = ("*.md", "docs/**/*.md", "configs/**/*.md", "integrations/**/*.md", "packages/*/*.md",
         "packages/*/src/**/*.md")  # fmt: skip
LINK = re.compile(r"\]\(([^)#:\s]+)")
PACKAGES = sorted((ROOT / "packages").glob("*/src/*"))


def copy_pages(pages: Path) -> None:
    """Copy all pages, and the files that they link to, each to its place below `pages`."""
    for source in {page for pattern in PAGES for page in ROOT.glob(pattern)}:
        linked = (source.parent / link for link in LINK.findall(source.read_text()))
        for file in (source, *(path for path in linked if path.is_file())):
            target = pages / file.resolve().relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


def named(nav: Nav) -> set[str]:
    """The pages that a part of the navigation names."""
    if isinstance(nav, str):
        return {nav}
    return set().union(*(named(part) for part in (nav.values() if isinstance(nav, dict) else nav)))


def expand(nav: Nav, pages: Path, taken: set[str]) -> Nav:
    """The same part of the navigation with patterns replaced by the pages that nothing names."""
    if isinstance(nav, dict):
        return {title: expand(part, pages, taken) for title, part in nav.items()}
    if isinstance(nav, str):
        return nav
    parts: list[Nav] = []
    for part in nav:
        if isinstance(part, str) and "*" in part:
            found = {str(page.relative_to(pages)) for page in pages.glob(part)}
            parts += sorted(found - taken)
        else:
            parts.append(expand(part, pages, taken))
    return parts


def rooms(package: Path) -> list[str]:
    """Dotted names of the modules and rooms directly in a package: those that have a page."""
    named = (path for path in package.iterdir() if not path.name.startswith(("_", ".")))
    modules = (path for path in named if path.suffix == ".py" or (path / "__init__.py").exists())
    return sorted(f"{package.name}.{path.stem}" for path in modules if path.stem != "cli")


def write_reference(pages: Path) -> list[dict[str, list[str]]]:
    """Write a page a room that names its module; return their part of the navigation."""
    (pages / "reference").mkdir()
    parts = []
    for package in PACKAGES:
        names = rooms(package)
        for name in names:
            (pages / f"reference/{name}.md").write_text(f"# {name}\n\n::: {name}\n")
        parts.append({package.name: [f"reference/{name}.md" for name in names]})
    return parts


def configuration(pages: Path, *, reference: bool) -> str:
    """The site's configuration as JSON, which is YAML too, with what is found in the tree."""
    given = tomllib.loads((ROOT / "docs/site.toml").read_text())["project"]
    given["nav"] = expand(given["nav"], pages, named(given["nav"]))
    if reference:
        given["nav"].append({"Reference": write_reference(pages)})
    sources = [str(package.parent) for package in PACKAGES]
    given["plugins"]["mkdocstrings"]["handlers"]["python"]["paths"] = sources
    return json.dumps({**given, "docs_dir": pages.name, "site_dir": "site"})


def build(out: Path, *, reference: bool) -> int:
    """Build the site at `out`, whole or not at all; return the exit code."""
    with tempfile.TemporaryDirectory() as scratch:
        pages = Path(scratch) / "pages"
        copy_pages(pages)
        config = Path(scratch) / "mkdocs.yml"
        config.write_text(configuration(pages, reference=reference))
        line = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "-f"]
        done = subprocess.run(
            [*line, config], check=False
        )  # it says what is wrong, and on which page
        if not done.returncode:
            shutil.rmtree(out, ignore_errors=True)
            shutil.move(Path(scratch) / "site", out)
    return done.returncode


def main() -> None:
    """Build the site."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build/site")
    parser.add_argument("--no-reference", action="store_true", help="without docstrings: 5 s less")
    options = parser.parse_args()
    if options.out.exists() and not (options.out / "sitemap.xml").exists():
        sys.exit(f"{options.out} is no site: remove it, or name another with --out")
    sys.exit(build(options.out.resolve(), reference=not options.no_reference))


if __name__ == "__main__":
    main()
