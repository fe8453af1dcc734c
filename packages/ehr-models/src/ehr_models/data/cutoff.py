"""What may be seen of a record at a prediction time: its tokens known by then, that time included.

n prediction times, N subjects, T tokens.
"""

import numpy as np
import numpy.typing as npt

from ehr_models.data.tokens import Tokens


def visible_tokens(
    tokens: Tokens, row: npt.NDArray[np.int64], time: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """How many tokens of its subject are known at each prediction time.

    The tokens of a record are in order of time, so those known are a prefix of it; static tokens
    (`STATIC`) are always known. This is `searchsorted(..., side="right")` in each subject's own
    stretch of the flat array, for all prediction times at once.

    Args:
        tokens: One split.
        row: [n] rows of `tokens`.
        time: [n] prediction times, microseconds since 1970.

    Returns:
        [n] counts, 0 where nothing is known yet.

    Examples:
        >>> from ehr_models.data.tokens import STATIC
        >>> time = np.array([STATIC, 10, 10, 20, 5], np.int64)
        >>> zeros = np.zeros(5)
        >>> tokens = Tokens(np.array([7, 8]), np.array([0, 4, 5]), zeros, zeros, time, *[zeros] * 3)
        >>> visible_tokens(tokens, np.array([0, 0, 0, 1]), np.array([9, 10, 99, 4])).tolist()
        [1, 3, 4, 0]
    """
    first = tokens.offsets[row]
    low, high = first.copy(), tokens.offsets[row + 1].copy()
    while (open_ := low < high).any():
        middle = (low + high) // 2
        known = open_.copy()
        known[open_] = tokens.time[middle[open_]] <= time[open_]
        low = np.where(known, middle + 1, low)
        high = np.where(open_ & ~known, middle, high)
    return low - first
