"""When subjects are in hospital and seen between, and what happens in each stay.

Shapes: `N` subjects, `S` stays by subject and time. Minutes since 1970 unless it is said otherwise.
"""

from dataclasses import dataclass

import numpy as np

from ehr_tokenize.synthetic.rows import DAY, HOUR, Floats, Ints
from ehr_tokenize.synthetic.sequence.config import SequenceConfig
from ehr_tokenize.synthetic.sequence.rules import LONGEST_DAYS, Past

FIRST_ENTRY = int(np.datetime64("2008-01-01", "m").astype(np.int64))
ENTRY_DAYS = 5 * 365
"""Days after `FIRST_ENTRY` on which records begin."""
GAP_LEAST, GAP_MOST = LONGEST_DAYS + 5, 420
"""Days from one stay to the next, so that no window reaches into the next stay."""
GAP_MEDIAN, GAP_SD = 45.0, 0.9
"""Of the part beyond `GAP_LEAST`, log-normal."""
FLARE_FROM = 32
"""Days before a stay at which a flare is coded the latest: beyond a month, as most are in a year."""
FLARES, OTHERS = 0.8, 0.5
"""Probability of a visit with a flare, and of one without, between two stays."""
NOTED = 10
"""Minutes after the start of a visit at which what it is for is coded."""
LENGTH = (10 * HOUR, 22 * HOUR)
"""Least and most minutes of a stay: all of it lies in one day."""
MARGIN = 5
"""Minutes that nothing happens in after admission and before discharge."""
IN_TIME, EARLY = 0.6, 0.2
"""Probability of a treatment in time, and of one before its finding; else it comes late."""
FRESHEST = 15
"""Least minutes from the last dose to discharge."""
FALLS = 0.25
"""Probability that the value falls; else it rises."""
SPEED, SPEED_SD = 0.4, 0.35
"""Median and log deviation of the speed, g/dL an hour."""
MIDDLE, MIDDLE_SD, NOISE = 11.0, 1.2, 0.1
"""Of the level about which it moves, g/dL."""
MOST_DOSES, MOST_LEVELS = 3, 5


@dataclass(frozen=True, slots=True)
class Course:
    """Everything that raises or lowers a risk, with its times."""

    entry: Ints
    """[N], the minute at which the record begins."""
    subject: Ints
    """[S], row of the subject; likewise below."""
    number: Ints
    """[S], 0 for the first stay of a subject."""
    start: Ints
    end: Ints
    gap: Ints
    """Minutes from the stay before, or from entry, to its start."""
    following: Ints
    """Minutes from its end to the next stay, or to the end of the record."""
    flare: Ints
    """The visit with a flare in the gap before; -1: none."""
    other: Ints
    """The visit without one; -1: none."""
    ordered: Ints
    """[S, 3], when each of `ORDERED` was given."""
    doses: Ints
    """[S, MOST_DOSES], the last one first; -1: none."""
    levels: Ints
    """[S, MOST_LEVELS], when the value was measured, the last one first; -1: not."""
    values: Floats
    """[S, MOST_LEVELS], as they are written."""
    finding: Ints
    treatment: Ints


def draw_course(rng: np.random.Generator, n: int, config: SequenceConfig) -> Course:
    """Draw the course of some subjects, as if none of them died.

    Args:
        rng: Source of all randomness.
        n: Subjects.
        config: How many stays, and `response_hours`.
    """
    entry = FIRST_ENTRY + rng.integers(0, ENTRY_DAYS * DAY, size=n)
    count = rng.integers(config.stays[0], config.stays[1] + 1, size=n)
    subject = np.repeat(np.arange(n), count)
    first = np.cumsum(count) - count
    number = np.arange(len(subject)) - first[subject]
    length = rng.integers(*LENGTH, size=len(subject))
    gap, closing = _gaps(rng, len(subject)), _gaps(rng, n)
    passed = np.cumsum(gap + length)
    before = (passed - gap - length)[first]
    end = entry[subject] + passed - before[subject]
    start = end - length
    following = np.append(gap[1:], 0)
    following[first + count - 1] = closing

    flare, other = _visits(rng, start, gap, number)
    values, levels = _levels(rng, start, end)
    finding, treatment = _response(rng, start, length, config)
    return Course(
        entry, subject, number, start, end, gap, following, flare, other,
        ordered=_ordered(rng, start, length),
        doses=_doses(rng, start, end),
        levels=levels,
        values=values,
        finding=finding,
        treatment=treatment,
    )  # fmt: skip


def _gaps(rng: np.random.Generator, n: int) -> Ints:
    days = GAP_LEAST + GAP_MEDIAN * np.exp(GAP_SD * rng.standard_normal(n))
    minutes: Ints = np.floor(np.minimum(days, GAP_MOST) * DAY).astype(np.int64)
    return minutes


def _log_uniform(rng: np.random.Generator, low: int, high: Ints) -> Ints:
    """Whole minutes from `low` up to before `high`, log-uniform."""
    drawn: Ints = np.floor(low * (high / low) ** rng.random(len(high))).astype(np.int64)
    return drawn


def _visits(rng: np.random.Generator, start: Ints, gap: Ints, number: Ints) -> tuple[Ints, Ints]:
    """The two visits of the gap before each stay; there is a flare before the first one."""
    n = len(start)
    back = _log_uniform(rng, FLARE_FROM * DAY, gap - 2 * DAY)
    flares = (rng.random(n) < FLARES) | (number == 0)
    later = rng.uniform(2 * DAY, gap - 2 * DAY).astype(np.int64)
    others = rng.random(n) < OTHERS
    apart = np.abs(gap - back - later) > DAY
    flare = np.where(flares, start - back, -1)
    return flare, np.where(others & apart, start - gap + later, -1)


def _earlier(rng: np.random.Generator, low: Ints, high: Ints) -> Ints:
    """[S, 2], minutes from `low` up to before `high`, the later one first; -1 for about half of them."""
    middle = (low + high) // 2
    ends = np.column_stack([middle, low]), np.column_stack([high, middle])
    drawn = ends[0] + np.floor(rng.random(ends[0].shape) * (ends[1] - ends[0])).astype(np.int64)
    drawn[rng.random(drawn.shape) < 0.5] = -1
    return drawn


def _ordered(rng: np.random.Generator, start: Ints, length: Ints) -> Ints:
    """Three different minutes of each stay, in any order."""
    room = length[:, None] - 2 * MARGIN - 2
    minute = np.sort((rng.random((len(start), 3)) * room).astype(np.int64), axis=1)
    minute += MARGIN + np.arange(3)
    shuffled: Ints = rng.permuted(minute, axis=1)
    return start[:, None] + shuffled


def _doses(rng: np.random.Generator, start: Ints, end: Ints) -> Ints:
    """The last dose by how long ago it is; up to two before it tell nothing of that."""
    last = end - _log_uniform(rng, FRESHEST, (end - start) * 19 // 20)
    earlier = _earlier(rng, start + 1, last)
    return np.column_stack([last, earlier])


def _levels(rng: np.random.Generator, start: Ints, end: Ints) -> tuple[Floats, Ints]:
    """Three values along a line about a level of its own, and up to two before about the same level.

    What is rising is falling when read backwards: which values there are does not tell.
    """
    n = len(start)
    apart = rng.integers(90, 200, size=(n, 2))
    last = end - rng.integers(20, 90, size=n)
    line = last[:, None] - np.column_stack([np.zeros(n, np.int64), np.cumsum(apart, axis=1)])
    direction = np.where(rng.random(n) < FALLS, -1.0, 1.0)
    slope = direction * SPEED * np.exp(SPEED_SD * rng.standard_normal(n))
    middle = MIDDLE + MIDDLE_SD * rng.standard_normal(n)
    drawn = middle[:, None] + NOISE * rng.standard_normal((n, MOST_LEVELS))
    drawn[:, :3] += slope[:, None] * (line - line.mean(axis=1, keepdims=True)) / HOUR
    drawn[:, 3:] += MIDDLE_SD * rng.standard_normal((n, 2))
    written = np.round(np.clip(drawn, 2, 25), 1).astype(np.float32).astype(np.float64)
    return written, np.column_stack([line, _earlier(rng, start + 30, line[:, 2] - 30)])


def _response(
    rng: np.random.Generator, start: Ints, length: Ints, config: SequenceConfig
) -> tuple[Ints, Ints]:
    """A finding, and its treatment before it, in time, or late."""
    n = len(start)
    limit = int(config.response_hours * HOUR)
    finding = 60 + (rng.random(n) * (length - limit - 120)).astype(np.int64)
    kind = rng.random(n)
    share = rng.random(n)
    early = MARGIN + (share * (finding - 2 * MARGIN)).astype(np.int64)
    timely = finding + MARGIN + (share * (limit - MARGIN)).astype(np.int64)
    low = finding + limit + MARGIN
    late = low + (share * (length - MARGIN - low)).astype(np.int64)
    treatment = np.select([kind < IN_TIME, kind < IN_TIME + EARLY], [timely, early], late)
    return start + finding, start + treatment


def look_back(course: Course, config: SequenceConfig) -> Past:
    """What the record shows at the end of each stay."""
    index = np.where(course.flare >= 0, np.arange(len(course.flare)), 0)
    flare = course.flare[np.maximum.accumulate(index)] + NOTED  # the first stay of each has one
    a, b, c = course.ordered.T
    hours = course.levels[:, :3] / HOUR
    hours = hours - hours.mean(axis=1, keepdims=True)
    slope = (hours * course.values[:, :3]).sum(axis=1) / (hours**2).sum(axis=1)
    delay = (course.treatment - course.finding) / HOUR
    return Past(
        pairs=(a < b).astype(np.int64) + (b < c) + (a < c),
        hours=(course.end - course.doses[:, 0]) / HOUR,
        days=(course.end - flare) / DAY,
        slope=slope,
        untreated=(delay <= 0) | (delay > config.response_hours),
    )
