"""A vocabulary or value bins that were fitted beyond train. N values."""

import json
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from ehr_eval.audit.found import Finding, Skipped
from ehr_eval.audit.inputs import Inputs
from ehr_eval.counts.things import ancestors
from ehr_models.vocabulary import Word, read_vocabulary
from ehr_tracking.arrow.meds import read_codes
from ehr_tracking.contracts import TRAIN

_NAMED = 3


class Fitted(NamedTuple):
    """What can be fitted on some subjects."""

    events: Mapping[str, int]
    """Code -> events of it."""
    subjects: Mapping[str, int]
    """Code -> subjects that have it."""
    values: Mapping[str, npt.NDArray[np.float32]]
    """Code -> its finite values, ascending."""


def vocabulary_beyond_train(inputs: Inputs) -> Iterator[Finding]:
    """Tokens with more events or subjects than train has of their code and all below it, and bins of others' values."""
    inputs.require("meds", "tokens")
    config = inputs.token_manifest.config
    if config.get("maps"):
        raise Skipped("maps give events other codes in the tokens than in the data")
    words = [w for w in read_vocabulary(inputs.tokens) if w.code and w.kind in {"code", "value"}]
    train, every = fitted(inputs)
    above = _above(inputs)
    most_events, most_subjects = (_with_below(c, above) for c in (train.events, train.subjects))
    events: dict[str, int] = {}
    for word in words:
        events[str(word.code)] = events.get(str(word.code), 0) + word.count
    known = {name for code in every.events for name in ancestors(code, above)}
    more = sorted(
        code for code, n in events.items() if code in known and n > most_events.get(code, 0)
    )
    if more:
        yield Finding("tokens", _told("counts more events than train has", more), len(more))
    wide = {
        str(w.code)
        for w in words
        if w.code in known and w.subjects > most_subjects.get(str(w.code), 0)
    }
    wide -= set(more)
    if wide:
        yield Finding(
            "tokens", _told("counts more subjects than train has", sorted(wide)), len(wide)
        )
    numeric = config.get("numeric") or {}
    found = {code: _edges(of) for code, of in _by_code(words).items()}
    yield from other_bins(
        "tokens", found, train, every, numeric.get("n_bins"), numeric.get("min_values")
    )


def counts_beyond_train(inputs: Inputs) -> Iterator[Finding]:
    """Bins of counts that are those of all values, and columns that too few train rows fill."""
    inputs.require("meds", "features")
    counts = {n: f for n, f in inputs.features.items() if (f.directory / "columns.json").is_file()}
    if not counts:
        raise Skipped("no features are counts")
    train, every = fitted(inputs)
    for name, found in counts.items():
        about, config = (
            json.loads((found.directory / "columns.json").read_bytes()),
            found.manifest.config,
        )
        edges = {
            code: [float(e) for e in of] for code, of in (about.get("bin_edges") or {}).items()
        }
        yield from other_bins(
            f"features {name}", edges, train, every, config.get("bins"), config.get("min_values")
        )
        least = config.get("min_rows")
        rows = found.index.filter(split=TRAIN)["row"].to_numpy()
        if not isinstance(least, int) or not len(rows):
            continue
        x = found.mapped.take(rows)
        filled = np.asarray((x != 0).sum(axis=0)).reshape(-1)
        few = int((filled < min(least, len(rows))).sum())
        if few:
            yield Finding(
                f"features {name}",
                f"{few:,} columns are filled in fewer than min_rows = {least} train rows: other rows chose them",
                few,
            )


def fitted(inputs: Inputs) -> tuple[Fitted, Fitted]:
    """What train alone gives, and what all subjects give."""
    train = inputs.splits.filter(split=TRAIN)["subject_id"].implode()
    parts: list[pl.DataFrame] = []
    values: list[pl.DataFrame] = []
    for events in inputs.events():
        marked = events.with_columns(train=pl.col("subject_id").is_in(train))
        who = pl.col("subject_id")
        parts.append(marked.group_by("code", "train").agg(n=pl.len(), who=who.n_unique()))
        values.append(
            marked.filter(pl.col("numeric_value").is_finite()).select(
                "code", "train", "numeric_value"
            )
        )
    counted = pl.concat(parts).group_by("code", "train").agg(pl.col("n").sum(), pl.col("who").sum())
    valued = pl.concat(values)
    return _fitted(counted.filter("train"), valued.filter("train")), _fitted(counted, valued)


def _fitted(counted: pl.DataFrame, valued: pl.DataFrame) -> Fitted:
    total = counted.group_by("code").agg(pl.col("n").sum(), pl.col("who").sum())
    values = valued.group_by("code").agg(pl.col("numeric_value").sort())
    return Fitted(
        dict(total.select("code", "n").iter_rows()),
        dict(total.select("code", "who").iter_rows()),
        {code: np.array(of, np.float32) for code, of in values.iter_rows()},
    )


def other_bins(
    where: str,
    found: Mapping[str, list[float]],
    train: Fitted,
    every: Fitted,
    bins: object,
    least: object,
) -> Iterator[Finding]:
    """Codes whose bin edges are quantiles of all values, and not of those of train."""
    if not isinstance(bins, int) or not isinstance(least, int):
        return
    other = sorted(
        code
        for code, edges in found.items()
        if edges
        and code in every.values
        and not _same(edges, quantiles(train.values.get(code), bins, least))
        and _same(edges, quantiles(every.values[code], bins, least))
    )
    if other:
        yield Finding(
            where,
            _told("has bins that are quantiles of all values, not of train's", other),
            len(other),
        )


def quantiles(values: npt.NDArray[np.float32] | None, bins: int, least: int) -> list[float]:
    """Inner edges: the values of rank floor(k N / bins), each once, the least value left out.

    Args:
        values: [N] ascending.
        bins: At most.
        least: Fewer values get none.

    Examples:
        >>> quantiles(np.arange(8, dtype=np.float32), 4, 2)
        [2.0, 4.0, 6.0]
    """
    if values is None or not len(values) or len(values) < least:
        return []
    chosen = np.unique(values[np.arange(1, bins) * len(values) // bins])
    return [float(x) for x in chosen if x > values[0]]


def _same(one: list[float], other: list[float]) -> bool:
    return len(one) == len(other) and bool(np.allclose(one, other, rtol=1e-6, atol=0))


def _by_code(words: list[Word]) -> dict[str, list[Word]]:
    found: dict[str, list[Word]] = {}
    for word in words:
        if word.bin is not None:
            found.setdefault(str(word.code), []).append(word)
    return found


def _edges(words: list[Word]) -> list[float]:
    """The bounds between bins, ascending."""
    bounds = {float(w.lower) for w in words if w.lower is not None and np.isfinite(w.lower)}
    bounds |= {float(w.upper) for w in words if w.upper is not None and np.isfinite(w.upper)}
    return sorted(bounds)


def _above(inputs: Inputs) -> dict[str, list[str | None] | None]:
    codes = read_codes(inputs.meds)
    return dict(zip(*(codes[c].to_pylist() for c in ("code", "parent_codes")), strict=True))


def _with_below(
    counts: Mapping[str, int], above: Mapping[str, list[str | None] | None]
) -> dict[str, int]:
    """Each count added to that of the code and of everything above it."""
    total: dict[str, int] = {}
    for code, n in counts.items():
        for name in ancestors(code, above):
            total[name] = total.get(name, 0) + n
    return total


def _told(what: str, codes: list[str]) -> str:
    more = f" and {len(codes) - _NAMED:,} more" if len(codes) > _NAMED else ""
    return f"what is told of {', '.join(codes[:_NAMED])}{more} {what}: fitted beyond train"
