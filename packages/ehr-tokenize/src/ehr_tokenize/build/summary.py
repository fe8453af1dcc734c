"""What was written of each split, and how much of each family of codes the vocabulary knows.

The latter is kept beside the tokens, as `coverage.json`.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ehr_tokenize.build.resume import WrittenShard
from ehr_tokenize.codes.keys import shown
from ehr_tokenize.codes.maps import MapReport
from ehr_tokenize.scheme.weave import COUNTED
from ehr_tracking.manifest import check_file, load_manifest

COVERAGE = "coverage.json"
_NAMED = 3
"""Families that a terminal is told."""


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
    wider: int = 0
    """Told by a wider bin, since their own is too rare."""
    plain: int = 0
    """Told by the plain code, since their bin or text is too rare."""
    parent: int = 0
    """Told by a parent, since their code is too rare."""
    unpaired: int = 0
    """Starts or ends of stays with an id, of which the other side is not recorded."""


@dataclass(frozen=True, slots=True)
class SplitSummary:
    """What was written of one split."""

    split: str
    subjects: int
    events: int
    tokens: int
    unknown: int
    """Events with an [UNK]."""
    shards: int
    excluded: int = 0
    """Events that `vocabulary.exclude` left out."""
    families: tuple[Family, ...] = ()

    @property
    def unknown_share(self) -> float:
        """Of the events."""
        return self.unknown / self.events if self.events else 0.0


@dataclass(frozen=True, slots=True)
class Summary:
    """What `tokenize` wrote."""

    out: Path
    vocab_size: int
    splits: tuple[SplitSummary, ...]
    splits_by_hash: bool
    """Whether the data set named no splits."""
    maps: tuple[MapReport, ...] = ()
    kept: int = 0
    """Shards that were there, from a run that was interrupted."""

    def lines(self) -> list[str]:
        """For a terminal."""
        how = "by hash" if self.splits_by_hash else "as named"
        return [
            f"{self.out}: {self.vocab_size:,} tokens in the vocabulary, splits {how}",
            *([f"kept {self.kept:,} shards of an interrupted run"] if self.kept else []),
            *(f"map {report.line()}" for report in self.maps),
            *(
                f"{s.split}: {s.subjects:,} subjects, {s.events:,} events, {s.tokens:,} tokens, "
                f"{s.unknown_share:.2%} unknown, {s.shards} shard{'s' * (s.shards > 1)}"
                + (f", {s.excluded:,} events excluded" if s.excluded else "")
                for s in self.splits
            ),
            *self._fallen(),
            *self._unpaired(),
            *self._lacking(),
        ]

    def _fallen(self) -> list[str]:
        """How many events are told by less than they say, since that is too rare."""
        found = [f for s in self.splits for f in s.families]
        steps = {
            "a wider bin": sum(f.wider for f in found),
            "the plain code": sum(f.plain for f in found),
            "a parent": sum(f.parent for f in found),
        }
        told = ", ".join(f"{n:,} by {what}" for what, n in steps.items() if n)
        return [f"too rare, told by less: {told}"] if told else []

    def _unpaired(self) -> list[str]:
        """How many stays are known from one side alone."""
        found = sum(f.unpaired for s in self.splits for f in s.families)
        return [f"starts or ends of stays whose id has no other side: {found:,}"] if found else []

    def _lacking(self) -> list[str]:
        """The families of codes that the vocabulary knows least of."""
        events, unknown = Counter[str](), Counter[str]()
        for family in (f for s in self.splits for f in s.families):
            events[family.name] += family.events
            unknown[family.name] += family.unknown
        worst = [(n, name) for name, n in unknown.items() if n]
        if not worst:
            return []
        worst.sort(key=lambda x: (-x[0], x[1]))
        named = ", ".join(
            f"{shown(name)} ({n:,} of {events[name]:,})" for n, name in worst[:_NAMED]
        )
        return [f"most unknown events: {named}"]


Coverage = Mapping[str, list[Family]]
"""Split -> families by name."""


def families(names: list[str], counts: npt.NDArray[np.int64]) -> list[Family]:
    """The families that occur.

    Args:
        names: F of them.
        counts: [F, 7] as in `Sequences.families`, summed over subjects.

    Examples:
        >>> families(["ICD", "LAB"], np.array([[0] * 7, [9, 1, 0, 2, 0, 0, 0]]))[0].wider
        2
    """
    return sorted(
        (Family(name, *(int(x) for x in row)) for name, row in zip(names, counts, strict=True)
         if row.any()),
        key=lambda f: f.name,
    )  # fmt: skip


def split_summary(
    split: str,
    events: npt.NDArray[np.int64],
    written: Mapping[str, WrittenShard],
    names: list[str],
) -> SplitSummary:
    """Add up what was written of a split.

    Args:
        split: Its name.
        events: Of each of its subjects.
        written: Path -> what is known of the shard.
        names: Of the F families.
    """
    none = np.zeros((len(names), COUNTED), np.int64)
    total = sum((shard.families for shard in written.values()), none)
    return SplitSummary(
        split=split,
        subjects=len(events),
        events=int(events.sum()),
        tokens=sum(shard.tokens for shard in written.values()),
        unknown=int(total[:, 1].sum()),
        shards=len(written),
        excluded=int(total[:, 2].sum()),
        families=tuple(families(names, total)),
    )


def write_coverage(directory: Path, coverage: Coverage) -> None:
    """Write `coverage.json`."""
    tree = {
        split: {
            f.name: [f.events, f.unknown, f.excluded, f.wider, f.plain, f.parent]
            + [f.unpaired] * (f.unpaired > 0)
            for f in found
        }
        for split, found in coverage.items()
        if found
    }
    text = json.dumps(tree, ensure_ascii=False, indent=1) + "\n"
    (directory / COVERAGE).write_text(text, encoding="utf-8")


def read_coverage(directory: Path) -> Coverage:
    """Read `coverage.json`; nothing where an older version wrote none.

    Raises:
        ContractError: If it is not as it was sealed.
    """
    manifest = load_manifest(directory)
    if COVERAGE not in manifest.files:
        return {}
    tree = json.loads(check_file(directory, manifest, COVERAGE).read_text(encoding="utf-8"))
    return {s: [Family(name, *row) for name, row in found.items()] for s, found in tree.items()}
