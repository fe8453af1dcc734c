"""What one row of a table says, as data: which event, when, with which value."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from string import Formatter
from typing import Literal

import polars as pl

from ehr_tokenize.sources.cells import Cells
from ehr_tracking.errors import UserError

UNKNOWN = "UNK"
CORE: dict[str, pl.DataType | type[pl.DataType]] = {
    "subject_id": pl.Int64,
    "time": pl.Datetime("us"),
    "rank": pl.Int8,
    "code": pl.String,
    "numeric_value": pl.Float32,
    "text_value": pl.String,
}
"""Columns of every frame of events; `rank` orders events of one time and is not written."""
Types = Mapping[str, type[pl.DataType]]
"""Extra column of the output -> String, Int64 or Float64."""
_READ: dict[type[pl.DataType], Callable[[Cells, str], pl.Series]] = {
    pl.String: Cells.text, pl.Int64: Cells.integer, pl.Float64: Cells.number,
}  # fmt: skip
START, INSIDE, BILLING, END = 1, 5, 7, 8
"""Ranks of events at one time: what opens a visit, what happens in it, what is billed for it, and
what closes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event that a row of a table may hold."""

    code: str
    """Template: `LAB//RESULT//{itemid}//{valueuom}`. A null part is written UNK, or as what stands
    after a bar: `{org_itemid|NONE}`."""
    time: tuple[str, ...] = ()
    """Columns; the first that is not null counts. None: a static event."""
    value: str | None = None
    """Column of the number."""
    lenient: bool = False
    """What is no number in `value` is left to the text."""
    text: str | None = None
    """Column of the text; written where there is no number, or always with `both`."""
    both: bool = False
    extra: Mapping[str, str] = field(default_factory=dict)
    """Extra column of the output -> column of the table."""
    needs: tuple[str, ...] = ()
    """Columns that must not be null."""
    optional: bool = False
    """Where a needed column or the time is null the row just does not hold this event; it is not
    counted as left out."""
    static: str | None = None
    """Column that flags static events among those with a time."""
    after: tuple[str, ...] = ()
    """Columns of when what it ends began; the first that is not null counts."""
    no_time: Literal["drop", "static", "error"] = "drop"
    """What becomes of an event whose time is null."""
    rank: int = INSIDE
    description: str | None = None
    """Template of what the row says of its code."""


@dataclass(slots=True)
class Tally:
    """What became of the rows of one table."""

    rows: int = 0
    events: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """Why an event was left out -> how often."""
    missing: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Column and text -> cells in which it stood for no value."""
    reversed: Counter[str] = field(default_factory=Counter)
    """Column of an end -> rows in which it lies before the beginning."""

    def line(self, table: str) -> str:
        """One line of a report."""
        why = "; ".join(f"{n:,} without {reason}" for reason, n in sorted(self.dropped.items()))
        texts = ", ".join(
            f"{n:,} {text} in {column}" for (column, text), n in sorted(self.missing.items())
        )
        return (
            f"{table}: {self.rows:,} rows, {self.events:,} events"
            + (f"; left out: {why}" if why else "")
            + "".join(
                f"; kept as they are: {n:,} with {column} before the beginning"
                for column, n in sorted(self.reversed.items())
            )
            + (f"; taken for no value: {texts}" if texts else "")
        )


def columns_of(events: Iterable[Event]) -> list[str]:
    """Every column that these events read, in a fixed order.

    Examples:
        >>> columns_of([Event(code="LAB//{item}", time=("at",), value="number")])
        ['item', 'at', 'number']
    """
    names: dict[str, None] = {}
    for event in events:
        texts = (event.code, event.description or "")
        parts = [name for text in texts for _, name, _ in template(text) if name]
        names |= dict.fromkeys(parts) | dict.fromkeys(event.time) | dict.fromkeys(event.needs)
        names |= dict.fromkeys(event.after)
        names |= dict.fromkeys(x for x in (event.value, event.text, event.static) if x)
        names |= dict.fromkeys(event.extra.values())
    return list(names)


@cache
def template(code: str) -> tuple[tuple[str, str | None, str], ...]:
    """The parts of a code template: (text before, column or None, what stands for null).

    Raises:
        UserError: If braces do not match.

    Examples:
        >>> template("LAB//{item}//{unit|NONE}")
        (('LAB//', 'item', 'UNK'), ('//', 'unit', 'NONE'))
    """
    try:
        parts = list(Formatter().parse(code))
    except ValueError as e:
        raise UserError(f"code template {code!r}: {e}") from None
    found = []
    for literal, name, spec, conversion in parts:
        if name == "" or spec or conversion:
            raise UserError(f"code template {code!r}: write {{column}} or {{column|text}}")
        column, bar, default = (name or "").partition("|")
        found.append((literal, column or None, default if bar else UNKNOWN))
    return tuple(found)


def make(
    event: Event, cells: Cells, subject: pl.Series, tally: Tally, types: Types
) -> pl.DataFrame:
    """The events of one kind in one piece.

    Args:
        event: What to read.
        cells: The piece. R rows.
        subject: [R] Int64, null where the row has none.
        tally: Is added to.
        types: Of the extra columns.

    Raises:
        UserError: For a cell that cannot be read.
    """
    rows = len(cells)
    static = cells.flag(event.static) if event.static else _all(rows, not event.time)
    value, text = _all(rows, None, pl.Float32), _all(rows, None, pl.String)
    if event.text:
        text = cells.text(event.text)
    if event.value:
        number = cells.number(event.value, lenient=event.lenient)
        value = number.cast(pl.Float32, strict=False)
        if not event.both:
            text = text.set(number.is_finite().fill_null(False), None)
    frame = pl.DataFrame(
        {
            "subject_id": subject,
            "time": _first(event.time, cells).set(static, None),
            "rank": _all(rows, event.rank, pl.Int8),
            "code": codes_of(event.code, cells),
            "numeric_value": value,
            "text_value": text,
            **{name: _READ[types[name]](cells, c) for name, c in event.extra.items()},
        }
    )
    if event.after:
        begun = _first(event.after, cells)
        if n := int((frame["time"] < begun).sum()):
            tally.reversed[" or ".join(event.time)] += n
    return _whole(event, cells, frame, static, tally)


def _all(rows: int, value: object, dtype: type[pl.DataType] | None = None) -> pl.Series:
    return pl.Series([value], dtype=dtype).new_from_index(0, rows)


def _first(columns: tuple[str, ...], cells: Cells) -> pl.Series:
    """[R] the first of some times that is not null."""
    time = _all(len(cells), None, pl.Datetime).cast(CORE["time"])
    for column in columns:
        if time.null_count():
            time = time.fill_null(cells.time(column))
    return time


def codes_of(code: str, cells: Cells) -> pl.Series:
    """[R] String: a code template filled in."""
    parts: list[pl.Expr] = []
    data: dict[str, pl.Series] = {}
    for i, (literal, column, default) in enumerate(template(code)):
        parts.append(pl.lit(literal))
        if column:
            data[str(i)] = cells.part(column).fill_null(default)
            parts.append(pl.col(str(i)))
    if not data:
        return _all(len(cells), code)
    return pl.DataFrame(data).select(pl.concat_str(parts)).to_series()


def add_descriptions(event: Event, cells: Cells, found: dict[str, str]) -> None:
    """Note what the rows of a piece say of their codes; the first in row order stays."""
    names = [name for _, name, _ in template(event.description or "") if name]
    if not names:
        return
    said = pl.any_horizontal(cells.text(name).is_not_null().alias(name) for name in names)
    columns = {
        "code": codes_of(event.code, cells),
        "text": codes_of(event.description or "", cells),
    }
    rows = pl.DataFrame(columns).filter(pl.select(said).to_series())
    for code, text in rows.unique("code", keep="first").iter_rows():
        found.setdefault(code, text)


def _whole(
    event: Event, cells: Cells, frame: pl.DataFrame, static: pl.Series, tally: Tally
) -> pl.DataFrame:
    """Only whole events; one that is not is counted by the first thing that it lacks."""
    lacks = [("subject_id", frame["subject_id"].is_null())]
    lacks += [(column, cells.text(column).is_null()) for column in event.needs]
    timeless = frame["time"].is_null() & ~static
    if event.no_time != "static":
        lacks.append((" or ".join(event.time), timeless))
    keep = _all(len(frame), True)
    for reason, lacking in lacks:
        n = int((lacking & keep).sum())
        if n and lacking is timeless and event.no_time == "error":
            row = cells.piece.row + int((lacking & keep).arg_max() or 0)
            raise UserError(f"{cells.piece.path} row {row}, column {reason}: there is no time")
        if n and (reason == "subject_id" or not event.optional):
            tally.dropped[reason] += n
        keep &= ~lacking
    kept = frame if keep.all() else frame.filter(keep)
    tally.events += len(kept)
    return kept
