"""What records are like at some prediction times: repetition, irregularity, length.

E events of a file, those of a subject contiguous and in order; n rows.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from ehr_eval.frames import KEY

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
GRAMS = (1, 2, 3, 4)
MEASURES = {
    "rr": "repetition: geometric mean of RR_1 to RR_4",
    **{f"rr_{n}": f"repetition: share of distinct {n}-grams of codes that recur" for n in GRAMS},
    "irregularity_std": "irregularity: standard deviation of the seconds between events",
    "irregularity_mean": "irregularity: mean of the seconds between events",
    "irregularity_iqr": "irregularity: interquartile range of the seconds between events",
    "events": "length: events known at the prediction time",
    "tokens": "length: tokens known at the prediction time",
}
"""Name of each measure -> what it says."""


def measure_rows(events: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """All measures of rows of one file but `tokens`.

    Args:
        events: subject_id, time (when known; null for what always is), code; of a subject contiguous,
            static ones first, then by time.
        rows: [n] subject_id, prediction_time.

    Returns:
        [n] the key and a column a measure; NaN where it is not defined: repetition without an n-gram,
        irregularity of less than two dated events.
    """
    subject = events["subject_id"].to_numpy()
    code = _numbered(events["code"])
    never = np.iinfo(np.int64).min
    time = events["time"].dt.epoch("us").fill_null(never).to_numpy()
    first, stop = _bounds(subject, time, rows)
    found = repetition(subject, code, first, stop)
    gaps = [_gaps(time[a:b][time[a:b] != never]) for a, b in zip(first, stop, strict=True)]
    found |= dict(zip(_IRREGULARITY, np.array([irregularity(g) for g in gaps]).T, strict=True))
    found["events"] = (stop - first).astype(np.float64)
    return rows.select(KEY).with_columns(pl.Series(n, v) for n, v in found.items())


def _numbered(code: pl.Series) -> Integers:
    """[E] a number for each distinct code, from 0."""
    coded = code.to_arrow().dictionary_encode()
    return np.asarray(coded.indices.to_numpy(), np.int64)


def _bounds(subject: Integers, time: Integers, rows: pl.DataFrame) -> tuple[Integers, Integers]:
    """[n] where each row's record begins, and where what is known of it ends."""
    names, begin = np.unique(subject, return_index=True)
    ends = np.append(np.sort(begin), len(subject))
    of = begin[np.searchsorted(names, rows["subject_id"].to_numpy())]
    end = ends[np.searchsorted(ends, of, side="right")]
    at = rows["prediction_time"].dt.epoch("us").to_numpy()
    known = [
        a + np.searchsorted(time[a:b], t, "right") for a, b, t in zip(of, end, at, strict=True)
    ]
    return of, np.array(known, np.int64)


def repetition(
    subject: Integers, code: Integers, first: Integers, stop: Integers
) -> dict[str, Floats]:
    """RR_n: of the distinct n-grams of codes of a record, the share that occurs more than once.

    Args:
        subject: [E] of each event.
        code: [E] number of each code.
        first: [n] where each row's record begins.
        stop: [n] where what is known of it ends.

    Returns:
        `rr_1` to `rr_4` [n], and `rr`, their geometric mean; NaN where a record has no n-gram.

    Source:
        Wornow et al., Context clues, ICLR 2025.

    Examples:
        >>> code = np.array([1, 2, 1, 2, 3])
        >>> rr = repetition(np.zeros(5, int), code, np.zeros(2, int), np.array([5, 3]))
        >>> {n: v.round(3).tolist() for n, v in rr.items()}  # 1, 2 of 1, 2, 3; 12 of 12, 21, 23
        {'rr_1': [0.667, 0.5], 'rr_2': [0.333, 0.0], 'rr_3': [0.0, 0.0], 'rr_4': [0.0, nan], 'rr': [0.0, nan]}
    """
    found, gram = {}, code
    for n in GRAMS:
        if n > 1:  # that which begins one earlier, and its last code
            gram = np.unique(
                gram[:-1] * (code.max(initial=0) + 1) + code[n - 1 :], return_inverse=True
            )[1]
        whole = np.flatnonzero(subject[n - 1 :] == subject[: max(len(subject) - n + 1, 0)])
        order = whole[np.lexsort((whole, gram[whole], subject[whole]))]
        same = (np.diff(gram[order]) == 0) & (np.diff(subject[order]) == 0)
        again = np.r_[np.zeros(min(len(order), 1), bool), same]
        second = again & ~np.r_[np.zeros(min(len(order), 1), bool), again[:-1]]
        distinct, recurring = (np.zeros(len(code) + 1, np.int64) for _ in range(2))
        # an n-gram is there with its last event
        distinct[order[~again] + n] = 1
        recurring[order[second] + n] = 1
        total, twice = np.cumsum(distinct), np.cumsum(recurring)
        with np.errstate(invalid="ignore"):
            found[f"rr_{n}"] = (twice[stop] - twice[first]) / (total[stop] - total[first])
    with np.errstate(divide="ignore"):
        each = np.log(np.stack(list(found.values())))
    return {**found, "rr": np.exp(each.mean(0))}


_IRREGULARITY = ("irregularity_std", "irregularity_mean", "irregularity_iqr")


def irregularity(seconds: Floats) -> tuple[float, float, float]:
    """Population standard deviation, mean and interquartile range of the gaps between events.

    Examples:
        >>> irregularity(np.array([0.0, 60.0, 0.0, 60.0]))
        (30.0, 30.0, 60.0)
        >>> irregularity(np.array([]))
        (nan, nan, nan)
    """
    if not len(seconds):
        return (np.nan, np.nan, np.nan)
    low, high = np.percentile(seconds, [25, 75])
    return float(seconds.std()), float(seconds.mean()), float(high - low)


def _gaps(time: Integers) -> Floats:
    return np.asarray(np.diff(time) / 1e6)


def quartiles(value: Sequence[float] | Floats) -> npt.NDArray[np.int64]:
    """The quartile of each row, 1 to 4, by rank; equal values stay in their order.

    The bounds are those of `pandas.qcut` on the ranks.

    Args:
        value: [n] at least 4 numbers.

    Examples:
        >>> quartiles([5.0, 1.0, 9.0, 7.0, 7.0]).tolist()
        [1, 1, 4, 2, 3]
    """
    rank = np.empty(len(value), np.int64)
    rank[np.argsort(value, kind="stable")] = np.arange(len(value))
    return np.maximum(1, -(-4 * rank // (len(value) - 1)))
