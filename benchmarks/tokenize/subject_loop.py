"""The `joint` scheme the way that most code does it: subject by subject, event by event, in Python.

    python benchmarks/tokenize/subject_loop.py MEDS OUT

What `benchmarks/tokenize` compares with. It fits on train and writes the same tokens, times and
ages as `ehr-tokenize` with its defaults, one Parquet file a split; it seals and checks nothing.
"""

import bisect
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import polars as pl

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[BOS]", "[EOS]"]
UNK, BOS = SPECIALS.index("[UNK]"), SPECIALS.index("[BOS]")
N_BINS, MIN_VALUES = 10, 20
Event = tuple[datetime | None, str, float | None]


def main(meds: Path, out: Path) -> None:
    """Fit on train, then tokenise every split."""
    split = dict(pl.read_parquet(meds / "metadata" / "subject_splits.parquet").iter_rows())
    edges = fit_bins(meds, split)
    vocabulary = fit_vocabulary(meds, split, edges)
    rows: dict[str, list[dict[str, object]]] = defaultdict(list)
    for subject, events in subjects(meds):
        rows[split[subject]].append(encode(subject, events, edges, vocabulary))
    out.mkdir(parents=True, exist_ok=True)
    for name, found in rows.items():
        found.sort(key=lambda row: row["subject_id"])
        pl.DataFrame(found).write_parquet(out / f"{name}.parquet")


def subjects(meds: Path) -> Iterator[tuple[int, list[Event]]]:
    """Each subject with its events, in the order of the files."""
    for path in sorted((meds / "data").glob("**/*.parquet")):
        frame = pl.read_parquet(path, columns=["subject_id", "time", "code", "numeric_value"])
        before, events = None, []
        for subject, *event in frame.iter_rows():
            if subject != before and before is not None:
                yield before, events
                events = []
            before = subject
            events.append(event)
        if before is not None:
            yield before, events


def fit_bins(meds: Path, split: dict[int, str]) -> dict[str, list[float]]:
    """Code -> inner edges, quantiles of train's values."""
    values = defaultdict(list)
    for subject, events in subjects(meds):
        if split[subject] == "train":
            for _, code, value in events:
                if value is not None and math.isfinite(value):
                    values[code].append(value)
    edges = {}
    for code, found in values.items():
        if len(found) >= MIN_VALUES:
            found.sort()
            ranks = [k * len(found) // N_BINS for k in range(1, N_BINS)]
            inner = sorted({found[r] for r in ranks} - {found[0]})
            if inner:
                edges[code] = inner
    return edges


def token_of(code: str, value: float | None, edges: dict[str, list[float]]) -> str:
    """The code, with its bin where it has one."""
    if value is None or code not in edges or math.isnan(value):
        return code
    return f"{code}//Q{1 + bisect.bisect_right(edges[code], value)}"


def fit_vocabulary(
    meds: Path, split: dict[int, str], edges: dict[str, list[float]]
) -> dict[str, int]:
    """Token -> id, most frequent in train first."""
    counts: Counter[str] = Counter()
    for subject, events in subjects(meds):
        if split[subject] == "train":
            counts.update(token_of(code, value, edges) for _, code, value in events)
    order = sorted(counts, key=lambda token: (-counts[token], token))
    return {token: i for i, token in enumerate([*SPECIALS, *order])}


def encode(
    subject: int, events: list[Event], edges: dict[str, list[float]], vocabulary: dict[str, int]
) -> dict[str, object]:
    """One row of the output."""
    token, time, age = [BOS], [None], [0.0]
    reference, born = None, False
    for at, code, value in events:
        token.append(vocabulary.get(token_of(code, value, edges), UNK))
        time.append(at)
        if at is not None and reference is None:
            reference = at
        if at is not None and not born and code.split("//")[0] == "MEDS_BIRTH":
            reference, born = at, True
        age.append(0.0 if at is None else (at - reference).total_seconds() / 86_400)
    return {"subject_id": subject, "token": token, "time": time, "age": age}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
