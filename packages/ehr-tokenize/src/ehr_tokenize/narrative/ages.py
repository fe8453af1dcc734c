"""How an age is said: in years, or by its decile among the subjects of train."""

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ehr_tracking.arrow.parquet import DAY_US

_YEAR_US = 365.25 * DAY_US
_DECILES = 10


def age_edges(birth: npt.NDArray[np.int64], at: npt.NDArray[np.int64]) -> tuple[float, ...]:
    """Nine inner edges of the deciles of age, in years of 365.25 days, rounded to three places.

    Edge k is the age of rank floor(k * N / 10) among the N ages in order, as of the bins of values:
    the lowest age of decile k + 1.

    Args:
        birth: [N] microseconds since 1970; at least one.
        at: [N] when the age counts.

    Examples:
        >>> year = int(365.25 * DAY_US)
        >>> age_edges(np.zeros(20, np.int64), np.arange(20) * year)
        (2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 18.0)
    """
    years = np.sort((at - birth) / _YEAR_US)
    rank = np.arange(1, _DECILES) * len(years) // _DECILES
    return tuple(round(float(x), 3) for x in years[rank])


def age_decile(birth: int, at: int, edges: Sequence[float]) -> int:
    """Number of the decile, from 1.

    Examples:
        >>> year = int(365.25 * DAY_US)
        >>> [age_decile(0, n * year, (2, 4, 6, 8, 10, 12, 14, 16, 18)) for n in (1, 2, 9, 99)]
        [1, 2, 5, 10]
    """
    return 1 + bisect_right(edges, round((at - birth) / _YEAR_US, 3))


def age_years(birth: int, at: int) -> int:
    """Birthdays between two times.

    Examples:
        >>> day = lambda text: int(np.datetime64(text, "us").astype(np.int64))
        >>> age_years(day("1980-03-01"), day("2020-02-29")), age_years(day("1980-02-29"), day("2020-02-29"))
        (39, 40)
    """
    (year, month, day), (year_at, month_at, day_at) = _civil(birth // DAY_US), _civil(at // DAY_US)
    return year_at - year - ((month_at, day_at) < (month, day))


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
