"""The cells of a piece as times, integers, numbers and text; what does not fit is named by its place."""

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time
from functools import partial

import polars as pl

from ehr_tokenize.sources.config import Days
from ehr_tokenize.sources.tables import Piece
from ehr_tracking.errors import UserError

ISO = (
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%d",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%dT%H:%M:%S%.f%z",
    "%Y-%m-%d %H:%M:%S%.f%z",
)
LAST_SECOND = pl.duration(hours=23, minutes=59, seconds=59)
_TIME = pl.Datetime("us")
_TRUE, _FALSE = ("1", "true", "yes", "y", "t"), ("0", "false", "no", "n", "f")


@dataclass(frozen=True, slots=True)
class Cells:
    """Typed access to the columns of one piece. R rows."""

    piece: Piece
    days: Days = "end"
    formats: tuple[str, ...] = ISO
    day_columns: frozenset[str] = frozenset()
    """Columns that hold a day even where they show a time of day."""
    midnight_is_day: bool = False
    """Whether 00:00:00 means that only the day is known."""
    missing: tuple[str, ...] = ()
    """Texts that stand for no value."""
    blanks: bool = False
    """Whether blanks around a part of a code are kept."""
    found: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Column and text -> cells in which it stood for no value; is added to."""
    _times: dict[str, pl.Series] = field(default_factory=dict)
    _texts: dict[str, pl.Series] = field(default_factory=dict)

    def __len__(self) -> int:
        """Rows."""
        return len(self.piece.frame)

    def text(self, name: str) -> pl.Series:
        """[R] String, stripped, null where empty or one of `missing`."""
        if name not in self._texts:
            cells = self.piece.frame[name]
            if cells.dtype in (pl.Categorical, pl.Enum) or cells.dtype != pl.String:
                cells = cells.cast(pl.String)
            cells = cells.str.strip_chars()
            cells = cells.replace("", None) if (cells == "").any() else cells
            self._texts[name] = self._present(name, cells)
        return self._texts[name]

    def _present(self, name: str, cells: pl.Series) -> pl.Series:
        gone = cells.is_in(self.missing)
        if not gone.any():
            return cells
        for text, n in cells.filter(gone).value_counts().iter_rows():
            self.found[name, text] += n
        return cells.set(gone.fill_null(False), None)

    def part(self, name: str) -> pl.Series:
        """[R] String, a part of a code: as `text`, with the blanks around it where these are kept."""
        text = self.text(name)
        if not self.blanks:
            return text
        raw = self.piece.frame[name].cast(pl.String)
        return raw.set(text.is_null() & (raw.str.strip_chars() != ""), None).replace("", None)

    def on(self, piece: Piece) -> "Cells":
        """The same of a piece with further columns; no cell is counted again."""
        return replace(self, piece=piece)

    def integer(self, name: str) -> pl.Series:
        """[R] Int64.

        Raises:
            UserError: For a cell that is no whole number of 64 bits.
        """
        raw = self.piece.frame[name]
        if raw.dtype.is_integer() and raw.dtype != pl.UInt64:
            return raw.cast(pl.Int64)
        raw = self.text(name)
        whole = raw.cast(pl.Int64, strict=False)
        if whole.null_count() > raw.null_count():  # 17.0, as pandas writes a column with gaps
            whole = whole.fill_null(raw.str.replace(r"\.0+$", "").cast(pl.Int64, strict=False))
        self._refuse(name, raw, whole, "a whole number")
        return whole

    def number(self, name: str, *, lenient: bool = False) -> pl.Series:
        """[R] Float64; `lenient`: null where there is no number.

        Raises:
            UserError: For a cell that is no number.
        """
        raw = self.piece.frame[name]
        if raw.dtype.is_numeric():
            return raw.cast(pl.Float64)
        raw = self.text(name)
        number = raw.cast(pl.Float64, strict=False)
        if not lenient:
            self._refuse(name, raw, number, "a number")
        return number

    def flag(self, name: str) -> pl.Series:
        """[R] Boolean; null is false.

        Raises:
            UserError: For a cell that is none of 1, true, yes, y, t, 0, false, no, n, f.
        """
        raw = self.text(name)
        low = raw.str.to_lowercase()
        known = low.is_in([*_TRUE, *_FALSE]).replace(False, None)
        self._refuse(name, raw, known, "true or false")
        return low.is_in(_TRUE).fill_null(False)

    def time(self, name: str) -> pl.Series:
        """[R] Datetime[us] without zone (a zone is turned into UTC); null where there is none.

        Raises:
            UserError: For a cell that fits none of the formats, and for a year that MEDS lacks.
        """
        if name not in self._times:
            raw = self.piece.frame[name]
            raw = self.text(name) if raw.dtype == pl.String else raw
            time = self._from_text(name) if raw.dtype == pl.String else self._typed(name)
            years = time.dt.year().is_between(1, 9999) | time.is_null()
            self._refuse(name, raw, time.set(~years, None), "a time in the years 1 to 9999")
            if self.midnight_is_day:
                midnight = (time == time.dt.truncate("1d")).fill_null(False)
                time = time.zip_with(~midnight, self._place(time))
            self._times[name] = time
        return self._times[name]

    def _typed(self, name: str) -> pl.Series:
        raw = self.piece.frame[name]
        if raw.dtype == pl.Null:
            return raw.cast(_TIME)
        if raw.dtype == pl.Date:
            return self._place(raw.cast(_TIME))
        if isinstance(raw.dtype, pl.Datetime):
            if raw.dtype.time_zone is not None:
                raw = raw.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
            time = raw.cast(_TIME)
            return self._place(time) if name in self.day_columns else time
        raise UserError(f"{self.piece.path}: column {name} is {raw.dtype}, expected a time")

    def _from_text(self, name: str) -> pl.Series:
        raw = self.text(name)
        found = pl.Series(name, [None] * len(raw), dtype=_TIME)
        for pattern in self.formats:
            if found.null_count() == raw.null_count():
                break
            parsed = _parse(raw, pattern)
            if name in self.day_columns or ("%H" not in pattern and "%I" not in pattern):
                parsed = self._place(parsed)
            found = found.fill_null(parsed) if found.null_count() < len(found) else parsed
        self._refuse(name, raw, found, f"a time ({', '.join(self.formats[:2])} ...)")
        return found

    def _place(self, time: pl.Series) -> pl.Series:
        day = time.dt.truncate("1d")
        return (
            day
            if self.days == "start"
            else day.to_frame().select(pl.first() + LAST_SECOND).to_series()
        )

    def _refuse(self, name: str, raw: pl.Series, parsed: pl.Series, expected: str) -> None:
        if parsed.null_count() == raw.null_count():
            return
        bad = (raw.is_not_null() & parsed.is_null()).arg_max() or 0
        place = f"{self.piece.path} row {self.piece.row + bad}, column {name}"
        raise UserError(f"{place}: {raw[bad]!r} is not {expected}")


def at_day(day: date, days: Days) -> datetime:
    """When an event is put of which only the day is known.

    Examples:
        >>> at_day(date(2020, 1, 15), "end").isoformat()
        '2020-01-15T23:59:59'
    """
    return datetime.combine(day, time() if days == "start" else time(23, 59, 59))


def _parse(raw: pl.Series, pattern: str) -> pl.Series:
    convert = partial(raw.str.to_datetime, pattern, time_unit="us", strict=False, exact=True)
    if "%z" not in pattern:
        return convert()
    zoned = raw.str.replace(r"Z$", "+00:00")
    return zoned.str.to_datetime(
        pattern, time_unit="us", strict=False, exact=True, time_zone="UTC"
    ).dt.replace_time_zone(None)
