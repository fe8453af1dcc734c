"""How much of each family of codes a vocabulary knows, split by split: `coverage.json`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

COVERAGE = "coverage.json"


@dataclass(frozen=True, slots=True)
class Family:
    """Events of the codes that begin alike, in one split."""

    name: str
    events: int
    """That were told."""
    unknown: int
    """Of these, with an [UNK]."""
    excluded: int
    """Further events, left out by `vocabulary.exclude`."""


Coverage = Mapping[str, list[Family]]
"""Split -> families by name."""


def families(names: list[str], counts: npt.NDArray[np.int64]) -> list[Family]:
    """The families that occur.

    Args:
        names: F of them.
        counts: [F, 3] as in `Sequences.families`, summed over subjects.

    Examples:
        >>> families(["ICD", "LAB"], np.array([[0, 0, 0], [9, 1, 0]]))
        [Family(name='LAB', events=9, unknown=1, excluded=0)]
    """
    return sorted(
        (Family(name, *(int(x) for x in row)) for name, row in zip(names, counts, strict=True)
         if row.any()),
        key=lambda f: f.name,
    )  # fmt: skip


def write_coverage(directory: Path, coverage: Coverage) -> None:
    """Write `coverage.json`."""
    tree = {
        split: {f.name: [f.events, f.unknown, f.excluded] for f in found}
        for split, found in coverage.items()
        if found
    }
    text = json.dumps(tree, ensure_ascii=False, indent=1) + "\n"
    (directory / COVERAGE).write_text(text, encoding="utf-8")


def read_coverage(directory: Path) -> Coverage:
    """Read `coverage.json`; nothing where an older version wrote none."""
    path = directory / COVERAGE
    tree = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {s: [Family(name, *row) for name, row in found.items()] for s, found in tree.items()}
