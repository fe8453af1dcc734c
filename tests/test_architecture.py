"""`docs/architecture.md` shows the tree as it is: every room with its job, every module in one."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"^\| `(ehr_[\w.]+)` \| (.+?) \| (.*?) \|$", re.MULTILINE)


def modules_on_disk() -> set[str]:
    found = set()
    for path in ROOT.glob("packages/*/src/**/*.py"):
        parts = path.relative_to(next(p for p in path.parents if p.name == "src")).parts
        found.add(".".join(parts).removesuffix(".py").removesuffix(".__init__"))
    return found


def test_every_module_and_no_other_stands_in_one_row() -> None:
    rows = ROW.findall((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))
    shown = [room for room, _, _ in rows]
    shown += [f"{room}.{module}" for room, _, cell in rows for module in cell.split(" · ") if cell]
    assert sorted(shown) == sorted(modules_on_disk())
