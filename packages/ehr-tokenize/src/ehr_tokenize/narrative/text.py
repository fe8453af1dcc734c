"""What is known of a subject at a prediction time -> one text. Pure functions; nothing is read here.

Times are microseconds since 1970. T events of one subject.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ehr_tokenize.narrative.ages import age_decile, age_years
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


def cutoff(prediction_time: int, gap_days: float, gap_months: int = 0) -> int:
    """The last microsecond whose events may be told.

    The gap is the closed interval from (prediction time - gap) to the prediction time, and nothing
    in it is told. Months are those of the calendar; a day that a month lacks is its last. With no gap
    there is no interval, and MEDS says that the prediction time itself is visible.

    Examples:
        >>> cutoff(5 * DAY_US, 0) == 5 * DAY_US
        True
        >>> cutoff(5 * DAY_US, 2) == 3 * DAY_US - 1
        True
        >>> march = int(np.datetime64("2021-03-31T12:00", "us").astype(np.int64))
        >>> str(np.datetime64(cutoff(march, 0, gap_months=1), "us"))
        '2021-02-28T11:59:59.999999'
    """
    if not gap_days and not gap_months:
        return prediction_time
    begins = _months_before(prediction_time, gap_months) if gap_months else prediction_time
    return begins - round(gap_days * DAY_US) - 1


def _months_before(time: int, months: int) -> int:
    day, within = divmod(time, DAY_US)
    date = np.datetime64(day, "D")
    month = date.astype("M8[M]")
    target = month - months
    last = (target + 1).astype("M8[D]") - 1
    moved = min(target.astype("M8[D]") + (date - month.astype("M8[D]")), last)
    return int(moved.astype(np.int64)) * DAY_US + within


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
    last = cutoff(prediction_time, config.gap_days, config.gap_months)
    visible = int(np.searchsorted(record.time, last, side="right"))
    return tell(record, visible, prediction_time, config, last=last)


def tell(
    record: Record,
    visible: int,
    prediction_time: int,
    config: NarrateConfig,
    *,
    last: int | None = None,
    whole: bool = False,
) -> Narrative:
    """Tell the newest of the first events that fit.

    Args:
        record: All of the subject.
        visible: How many events may be told, from the oldest on.
        prediction_time: Microseconds since 1970: what age and relative dates refer to.
        config: How.
        last: The last microsecond of which demographics are known; the prediction time where None.
        whole: Tell one event even if it alone exceeds the limit.
    """
    about = _about(record, prediction_time if last is None else last, prediction_time, config)
    heads = _Heads(record.time, prediction_time, config.dates)
    start = max(
        _fit(about, record.text, visible, heads, config.separator, limit, measure)
        for limit, measure in ((config.max_words, _words), (config.max_characters, len))
    )
    if whole and visible:
        start = min(start, visible - 1)
    told = list(record.text[start:visible])
    for i in heads.openings(start, visible):
        told[i - start] = heads[i] + told[i - start]
    return Narrative(config.separator.join([*about, *told]), len(told), start)


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


def say_bin(edges: npt.NDArray[np.float32], value: float, *, number: bool = False) -> str:
    """Bounds of the bin that holds a value: the lower inclusive, the upper exclusive.

    Args:
        edges: Inner ones, ascending; at least one.
        value: Any number.
        number: The number of the bin instead, from 1.

    Examples:
        >>> [say_bin(np.array([3.5, 5], np.float32), x) for x in (0.0, 3.5, 9.0)]
        ['below 3.5', '3.5 to 5', 'at least 5']
        >>> say_bin(np.array([3.5, 5], np.float32), 4.0, number=True)
        '2'
    """
    i = int(np.searchsorted(edges, np.float32(value), side="right"))
    if number:
        return str(i + 1)
    if i == 0:
        return f"below {say_value(edges[0])}"
    if i == len(edges):
        return f"at least {say_value(edges[-1])}"
    return f"{say_value(edges[i - 1])} to {say_value(edges[i])}"


def _about(record: Record, last: int, prediction_time: int, config: NarrateConfig) -> list[str]:
    """Age, then static events, then the last known one of each kind that has a time."""
    about = []
    if record.birth is not None and record.birth <= last:
        about.append(_say_age(record.birth, prediction_time, config))
    known = {kind: text for time, kind, text in record.demographics if time <= last}
    return list(dict.fromkeys([*about, *record.statics, *known.values()]))


def _say_age(birth: int, at: int, config: NarrateConfig) -> str:
    if config.age == "decile" and config.age_edges is not None:
        return f"AGE_decile {age_decile(birth, at, config.age_edges)}"
    years = age_years(birth, at)
    return f"age {years} year{'s' * (years != 1)}"


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
    visible: int,
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
    for i in range(visible - 1, -1, -1):
        opens = i == visible - 1 or heads.opens(i)
        left -= between + measure(heads[i] + texts[i] if opens else texts[i])
        if left < 0:
            return i + 1
    return 0


def _words(text: str) -> int:
    return len(text.split())
