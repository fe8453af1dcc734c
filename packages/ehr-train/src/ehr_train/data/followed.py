"""How long records go on, so that those which end early count for those which would have told more.

A query whose record ends before its horizon has no answer, unless the outcome came first. To drop those
rows alone would leave too many outcomes: one that comes soon is seen more often than one that stays out
for long. So an answer that took `t` to be known weighs 1 / G(t), where G is the share of records that are
followed for so long (Robins and Rotnitzky 1992); G is that of Kaplan and Meier, with the ends of records
for events. It is one curve for all: right where how long a record goes on does not depend on its past, and
closer than none elsewhere.

M moments, K times.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ehr_models.data.tokens import STATIC, Tokens

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
KNOTS = 64
_MOST = 2**22
"""Most tokens of which the curve is made; of more, evenly chosen records are taken."""


def follow_up(
    tokens: Tokens, subject: Integers, visible: Integers, ends: npt.NDArray[np.bool_]
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """For how long each moment of records is followed.

    Args:
        tokens: A split.
        subject: [E] rows of it.
        visible: [E] how many of its tokens count.
        ends: [V] tokens behind which nothing can come.

    Returns:
        [M] seconds from each moment to the last of its record, and [M] whether nothing comes behind that.
    """
    step = -(-int(visible.sum()) // _MOST)
    seconds, complete = [np.zeros(0)], [np.zeros(0, bool)]
    for row, length in zip(subject[::step], visible[::step], strict=True):
        time = tokens.time[tokens.offsets[row] : tokens.offsets[row] + length]
        moment = np.unique(time[time != STATIC])
        seconds.append((moment[-1:] - moment) / 1e6)
        last = tokens.token[tokens.offsets[row] + length - 1]
        complete.append(np.full(len(moment), bool(ends[last])))
    return np.concatenate(seconds), np.concatenate(complete)


def still_followed(seconds: Floats, complete: npt.NDArray[np.bool_], at: Floats) -> Floats:
    """[K] share of records that have not been lost before each time, by Kaplan and Meier.

    Args:
        seconds: [M] how long each is followed.
        complete: [M] whether it is told to its end: then it is not lost.
        at: [K] seconds.

    Examples:
        >>> lost = np.array([1.0, 2.0, 3.0, 4.0])
        >>> still_followed(lost, np.array([False, True, False, False]), np.array([1.0, 1.5, 3.5, 9.0]))
        array([1.   , 0.75 , 0.375, 0.   ])
    """
    order = np.argsort(seconds, kind="stable")
    at_risk = np.arange(len(seconds), 0, -1)
    kept = np.cumprod(np.where(complete[order], 1.0, 1 - 1 / np.maximum(at_risk, 1)))
    return np.append(1.0, kept)[np.searchsorted(seconds[order], at, side="left")]


def knots(longest: float) -> Floats:
    """[KNOTS] log-spaced seconds, from a minute, at which a curve is kept."""
    return np.geomspace(60.0, max(longest, 120.0), KNOTS)


def weights(curve: Sequence[float], longest: float, seconds: Floats, most: float) -> Floats:
    """What an answer weighs that took some time to be known.

    Args:
        curve: [KNOTS] of `still_followed` at `knots(longest)`.
        longest: Seconds.
        seconds: Any shape; between knots the curve is straight over the logarithm.
        most: Largest weight.

    Examples:
        >>> curve = np.linspace(1, 0, KNOTS)
        >>> weights(curve, 3600.0, np.array([0.0, 60 * 60**0.5, 3600.0]), 10.0).round(6)
        array([ 1.,  2., 10.])
    """
    log = np.log(np.maximum(seconds, 60.0))
    share = np.interp(log, np.log(knots(longest)), np.asarray(curve))
    return np.asarray(1 / np.maximum(share, 1 / most))
