"""What is known of a subject at a prediction time -> one text. Pure functions; nothing is read here.

Times are microseconds since 1970. T events of one subject.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ehr_tokenize.narrative.config import NarrateConfig
from ehr_tracking.arrow.parquet import DAY_US

Measure = Callable[[str], int]


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One subject, whole; what may be told of it depends on the prediction time."""

    birth: int | None
    """Time of the first birth that has one."""
    statics: Sequence[str]
    """Texts of the events without a time."""
    demographics: Sequence[tuple[int, str, str]]
    """Time, kind and text of the events with a time that are told first; in order of time."""
    time: npt.NDArray[np.int64]
    """[T] of the other events, never decreasing."""
    text: Sequence[str]
    """[T] their texts, value and unit included."""


@dataclass(frozen=True, slots=True)
class Narrative:
    """One text."""

    text: str
    events: int
    """Events that are told, demographics apart."""
    truncated: int
    """Visible events that were left out, the oldest, to stay within the limit."""


def cutoff(prediction_time: int, gap_days: float) -> int:
    """The last microsecond whose events may be told.

    The gap is the closed interval from (prediction time - gap) to the prediction time, and nothing
    in it is told. With no gap there is no interval, and MEDS says that the prediction time itself
    is visible.

    Examples:
        >>> cutoff(5 * DAY_US, 0) == 5 * DAY_US
        True
        >>> cutoff(5 * DAY_US, 2) == 3 * DAY_US - 1
        True
    """
    return prediction_time - round(gap_days * DAY_US) - 1 if gap_days else prediction_time


def narrate_record(record: Record, prediction_time: int, config: NarrateConfig) -> Narrative:
    """Tell what is known of a subject at a prediction time.

    Args:
        record: All of the subject; what comes after the cut-off changes nothing.
        prediction_time: Microseconds since 1970.
        config: How.

    Examples:
        >>> record = Record(
        ...     birth=-40 * 366 * DAY_US,
        ...     statics=["female"],
        ...     demographics=[],
        ...     time=np.array([DAY_US, 3 * DAY_US]),
        ...     text=["Essential hypertension", "Glucose 5.4 mmol/L"],
        ... )
        >>> narrate_record(record, 2 * DAY_US, NarrateConfig(dates="relative")).text
        'age 40 years, female, 1 day before: Essential hypertension'
    """
    last = cutoff(prediction_time, config.gap_days)
    visible = int(np.searchsorted(record.time, last, side="right"))
    about = _about(record, last, prediction_time)
    heads = _Heads(record.time, prediction_time, config.dates)
    start = max(
        _fit(about, record.text[:visible], heads, config.separator, limit, measure)
        for limit, measure in ((config.max_words, _words), (config.max_characters, len))
    )
    told = list(record.text[start:visible])
    for i in heads.openings(start, visible):
        told[i - start] = heads[i] + told[i - start]
    return Narrative(config.separator.join([*about, *told]), len(told), start)


def age_years(birth: int, at: int) -> int:
    """Birthdays between two times.

    Examples:
        >>> day = lambda text: int(np.datetime64(text, "us").astype(np.int64))
        >>> age_years(day("1980-03-01"), day("2020-02-29")), age_years(day("1980-02-29"), day("2020-02-29"))
        (39, 40)
    """
    (year, month, day), (year_at, month_at, day_at) = _civil(birth // DAY_US), _civil(at // DAY_US)
    return year_at - year - ((month_at, day_at) < (month, day))


def say_value(value: float) -> str:
    """The shortest text that gives the same 32-bit number.

    Examples:
        >>> [say_value(x) for x in (5.4, 140.0, 0.0, -0.5, 1e-7, 3e9, 1.5e30, float("inf"))]
        ['5.4', '140', '0', '-0.5', '1e-07', '3000000000', '1.5e+30', 'inf']
    """
    number = np.float32(value)
    if not np.isfinite(number):
        return str(number)
    if number == 0:
        return "0"
    if 1e-4 <= abs(number) < 1e16:
        return np.format_float_positional(number, trim="-")
    return np.format_float_scientific(number, trim="-")


def say_bin(edges: npt.NDArray[np.float32], value: float) -> str:
    """Bounds of the bin that holds a value: the lower inclusive, the upper exclusive.

    Args:
        edges: Inner ones, ascending; at least one.
        value: Any number.

    Examples:
        >>> [say_bin(np.array([3.5, 5], np.float32), x) for x in (0.0, 3.5, 9.0)]
        ['below 3.5', '3.5 to 5', 'at least 5']
    """
    i = int(np.searchsorted(edges, np.float32(value), side="right"))
    if i == 0:
        return f"below {say_value(edges[0])}"
    if i == len(edges):
        return f"at least {say_value(edges[-1])}"
    return f"{say_value(edges[i - 1])} to {say_value(edges[i])}"


def _about(record: Record, last: int, prediction_time: int) -> list[str]:
    """Age, then static events, then the last known one of each kind that has a time."""
    about = []
    if record.birth is not None and record.birth <= last:
        years = age_years(record.birth, prediction_time)
        about.append(f"age {years} year{'s' * (years != 1)}")
    known = {kind: text for time, kind, text in record.demographics if time <= last}
    return list(dict.fromkeys([*about, *record.statics, *known.values()]))


class _Heads:
    """What stands before an event that is the first of its day."""

    def __init__(self, time: npt.NDArray[np.int64], prediction_time: int, dates: str) -> None:
        self.dates, self.today = dates, prediction_time // DAY_US
        self.day = time // DAY_US if dates != "none" else np.zeros(len(time), np.int64)

    def __getitem__(self, i: int) -> str:
        day = int(self.day[i])
        if self.dates == "none":
            return ""
        if self.dates == "absolute":
            return f"{np.datetime64(day, 'D')}: "
        n = self.today - day
        return f"{n} day{'s' * (n != 1)} before: " if n else "same day: "

    def opens(self, i: int) -> bool:
        """Whether the event after i is of another day."""
        return bool(self.day[i] != self.day[i + 1])

    def openings(self, start: int, stop: int) -> list[int]:
        """The events from `start` to `stop` that are the first of their day."""
        if self.dates == "none" or start == stop:
            return []
        changes = np.flatnonzero(np.diff(self.day[start:stop])) + start + 1
        return [start, *changes.tolist()]


def _fit(
    about: Sequence[str],
    texts: Sequence[str],
    heads: _Heads,
    separator: str,
    limit: int | None,
    measure: Measure,
) -> int:
    """The oldest event that still fits: events from there to the newest stay."""
    if limit is None:
        return 0
    # a separator without white space joins two words to one, so it can count for less than none
    between = measure(f"x{separator}x") - 2 * measure("x")
    left = limit - measure(separator.join(about)) + (0 if about else between)
    for i in range(len(texts) - 1, -1, -1):
        opens = i == len(texts) - 1 or heads.opens(i)
        left -= between + measure(heads[i] + texts[i] if opens else texts[i])
        if left < 0:
            return i + 1
    return 0


def _words(text: str) -> int:
    return len(text.split())


@lru_cache(maxsize=1 << 16)
def _civil(days: int) -> tuple[int, int, int]:
    """Year, month and day of a day since 1970, the latter two counted from 0."""
    day = np.datetime64(days, "D")
    month, year = day.astype("M8[M]"), day.astype("M8[Y]")
    return (
        int(year.astype(np.int64)) + 1970,
        int((month - year.astype("M8[M]")).astype(np.int64)),
        int((day - month.astype("M8[D]")).astype(np.int64)),
    )
