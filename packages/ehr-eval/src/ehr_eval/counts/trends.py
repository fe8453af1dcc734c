"""How the values of a code go: last, mean, slope and so on, on the scale of train.

P pairs of a row and a measure, W windows. Values are whole numbers of 2^-14 spreads from the median of train and times
whole minutes, so that sums over any stretch are differences of running sums, exactly.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ehr_eval.counts.config import CountsConfig
from ehr_eval.counts.measures import Measures
from ehr_eval.counts.past import Ints, Pairs, Past

Floats = npt.NDArray[np.float64]

UNIT = 1 << 14
"""Of a spread."""
_FARTHEST = 1 << 10
"""Spreads from the median: what lies farther out is taken for that."""
_MINUTE_US, _DAY_MINUTES = 60_000_000, 1440
OF_RECORD = ("last", "step")
"""Trends that have no window."""


def trend_names(measures: Measures, config: CountsConfig) -> list[str]:
    """Columns in the order of `Trends.of`.

    Examples:
        >>> one = Measures(["A"], None, {}, np.zeros(1), np.ones(1))
        >>> trend_names(one, CountsConfig(windows_days=(30,), trends=("last", "mean")))
        ['A|last', 'A|mean|30d', 'A|mean|any']
    """
    windows = [f"{days:g}d" for days in config.windows_days] + ["any"]
    ends = [
        f"{trend}{window}"
        for trend in config.trends
        for window in ([""] if trend in OF_RECORD else [f"|{window}" for window in windows])
    ]
    return [f"{name}|{end}" for name in measures.names for end in ends]


def in_units(values: npt.NDArray[np.float32], measure: Ints, measures: Measures) -> Ints:
    """Values as whole `UNIT`s of the spread of their measure, from its median."""
    far = (values.astype(np.float64) - measures.center[measure]) / measures.spread[measure]
    return np.rint(np.clip(far, -_FARTHEST, _FARTHEST) * UNIT).astype(np.int64)


class Trends:
    """The trends of a past whose items are measures and whose values are `in_units`."""

    def __init__(self, past: Past, config: CountsConfig) -> None:
        """Make the running sums that the trends take."""
        assert past.value is not None
        self.value, self.trends = past.value, config.trends
        self.minute = past.time // _MINUTE_US
        self._value = _running(self.value)
        if "slope" in self.trends:
            self._time, self._square = _running(self.minute), _running(self.minute**2)
            self._product = _running(self.minute * self.value)

    def of(self, pairs: Pairs) -> npt.NDArray[np.float32]:
        """[P, trends and windows] asinh of spreads (or spreads a day); 0 where there is none."""
        upto, whole = pairs.upto, pairs.since[-1]
        columns: list[Floats] = []
        for trend in self.trends:
            if trend in OF_RECORD:
                back = OF_RECORD.index(trend)
                columns.append(_where(upto - whole > back, getattr(self, f"_{trend}"), upto))
            else:
                how = getattr(self, f"_{trend}")
                columns += [_where(upto > since, how, since, upto) for since in pairs.since]
        return np.arcsinh(np.stack(columns, axis=1)).astype(np.float32)

    def _last(self, upto: Ints) -> Floats:
        return self.value[upto - 1] / UNIT

    def _step(self, upto: Ints) -> Floats:
        return (self.value[upto - 1] - self.value[upto - 2]) / UNIT

    def _mean(self, since: Ints, upto: Ints) -> Floats:
        return (self._value[upto] - self._value[since]) / (upto - since) / UNIT

    def _change(self, since: Ints, upto: Ints) -> Floats:
        return (self.value[upto - 1] - self.value[since]) / UNIT

    def _min(self, since: Ints, upto: Ints) -> Floats:
        return -_greatest(-self.value, since, upto) / UNIT

    def _max(self, since: Ints, upto: Ints) -> Floats:
        return _greatest(self.value, since, upto) / UNIT

    def _slope(self, since: Ints, upto: Ints) -> Floats:
        """A day, by least squares; 0 where all are of one minute.

        Running sums wrap around at 2^64; about the mean of the stretch they fit again.
        """
        n = upto - since
        time, value = self._time[upto] - self._time[since], self._value[upto] - self._value[since]
        middle = time // n
        rest = time - n * middle
        square = self._square[upto] - self._square[since] - 2 * middle * time + n * middle**2
        product = self._product[upto] - self._product[since] - middle * value
        spread = square - rest / n * rest
        together = product - rest / n * value
        moved = self.minute[upto - 1] > self.minute[since]
        found = np.zeros(len(n))
        np.divide(together * (_DAY_MINUTES / UNIT), spread, out=found, where=moved)
        return found


def _where(known: npt.NDArray[np.bool_], how: Callable[..., Floats], *where: Ints) -> Floats:
    found = np.zeros(len(known))
    found[known] = how(*(each[known] for each in where))
    return found


def _running(values: Ints) -> Ints:
    """[n + 1] sums of the first 0..n."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(values)])


def _greatest(values: Ints, since: Ints, upto: Ints) -> Ints:
    """The greatest of each stretch, from those of stretches as long as powers of two.

    Examples:
        >>> _greatest(np.array([3, 1, 4, 1, 5]), np.array([0, 1, 3]), np.array([5, 4, 4])).tolist()
        [5, 4, 1]
    """
    found = np.zeros(len(since), np.int64)
    power = np.frexp(upto - since)[1] - 1
    level, length = values, 1
    for p in range(int(power.max(initial=-1)) + 1):
        mine = np.flatnonzero(power == p)
        found[mine] = np.maximum(level[since[mine]], level[upto[mine] - length])
        level, length = np.maximum(level[: len(level) - length], level[length:]), 2 * length
    return found
