"""Events in memory to tokens: the same functions as the batch route, without files.

N subjects, T tokens, L tokens of the longest subject.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ehr_tokenize.config import TokenizeConfig
from ehr_tokenize.meds.dataset import Extra
from ehr_tokenize.meds.events import events_of
from ehr_tokenize.scheme.binding import Binding
from ehr_tokenize.scheme.intake import extra_columns
from ehr_tokenize.scheme.weave import Sequences, sequences
from ehr_tracking.arrow.meds import COLUMNS, fits
from ehr_tracking.contracts import EOS_ID, UNK_ID
from ehr_tracking.errors import UserError

_WHERE = Path("events")  # stands for a file in messages
_FIELDS = ("time", "code", "numeric_value", "text_value")


@dataclass(frozen=True, slots=True)
class Event:
    """Something recorded of a subject; only `code` is needed."""

    code: str
    value: float | str | None = None
    """A number or a text."""
    unit: str | None = None
    """Of a number."""
    time: datetime | None = None
    """None: always known, as sex is; such events come first."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Tokens of N subjects, in the order in which these were given."""

    flat: Sequences
    """One after the other, packed: `flat.offsets` says where each begins."""
    texts: Sequence[str]
    """Of the vocabulary: how each token is spelled."""

    @property
    def ids(self) -> list[list[int]]:
        """Of each subject, rows of the vocabulary."""
        cuts = self.flat.offsets.tolist()
        token = self.flat.token.tolist()
        return [token[a:b] for a, b in pairwise(cuts)]

    @property
    def strings(self) -> list[list[str]]:
        """Of each subject, tokens as the vocabulary spells them."""
        return [[self.texts[i] for i in ids] for ids in self.ids]

    def padded(self, *, end: bool = False, unknown: bool = True) -> dict[str, npt.NDArray[Any]]:
        """Arrays [N, L], 0 ([PAD]) behind the end of a subject, where `attention_mask` is False.

        `token`, `time` (microseconds), `visit` and, if the scheme has them, `segment` are int64;
        `age` is float32, in days. `torch.from_numpy` makes tensors of them without a copy.

        Args:
            end: Whether [EOS] comes last, at the time of the token before.
            unknown: Whether events that the vocabulary lacks are told as [UNK], or left out.
        """
        flat = self.flat
        kept = np.flatnonzero((flat.token != UNK_ID) | unknown)
        length = np.diff(np.searchsorted(kept, flat.offsets))
        mask = np.arange(length.max(initial=0) + end) < length[:, None] + end
        body = np.arange(mask.shape[1]) < length[:, None]
        out: dict[str, npt.NDArray[Any]] = {"attention_mask": mask}
        for name in ("token", "time", "age", "visit", "segment"):
            column = getattr(flat, name)
            if column is not None:
                dtype = np.float32 if name == "age" else np.int64
                array = out[name] = np.zeros(mask.shape, dtype)
                array[body] = column[kept]
                if end:
                    last = np.arange(len(length)), length
                    array[last] = EOS_ID if name == "token" else array[last[0], length - 1]
        return out


class Encoder:
    """Looks every code up once, and again only when an unseen code comes."""

    def __init__(
        self, config: TokenizeConfig, texts: Sequence[str], bind: Callable[[list[str]], Binding]
    ) -> None:
        """Get ready.

        Args:
            config: Of the fitted tokenizer.
            texts: How each of its tokens is spelled.
            bind: Looks a list of codes up.
        """
        self._config, self._texts, self._bind = config, texts, bind
        self._extra, self._unit = extra_columns(config), config.numeric.unit_column
        self._number: dict[str, int] = {}
        self._binding: Binding | None = None

    def __call__(self, events: object) -> Encoded:
        """See `Tokenizer.__call__`."""
        found, codes = events_of(self._table(events), _WHERE, self._extra)
        binding = self._bound(codes)
        numbers = np.array([self._number[c] for c in codes], np.uint32)
        numbered = replace(found, code=numbers[found.code])
        return Encoded(sequences(numbered, self._config, binding), self._texts)

    def _bound(self, codes: list[str]) -> Binding:
        before = len(self._number)
        for code in codes:
            self._number.setdefault(code, len(self._number))
        if self._binding is None or len(self._number) > before:
            self._binding = self._bind(list(self._number))
        return self._binding

    def _table(self, events: object) -> pa.Table:
        if hasattr(events, "to_arrow"):  # polars, which need not be installed to get here
            events = events.to_arrow()
        if isinstance(events, pa.Table):
            return _typed(events, self._extra)
        return _listed(events, self._extra, self._unit)


def _listed(events: object, extra: Extra, unit: str) -> pa.Table:
    if not isinstance(events, Sequence) or isinstance(events, str):
        raise UserError(
            f"{_WHERE} are a {type(events).__name__}; give a list of events, a list of such lists, "
            "or a polars or pyarrow table"
        )
    many = len(events) > 0 and all(isinstance(e, list) for e in events)
    subjects = events if many else [events]
    empty = next((i for i, s in enumerate(subjects) if not s), None)
    if empty is not None:
        raise UserError(f"{_WHERE}: subject {empty} has no event")
    names = [*_FIELDS, *(n for n in extra.columns if n not in _FIELDS)]
    columns: dict[str, Any] = {
        "subject_id": np.repeat(np.arange(len(subjects)), [len(s) for s in subjects]),
        **_columns([e for s in subjects for e in s], names, unit),
    }
    free = set(extra.ids)  # numbers or texts
    return pa.table({n: _array(n, column, typed=n not in free) for n, column in columns.items()})


def _columns(rows: list[object], names: list[str], unit: str) -> dict[str, Sequence[Any]]:
    tuples: list[tuple[Any, ...]] = [r for r in rows if type(r) is tuple]
    if len(tuples) == len(rows) and max(map(len, tuples)) <= len(_FIELDS):  # fast, and usual
        found = dict(zip(_FIELDS, zip_longest(*tuples), strict=False))
        return {n: found.get(n) or [None] * len(rows) for n in names}
    dicts = [_row(e, unit) for e in rows]
    return {n: [r.get(n) for r in dicts] for n in names}


def _row(event: object, unit: str) -> dict[str, Any]:
    if isinstance(event, dict):
        return event
    if isinstance(event, Event):
        value = "text_value" if isinstance(event.value, str) else "numeric_value"
        return {"time": event.time, "code": event.code, value: event.value, unit: event.unit}
    if not isinstance(event, tuple) or len(event) > len(_FIELDS):
        raise UserError(
            f"{_WHERE}: an event is a {type(event).__name__}; give an Event, a dict of columns or a tuple "
            f"({', '.join(_FIELDS)})"
        )
    return dict(zip(_FIELDS, event, strict=False))


def _array(name: str, column: Sequence[Any], *, typed: bool) -> pa.Array:
    try:
        return pa.array(column, COLUMNS.get(name, pa.string()) if typed else None)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as e:
        raise UserError(f"{_WHERE}: column {name}: {' '.join(str(e).split())}") from None


def _typed(table: pa.Table, extra: Extra) -> pa.Table:
    if "subject_id" not in table.column_names:
        table = table.append_column("subject_id", pa.array(np.zeros(len(table), np.int64)))
    for name in COLUMNS:
        if name in table.column_names:
            found = table.schema.field(name).type
            if not fits(name, found):
                raise UserError(f"{_WHERE}: column {name} is {found}, MEDS has {COLUMNS[name]}")
        elif name != "numeric_value":
            raise UserError(f"{_WHERE}: column {name} is missing")
    if not len(table):
        raise UserError(f"{_WHERE}: there is no row")
    wanted = dict.fromkeys([*COLUMNS, *extra.columns])
    return table.select([n for n in wanted if n in table.column_names])
