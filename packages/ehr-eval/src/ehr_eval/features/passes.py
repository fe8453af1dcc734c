"""Which stretches of records a model reads, and where in them each feature row is read off.

n rows (one a subject and prediction time). Planning sees numbers of visible tokens, never tokens,
and a pass ends with the last token visible at its last row: what is recorded later cannot move a
bit of the result, not even through the composition of batches.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ehr_models.batch import Span, newest
from ehr_models.tokens import Tokens


class Pass(NamedTuple):
    """One span and the rows read off it."""

    span: Span
    rows: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    """For each row, how many tokens of the span it sees."""


def plan(
    tokens: Tokens,
    subject: npt.NDArray[np.int64],
    visible: npt.NDArray[np.int64],
    *,
    context: int,
    shared: bool,
) -> list[Pass]:
    """Lay out the passes over one split, shortest first.

    Args:
        tokens: One split.
        subject: [n] rows of `tokens`, equal ones side by side.
        visible: [n] visible tokens; rows that see none get no pass.
        context: Most tokens in a span.
        shared: Read a subject once for all rows whose visible record fits the context (right for
            causal models only: there a state depends on no later token); else cut at each row.
    """
    passes = []
    rows = np.flatnonzero(visible > 0)
    cuts = np.flatnonzero(np.diff(subject[rows])) + 1
    for group in np.split(rows, cuts) if len(rows) else []:
        alone = visible[group] > context if shared else np.ones(len(group), bool)
        together = group[~alone]
        if len(together):
            first = int(tokens.offsets[subject[group[0]]])
            ends = visible[together]
            passes.append(Pass(Span(first, first + int(ends.max())), together, ends))
        for row in group[alone]:
            span = newest(tokens, int(subject[row]), int(visible[row]), context)
            passes.append(Pass(span, np.array([row]), np.array([span.length])))
    return sorted(passes, key=lambda p: p.span.length)


def batches(passes: Sequence[Pass], budget: int) -> Iterator[list[Pass]]:
    """Group passes, in order, under a budget of tokens; one that exceeds it goes alone.

    Examples:
        >>> passes = [Pass(Span(0, n), np.array([0]), np.array([n])) for n in (2, 3, 4, 9)]
        >>> [[p.span.length for p in batch] for batch in batches(passes, 6)]
        [[2, 3], [4], [9]]
    """
    batch: list[Pass] = []
    total = 0
    for item in passes:
        if batch and total + item.span.length > budget:
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += item.span.length
    if batch:
        yield batch
