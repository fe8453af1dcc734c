"""Windows: the parts of records that a model is shown, as arrays.

A window is the record's prefix (its static tokens and [CLS]/[BOS], where the window would cut them
off) and one stretch of tokens behind it. S windows, n rows asked for.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from ehr_models.data.tokens import Tokens

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """Tokens [first, first + prefix), then [start, stop) of the flat arrays, S times."""

    example: Integers
    """[S] the caller's number of what the window belongs to."""
    first: Integers
    """[S] where the record begins."""
    prefix: Integers
    """[S] tokens kept from its head; 0 where the window is not cut there."""
    start: Integers
    """[S]"""
    stop: Integers
    """[S]"""
    fresh: Integers | None = None
    """[S] where that begins which no other window of an epoch asks of: what lies before it in the
    flat arrays is context, and no target. None: all of each window may be asked of."""

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.first)

    @property
    def length(self) -> Integers:
        """[S] tokens of each."""
        return self.prefix + self.stop - self.start

    def take(self, index: npt.NDArray[np.integer] | slice) -> Self:
        """Those windows, in that order."""
        return type(self)(
            self.example[index],
            self.first[index],
            self.prefix[index],
            self.start[index],
            self.stop[index],
            None if self.fresh is None else self.fresh[index],
        )

    def asks_of(
        self, index: npt.NDArray[np.integer], span: npt.NDArray[np.integer]
    ) -> npt.NDArray[np.bool_]:
        """Which tokens of the packed windows may be targets.

        Args:
            index: [T] where each lies in the flat arrays.
            span: [T] which window it is of.

        Returns:
            [T]
        """
        if self.fresh is None:
            return np.ones(len(index), bool)
        return np.asarray(index >= self.fresh[span])


def newest(
    tokens: Tokens,
    row: npt.ArrayLike,
    visible: npt.ArrayLike,
    context: int,
    example: npt.ArrayLike | None = None,
) -> Windows:
    """The newest tokens of each record that fit the context, behind its prefix.

    Args:
        tokens: One split.
        row: [n] rows of `tokens`.
        visible: [n] how many of its tokens may be seen, counted from its first.
        context: Most tokens of a window. At most half of them go to the prefix.
        example: [n] numbers of the windows; 0, 1, 2... where not given.

    Examples:
        >>> zeros = np.zeros(6)
        >>> t = Tokens(np.array([7]), np.array([0, 6]), np.array([2]), *[zeros] * 5)
        >>> w = newest(t, [0, 0], [6, 3], context=5)
        >>> w.prefix.tolist(), w.start.tolist(), w.stop.tolist()
        ([2, 0], [3, 0], [6, 3])
    """
    row, visible = np.atleast_1d(row), np.atleast_1d(visible)
    return window_at(tokens, row, visible, np.maximum(visible - context, 0), context, example)


def window_at(
    tokens: Tokens,
    row: npt.ArrayLike,
    visible: npt.ArrayLike,
    offset: npt.ArrayLike,
    context: int,
    example: npt.ArrayLike | None = None,
) -> Windows:
    """The window of `context` tokens that begins `offset` tokens into each record.

    Behind its prefix it is shorter by that, so the offset `visible - context` gives the newest
    tokens. A record that fits the context is shown whole.

    Args:
        tokens: One split.
        row: [n] rows of `tokens`.
        visible: [n] how many of its tokens may be seen, counted from its first.
        offset: [n] from 0 to `visible - context`.
        context: Most tokens of a window. At most half of them go to the prefix.
        example: [n] numbers of the windows; 0, 1, 2... where not given.
    """
    row = np.atleast_1d(row).astype(np.int64)
    visible = np.atleast_1d(visible).astype(np.int64)
    offset = np.where(visible > context, offset, 0)
    first = tokens.offsets[row]
    prefix = np.minimum(tokens.prefix[row].astype(np.int64), context // 2)
    prefix = np.where(offset > 0, np.minimum(prefix, visible), 0)
    return Windows(
        example=np.arange(len(row)) if example is None else np.asarray(example, np.int64),
        first=first,
        prefix=prefix,
        start=first + offset + prefix,
        stop=first + offset + np.minimum(visible, context),
    )


def whole_visits(
    tokens: Tokens,
    row: npt.ArrayLike,
    visible: npt.ArrayLike,
    context: int,
    example: npt.ArrayLike | None = None,
) -> Windows:
    """Each record in as many windows as it takes, cut between visits.

    The first holds the newest whole visits that fit the context behind the prefix; those that do not
    fit make up the next, and so on to the oldest. A visit too long for a window is cut within, its
    newest tokens first. Tokens outside of visits that stand together count as a visit.

    Args:
        tokens: One split.
        row: [n] rows of `tokens`.
        visible: [n] how many of its tokens may be seen, counted from its first.
        context: Most tokens of a window. At most half of them go to the prefix.
        example: [n] numbers of the windows; 0, 1, 2... where not given.

    Returns:
        [S >= n] record by record, newest first.

    Examples:
        >>> visit, zeros = np.array([0, 1, 1, 2, 2, 2, 3]), np.zeros(7)
        >>> t = Tokens(np.array([7]), np.array([0, 7]), np.array([1]), *[zeros] * 3, visit, zeros)
        >>> w = whole_visits(t, [0], [7], context=5)
        >>> w.prefix.tolist(), w.start.tolist(), w.stop.tolist()
        ([1, 0], [3, 0], [7, 3])
    """
    row = np.atleast_1d(row).astype(np.int64)
    visible = np.atleast_1d(visible).astype(np.int64)
    first = tokens.offsets[row]
    prefix = np.minimum(tokens.prefix[row].astype(np.int64), context // 2)
    number, start, stop = _between_visits(tokens.visit, first, visible, prefix, context)
    return Windows(
        example=(number if example is None else np.asarray(example, np.int64)[number]),
        first=first[number],
        prefix=np.where(start > 0, prefix[number], 0),
        start=first[number] + start,
        stop=first[number] + stop,
        fresh=first[number] + start,
    )


def every_chunk(
    tokens: Tokens,
    row: npt.ArrayLike,
    visible: npt.ArrayLike,
    context: int,
    example: npt.ArrayLike | None = None,
    *,
    stride: int | None = None,
) -> Windows:
    """Each record from its first token to its last, in as many windows as it takes, oldest first.

    The first is the record's head. Each further one lies behind the prefix and begins with the last
    token of the one before it, so that what forecasts the next token is asked of every token once,
    also of those behind a cut; neither that token nor the prefix is asked of again (`fresh`).

    Args:
        tokens: One split.
        row: [n] rows of `tokens`.
        visible: [n] how many of its tokens may be seen, counted from its first.
        context: Most tokens of a window, at least 2. At most half of them go to the prefix.
        example: [n] numbers of the windows; 0, 1, 2... where not given.
        stride: Most tokens that a further window is the first to show: the rest of it is filled with
            those before them, as context. None: as many as fit.

    Returns:
        [S >= n] record by record.

    Examples:
        >>> zeros = np.zeros(8)
        >>> t = Tokens(np.array([7]), np.array([0, 8]), np.array([1]), *[zeros] * 5)
        >>> w = every_chunk(t, [0], [8], context=4)
        >>> w.prefix.tolist(), w.start.tolist(), w.stop.tolist(), w.fresh.tolist()
        ([0, 1, 1], [0, 3, 5], [4, 6, 8], [0, 4, 6])
        >>> w = every_chunk(t, [0], [7], context=5, stride=1)
        >>> w.start.tolist(), w.stop.tolist(), w.fresh.tolist()
        ([0, 2, 3], [5, 6, 7], [0, 5, 6])
    """
    row, visible = np.atleast_1d(row), np.atleast_1d(visible)
    count = chunks(tokens, row, visible, context, stride=stride)
    number = np.repeat(np.arange(len(row)), count)
    place = np.arange(len(number)) - np.repeat(np.cumsum(count) - count, count)
    example = number if example is None else np.asarray(example, np.int64)[number]
    return chunk_at(tokens, row[number], visible[number], place, context, example, stride=stride)


def chunks(
    tokens: Tokens,
    row: npt.NDArray[np.integer],
    visible: npt.NDArray[np.integer],
    context: int,
    *,
    stride: int | None = None,
) -> Integers:
    """[n] how many windows `every_chunk` cuts each record into."""
    _, step = _strides(tokens, row, context, stride)
    return np.asarray(1 + -(-np.maximum(visible - context, 0) // step), np.int64)


def chunk_at(
    tokens: Tokens,
    row: npt.NDArray[np.integer],
    visible: npt.NDArray[np.integer],
    place: Integers,
    context: int,
    example: Integers,
    *,
    stride: int | None = None,
) -> Windows:
    """Some windows of `every_chunk`.

    Args:
        tokens: One split.
        row: [n] rows of `tokens`.
        visible: [n] how many of its tokens may be seen, counted from its first.
        place: [n] which window of the record, from 0.
        context: Most tokens of a window, at least 2.
        example: [n] numbers of the windows.
        stride: As there.
    """
    first, further = tokens.offsets[row], place > 0
    prefix, step = _strides(tokens, row, context, stride)
    fresh = np.where(further, context + (place - 1) * step, 0)
    stop = np.minimum(np.where(further, fresh + step, context), visible)
    start = fresh - 1 if stride is None else stop - (context - prefix)
    return Windows(
        example=example,
        first=first,
        prefix=np.where(further, prefix, 0),
        start=first + np.where(further, start, 0),
        stop=first + stop,
        fresh=first + fresh,
    )


def _strides(
    tokens: Tokens, row: npt.NDArray[np.integer], context: int, stride: int | None
) -> tuple[Integers, Integers]:
    """[n] prefix of the further windows of each record, and how many tokens each is the first to show."""
    prefix = np.minimum(tokens.prefix[row].astype(np.int64), min(context // 2, context - 2))
    step = context - 1 - prefix
    return prefix, step if stride is None else np.minimum(step, stride)


def _between_visits(
    visit: npt.NDArray[np.integer],
    first: Integers,
    visible: Integers,
    prefix: Integers,
    context: int,
) -> tuple[Integers, Integers, Integers]:
    """Which record each window is of, and where it starts and stops there: newest first.

    All records are cut at once, window by window, so that there is no work in Python for each.
    """
    open_, stop = np.arange(len(first)), visible
    none = np.zeros(0, np.int64)
    found = [(none, none, none)]
    while len(open_):
        least = np.where(stop > context, stop - (context - prefix[open_]), 0)
        start, within = least.copy(), np.flatnonzero(least)
        while len(within):  # up to where the next visit begins
            at = first[open_[within]] + start[within]
            within = within[visit[at] == visit[at - 1]]
            start[within] += 1
            within = within[start[within] < stop[within]]
        start = np.where(start < stop, start, least)
        found.append((open_, start, stop))
        open_, stop = open_[start > 0], start[start > 0]
    number, start, stop = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(number, kind="stable")
    return number[order], start[order], stop[order]


def fill(lengths: Integers, budget: int) -> list[int]:
    """Cut a row of windows into runs of at most `budget` tokens; a longer one goes alone.

    Returns:
        Where each run begins, and where the last ends.

    Examples:
        >>> fill(np.array([3, 3, 3, 5, 1]), budget=6)
        [0, 2, 3, 5]
    """
    total = np.concatenate([[0], np.cumsum(lengths)])
    bounds = [0]
    while bounds[-1] < len(lengths):
        end = int(np.searchsorted(total, total[bounds[-1]] + budget, side="right")) - 1
        bounds.append(max(end, bounds[-1] + 1))
    return bounds
