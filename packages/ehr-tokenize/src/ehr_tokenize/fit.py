"""Fit a tokenizer on the train split: values to bins, then (code, bin) pairs to a vocabulary.

Both passes add up what independent stretches of events give, so they can be run over shards in any
order and by any number of workers.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from ehr_tokenize.config import TokenizeConfig
from ehr_tokenize.events import Events
from ehr_tokenize.numeric import Bins, Histogram, edges
from ehr_tokenize.tokenizer import Tokenizer
from ehr_tokenize.vocabulary import CodeInfo, Count, build, count_slots

Edges = Mapping[str, npt.NDArray[np.float32]]
T = TypeVar("T")


class Parts(Protocol):
    """The train split, in stretches that fit into memory."""

    def __call__(self, apply: Callable[[Events], T]) -> Iterable[T]:
        """What `apply` gives for each stretch."""


def fit(
    parts: Parts,
    codes: Sequence[str],
    infos: Mapping[str, CodeInfo],
    config: TokenizeConfig,
) -> Tokenizer:
    """Two passes over the train split.

    Args:
        parts: The train split; gone through twice.
        codes: Which the events' codes index.
        infos: From codes.parquet.
        config: What to fit.
    """
    histograms = list(parts(lambda e: Histogram.of(e.code, e.value)))
    chosen = choose_edges(Histogram.merge(histograms), codes, config)
    bins = bind_edges(chosen, codes)
    n_slots = int(bins.slots[-1])
    total = np.zeros((2, n_slots), np.int64)
    for part in parts(lambda e: count_slots(e, bins.slot(e.code, e.value), n_slots)):
        total += part
    return Tokenizer(
        config=config,
        tokens=build(counts(total, bins, codes), chosen, infos, config.vocabulary),
        edges=chosen,
    )


def choose_edges(
    histogram: Histogram, codes: Sequence[str], config: TokenizeConfig
) -> dict[str, npt.NDArray[np.float32]]:
    """The inner bin edges of each code that gets bins."""
    values = histogram.values()
    present, where = histogram.by_code()
    chosen = {
        codes[code]: edges(values[at], histogram.count[at], config.numeric)
        for code, at in zip(present.tolist(), where, strict=True)
    }
    return {code: found for code, found in chosen.items() if len(found)}


def bind_edges(chosen: Edges, codes: Sequence[str]) -> Bins:
    """Edges by code index."""
    none = np.zeros(0, np.float32)
    return Bins.of([chosen.get(code, none) for code in codes])


def counts(total: npt.NDArray[np.int64], bins: Bins, codes: Sequence[str]) -> list[Count]:
    """The (code, bin) pairs that occur, from the counts of their slots."""
    slots = bins.slots
    present = np.flatnonzero(total[0])
    code = np.searchsorted(slots, present, side="right") - 1
    return [
        Count(codes[c], int(slot - slots[c]), int(total[0, slot]), int(total[1, slot]))
        for c, slot in zip(code.tolist(), present.tolist(), strict=True)
    ]
