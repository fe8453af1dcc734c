"""Look into a token data set: counts, lengths, coverage, and one subject's timeline."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from ehr_tokenize import __version__
from ehr_tokenize.build.summary import Coverage, Family, read_coverage
from ehr_tokenize.tokenizer.decode import say
from ehr_tokenize.tokenizer.tokenizer import Tokenizer
from ehr_tracking.contracts import SPECIALS, SPLITS, TOKENS, UNK_ID
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import check_file, load_manifest, read_manifest
from ehr_tracking.report import bar_plot, html_page, table, text_table

Listing = list[dict[str, object]]
_TOP = 15
_BAR = 40
_STEPS = {
    "wider": "by a wider bin",
    "plain": "by the plain code",
    "parent": "by a parent",
    "unpaired": "stays without the other side",
}
"""Of `Family`, as columns that are shown where there is anything to show."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a token data set holds."""

    path: Path
    splits: Listing
    """One row a split: subjects, tokens, length quantiles, shares of unknown and binned events."""
    vocabulary: Listing
    """One row a kind of token."""
    lengths: list[tuple[str, int]]
    """Tokens (a range) and how many subjects have as many, over all splits."""
    top: Listing
    """The most frequent tokens of train."""
    families: Listing
    """One row a family of codes: share of its events that are unknown, per split; and how many of all
    are told by less than they say, since that is too rare."""

    def text(self) -> str:
        """For a terminal."""
        largest = max((n for _, n in self.lengths), default=1)
        lengths: Listing = [
            {"tokens": name, "subjects": n, "share": "#" * round(_BAR * n / largest)}
            for name, n in self.lengths
        ]
        tables = (self.splits, self.vocabulary, self.families, lengths, self.top)
        parts = [text_table(rows) for rows in tables if rows]
        return f"{self.path}\n\n" + "\n\n".join(parts)

    def html(self, rows: Listing | None = None) -> str:
        """As a self-contained page."""
        sections = {
            "Splits": table(self.splits),
            "Vocabulary": table(self.vocabulary),
            "Families of codes": self.families and table(self.families),
            "Tokens per subject": self.lengths
            and bar_plot(self.lengths, x="tokens of a subject", y="subjects"),
            "Most frequent tokens": table(self.top),
            "Timeline": rows and table(rows),
        }
        body = [f"<h2>{name}</h2>{shown}" for name, shown in sections.items() if shown]
        return html_page(f"Tokens in {self.path.name}", body)


def inspect(path: PathLike) -> Inspection:
    """Count what is in a token data set.

    Raises:
        ContractError: If it is none.
    """
    path = Path(path)
    tokenizer = Tokenizer.from_pretrained(_opened(path))
    special = np.array(
        [t.kind == "special" and i != UNK_ID for i, t in enumerate(tokenizer.tokens)]
    )
    binned = np.array([t.bin is not None for t in tokenizer.tokens])
    coverage = read_coverage(path)
    splits: Listing = []
    lengths: list[npt.NDArray[np.int64]] = []
    for split in SPLITS:
        count = np.zeros(len(tokenizer), np.int64)
        length = [np.zeros(0, np.int64)]
        for tokens, offsets in _groups(path, split):
            count += np.bincount(tokens, minlength=len(tokenizer))
            length.append(np.diff(offsets))
        lengths.append(np.concatenate(length))
        if len(lengths[-1]):
            found = coverage.get(split, [])
            splits.append(_split_row(split, lengths[-1], count, (~special, binned), found))
    return Inspection(
        path=path,
        splits=splits,
        vocabulary=_kinds(tokenizer),
        families=_families(coverage),
        lengths=_histogram(np.concatenate(lengths)),
        top=[
            {"token": t.text, "events": t.count, "subjects": t.subjects,
             "meaning": say(t)}
            for t in tokenizer.tokens[len(SPECIALS) : len(SPECIALS) + _TOP]
        ],
    )  # fmt: skip


def record(path: PathLike, subject: int) -> Listing:
    """One subject's tokens as text, oldest first.

    Raises:
        UserError: If no split holds the subject.
    """
    path = Path(path)
    tokenizer = Tokenizer.from_pretrained(_opened(path))
    for split in SPLITS:
        for shard in _shards(path, split):
            rows = pq.read_table(shard, filters=[("subject_id", "=", subject)]).to_pylist()
            if rows:
                return [
                    {
                        "time": "always known" if time is None else time.isoformat(" "),
                        "age in years": round(age / 365.25, 2),
                        "visit": visit,
                        "token": tokenizer.tokens[token].text,
                        "meaning": say(tokenizer.tokens[token]),
                    }
                    for token, time, age, visit in zip(
                        *(rows[0][c] for c in ("token", "time", "age", "visit")), strict=True
                    )
                ]
    raise UserError(f"{path} has no subject {subject}")


def _opened(path: Path) -> Path:
    read_manifest(path, TOKENS, reader=f"ehr-tokenize {__version__}")
    return path


def _shards(path: Path, split: str) -> list[Path]:
    """The files of a split, each as it was sealed."""
    manifest = load_manifest(path)
    names = sorted(n for n in manifest.files if n.startswith(f"{split}/"))
    return [check_file(path, manifest, name) for name in names]


def _groups(
    path: Path, split: str
) -> Iterator[tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]]:
    for shard in _shards(path, split):
        with pq.ParquetFile(shard) as file:
            for i in range(file.num_row_groups):
                lists = file.read_row_group(i, ["token"])["token"].combine_chunks()
                yield lists.flatten().to_numpy(), lists.offsets.to_numpy()


def _split_row(
    split: str,
    length: npt.NDArray[np.int64],
    count: npt.NDArray[np.int64],
    masks: tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]],
    coverage: list[Family],
) -> dict[str, object]:
    told, binned = masks
    events = sum(f.events for f in coverage) or int(count[told].sum())
    unknown = sum(f.unknown for f in coverage) if coverage else int(count[UNK_ID])
    low, middle, high = np.quantile(length, [0.1, 0.5, 0.9])
    return {
        "split": split,
        "subjects": len(length),
        "events": events,
        "tokens": int(count.sum()),
        "p10": int(low),
        "median": int(middle),
        "p90": int(high),
        "longest": int(length.max()),
        "unknown": f"{unknown / max(1, events):.2%}",
        "binned": f"{count[binned].sum() / max(1, events):.2%}",
        "vocabulary used": f"{np.count_nonzero(count[told]) / max(1, told.sum()):.1%}",
    }


def _families(coverage: Coverage) -> Listing:
    """Those with most events first."""
    total: dict[str, int] = {}
    by_split: dict[tuple[str, str], Family] = {}
    for split, found in coverage.items():
        for family in found:
            total[family.name] = total.get(family.name, 0) + family.events
            by_split[split, family.name] = family
    rows: Listing = []
    everyone = list(by_split.values())
    steps = {step: what for step, what in _STEPS.items() if any(getattr(f, step) for f in everyone)}
    for name in sorted(total, key=lambda n: (-total[n], n)):
        row: dict[str, object] = {"family": name, "events": total[name]}
        for split in coverage:
            found_here = by_split.get((split, name))
            events = found_here.events if found_here else 0
            share = f"{found_here.unknown / events:.2%}" if found_here and events else "-"
            row[f"unknown in {split}"] = share
        here = [by_split[split, name] for split in coverage if (split, name) in by_split]
        row |= {what: sum(getattr(f, step) for f in here) for step, what in steps.items()}
        rows.append(row)
    return rows


def _kinds(tokenizer: Tokenizer) -> Listing:
    rows: Listing = []
    for kind in dict.fromkeys(t.kind for t in tokenizer.tokens):
        tokens = [t for t in tokenizer.tokens if t.kind == kind]
        described = sum(t.info.description is not None for t in tokens)
        rows.append(
            {
                "kind": kind,
                "tokens": len(tokens),
                "codes": len({t.code for t in tokens if t.code}),
                "train events": sum(t.count for t in tokens),
                "described": described,
            }
        )
    return rows


def _histogram(length: npt.NDArray[np.int64]) -> list[tuple[str, int]]:
    """Tokens per subject by powers of two."""
    if not len(length):
        return []
    counts = np.bincount(np.frexp(length.astype(np.float64))[1])
    first = int(np.flatnonzero(counts)[0])
    return [(f"{2 ** (i - 1):,} - {2**i - 1:,}", int(counts[i])) for i in range(first, len(counts))]
