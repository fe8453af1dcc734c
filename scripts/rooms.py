"""Keep the table of rooms in `docs/architecture.md` equal to the tree.

A room is a folder of modules; what it is for is the first line of its `__init__`.

    uv run --no-sync scripts/rooms.py           # write the table anew
    uv run --no-sync scripts/rooms.py --check   # exit 1 where page and tree differ
"""

import argparse
import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- rooms: begin (written by scripts/rooms.py) -->\n", "<!-- rooms: end -->\n"


def rooms(root: Path = ROOT) -> list[tuple[str, str, list[str]]]:
    """Each room as import path, job and modules, packages and rooms in the order of their names.

    Raises:
        ValueError: If a folder with modules has no `__init__` that says what it is for.
    """
    found: dict[Path, list[str]] = {}
    for path in sorted(root.glob("packages/*/src/**/*.py")):
        found.setdefault(path.parent, []).append(path.stem)
    return [
        (
            ".".join(folder.parts[folder.parts.index("src") + 1 :]),
            _job(folder / "__init__.py"),
            [module for module in modules if module != "__init__"],
        )
        for folder, modules in sorted(found.items())
    ]


def _job(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) if path.is_file() else ""
    if not text:
        raise ValueError(f"{path} does not say what its folder is for")
    return text.splitlines()[0]


def table(root: Path = ROOT) -> str:
    """The rows of the page."""
    lines = ["| room | is for | its modules |", "|---|---|---|"]
    for name, job, modules in rooms(root):
        lines.append(f"| `{name}` | {job} | {' · '.join(modules)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write or check the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit 1 on a difference"
    )
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    page = f"{before}{BEGIN}{table()}{END}{after}"
    if page == PAGE.read_text(encoding="utf-8"):
        return
    if parser.parse_args().check:
        sys.exit("docs/architecture.md does not show the tree as it is; run scripts/rooms.py")
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
