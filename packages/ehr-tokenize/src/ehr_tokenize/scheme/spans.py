"""Time tokens: what they are called, and which one tells a length of time."""

import itertools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_LONG = 180 * _DAY
_MOST = 400
"""Repeats of the longest interval: two centuries. What is longer is told as that."""


class Span(NamedTuple):
    """A time token."""

    text: str
    lower: int
    """Seconds, inclusive."""
    upper: int | None
    """Seconds, exclusive; None for no bound."""
    meaning: str


def _intervals() -> tuple[Span, ...]:
    edges = [
        *((m * _MINUTE, f"{m}m", f"{m} minutes") for m in (5, 15, 45, 75)),
        *((h * _HOUR, f"{h}h", f"{h} hours") for h in (2, 3, 5, 8, 12, 18)),
        *((d * _DAY, f"{d}d", f"{d} day{'s' * (d > 1)}") for d in (1, 2, 4, 7, 12, 20, 30)),
        (60 * _DAY, "2mo", "2 months"),
        (_LONG, "6mo", "6 months"),
    ]
    spans = [
        Span(f"TIME//{a[1]}-{b[1]}", a[0], b[0], f"{a[2]} to {b[2]} later")
        for a, b in itertools.pairwise(edges)
    ]
    return *spans, Span("TIME//6mo", _LONG, None, "6 months later")


def _calendar() -> tuple[Span, ...]:
    days = [Span(f"TIME//D{d}", d * _DAY, (d + 1) * _DAY, _later(d, "day")) for d in range(7)]
    weeks = [
        Span(f"TIME//W{w}", 7 * w * _DAY, 7 * (w + 1) * _DAY, _later(w, "week")) for w in (1, 2, 3)
    ]
    starts = [28, *range(60, 361, 30), 365]
    months = [
        Span(f"TIME//M{m}", a * _DAY, b * _DAY, _later(m, "month"))
        for m, (a, b) in enumerate(itertools.pairwise(starts), 1)
    ]
    return *days, *weeks, *months, Span("TIME//LT", 365 * _DAY, None, "a year or more later")


def _later(n: int, unit: str) -> str:
    return f"{n} {unit}{'s' * (n != 1)} later" if n else "later the same day"


INTERVALS = _intervals()
"""ETHOS: nothing under 5 minutes; 6 months are repeated (Renc et al. 2024)."""
CALENDAR = _calendar()
"""CEHR-BERT: days up to a week, weeks up to 28 days, months up to a year (Pang et al. 2021)."""


def interval_tokens(
    span: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Which lengths of time get interval tokens, and which.

    Args:
        span: Microseconds each.

    Returns:
        Which of `span`, ascending, one entry a token; which of `INTERVALS`; seconds that it tells.

    Examples:
        >>> which, token, seconds = interval_tokens(np.array([240, 300, 400 * 86400]) * 1_000_000)
        >>> which, [INTERVALS[i].text for i in token], seconds // 86400
        (array([1, 2, 2]), ['TIME//5m-15m', 'TIME//6mo', 'TIME//6mo'], array([  0, 200, 200]))
    """
    seconds = span // 1_000_000
    token = _find(INTERVALS, seconds)
    times = np.where(token < 0, 0, 1)
    long = token == len(INTERVALS) - 1
    times[long] = np.clip(np.rint(seconds[long] / _LONG), 1, _MOST).astype(np.int64)
    which = np.repeat(np.arange(len(span)), times)
    return which, token[which], seconds[which] // times[which]


def calendar_tokens(span: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Which of `CALENDAR` tells each length of time; less than a day is D0.

    Examples:
        >>> [CALENDAR[i].text for i in calendar_tokens(np.array([0, 6.9, 7, 29, 364, 4000]) * 864e8)]
        ['TIME//D0', 'TIME//D6', 'TIME//W1', 'TIME//M1', 'TIME//M12', 'TIME//LT']
    """
    return np.maximum(_find(CALENDAR, span // 1_000_000), 0)


def usual_seconds(span: Span) -> float:
    """A length of time for a token that train does not have: the geometric middle.

    Examples:
        >>> usual_seconds(INTERVALS[-1]) / 86400, round(usual_seconds(INTERVALS[10]) / 86400, 2)
        (180.0, 1.41)
    """
    if span.upper is None:
        return float(span.lower)
    return float(np.sqrt(max(span.lower, 1) * span.upper)) if span.lower else span.upper / 2


def _find(spans: tuple[Span, ...], seconds: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    lower = np.array([s.lower for s in spans])
    return np.searchsorted(lower, seconds, side="right") - 1
