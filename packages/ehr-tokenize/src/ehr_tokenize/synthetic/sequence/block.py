"""One block of subjects: their course, what came of it, and both as events.

Shapes: `N` subjects, `S` stays.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ehr_tokenize.synthetic import codes as common
from ehr_tokenize.synthetic.rows import (
    CLOSE,
    DAY,
    INSIDE,
    LAST,
    OPEN,
    STATIC,
    YEAR_DAYS,
    Bools,
    Floats,
    Ints,
    Rows,
    concatenate,
    in_order,
    plain,
)
from ehr_tokenize.synthetic.sequence import codes
from ehr_tokenize.synthetic.sequence.config import SequenceConfig
from ehr_tokenize.synthetic.sequence.course import (
    MARGIN,
    NOTED,
    Course,
    draw_course,
    look_back,
)
from ehr_tokenize.synthetic.sequence.rules import TASKS, risks

BLOCK = 2048
"""Subjects that are drawn together, each block from its own random stream."""
ENTRY_AGE, ENTRY_AGE_SD = 52.0, 17.0
"""Mean and deviation of the age at entry, before it is held to 18..90."""
VISIT = 30
"""Minutes of a visit."""
SOONEST = 120
"""Least minutes from the end of a stay to an outcome's visit."""
NEVER = np.iinfo(np.int64).max // 2
CODES = codes.code_rows(tuple(task.outcome for task in TASKS.values()))
NAMES = [row[0] for row in CODES]
CODE_ID = {code: i for i, code in enumerate(NAMES)}


@dataclass(frozen=True, slots=True)
class Block:
    """Some subjects, whole."""

    ids: Ints
    """[N], their `subject_id`."""
    rows: Rows
    """Every event, by subject and time, static ones first; in the codes of `NAMES`."""
    subject: Ints
    """[S], row of the subject of each stay that was lived to see; likewise below."""
    end: Ints
    """The minute at which it ended: the prediction time of every task."""
    risk: Mapping[str, Floats]
    label: Mapping[str, Bools]


def draw_block(config: SequenceConfig, number: int) -> Block:
    """Draw one block of subjects.

    Args:
        config: Of the world.
        number: Of the block; it has subjects `number * BLOCK` to `(number + 1) * BLOCK`.
    """
    n = min(BLOCK, config.num_patients - number * BLOCK)
    rng = np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(number,)))
    course = draw_course(rng, n, config)
    risk = risks(look_back(course, config), config)
    label = {task: rng.random(len(course.end)) < r for task, r in risk.items()}
    when = _outcome_minutes(rng, course, label)
    death = np.full(n, NEVER)
    dying = label["mortality_90d"]
    np.minimum.at(death, course.subject[dying], when["mortality_90d"][dying])
    parts = _notes(rng, course, when) + _closing(rng, course)
    rows = concatenate(parts)
    lived = rows.minute < death[rows.subject]
    rows = Rows(*(getattr(rows, name)[lived] for name in Rows.__dataclass_fields__))
    dead = np.flatnonzero(death < NEVER)
    ends = plain(dead, death[dead], LAST, np.full(len(dead), CODE_ID[common.DEATH]))
    seen = course.end < death[course.subject]
    return Block(
        np.arange(n) + number * BLOCK + 1,
        in_order(concatenate([_who(rng, course.entry), rows, ends])),
        course.subject[seen],
        course.end[seen],
        {task: r[seen] for task, r in risk.items()},
        {task: x[seen] for task, x in label.items()},
    )


def _outcome_minutes(
    rng: np.random.Generator, course: Course, label: Mapping[str, Bools]
) -> dict[str, Ints]:
    """[S] for each task, the minute of the outcome, `NEVER` where there is none.

    Visits of one gap lie apart: those that do not are drawn anew, which no risk depends on.
    """
    names = list(TASKS)
    low = np.array([max(TASKS[t].start_days * DAY, SOONEST) for t in names])
    high = np.array([TASKS[t].horizon_days * DAY - VISIT for t in names])
    come = np.column_stack([label[t] for t in names])
    others = _visits_after(course)
    drawn = np.full(come.shape, NEVER)
    anew = np.flatnonzero(come.any(axis=1))
    while len(anew):
        share = rng.random((len(anew), len(names)))
        minute = course.end[anew, None] + np.floor(low + share * (high - low)).astype(np.int64)
        drawn[anew] = np.where(come[anew], minute, NEVER)
        every = np.sort(np.column_stack([drawn[anew], others[anew]]), axis=1)
        close = (np.diff(every, axis=1) <= VISIT) & (every[:, 1:] < NEVER)
        anew = anew[close.any(axis=1)]
    return dict(zip(names, drawn.T, strict=True))


def _visits_after(course: Course) -> Ints:
    """[S, 2], the other visits of the gap after each stay, `NEVER` where there is none."""
    after = np.full((len(course.end), 2), NEVER)
    same = course.subject[1:] == course.subject[:-1]
    for column, minute in enumerate((course.flare, course.other)):
        after[:-1, column] = np.where(same & (minute[1:] >= 0), minute[1:], NEVER)
    return after


def _who(rng: np.random.Generator, entry: Ints) -> Rows:
    """Sex, race and birth, which nothing depends on."""
    n = len(entry)
    everyone, static = np.arange(n), np.full(n, STATIC)
    age = np.clip(ENTRY_AGE + ENTRY_AGE_SD * rng.standard_normal(n), 18, 90)
    birth = (entry - np.rint(age * YEAR_DAYS * DAY).astype(np.int64)) // DAY * DAY
    return concatenate(
        [
            plain(everyone, static, INSIDE, _any_of(rng, codes.GENDERS, n)),
            plain(everyone, static, INSIDE, _any_of(rng, codes.RACES, n)),
            plain(everyone, birth, INSIDE, np.full(n, CODE_ID[common.BIRTH])),
        ]
    )


def _any_of(rng: np.random.Generator, names: tuple[str, ...], n: int) -> Ints:
    ids = np.array([CODE_ID[name] for name in names])
    return ids[rng.integers(0, len(ids), size=n)]


def _of(subject: Ints, minute: Ints, code: str, rank: int = INSIDE) -> Rows:
    """One event wherever the minute is one."""
    there = (minute >= 0) & (minute < NEVER)
    ids = np.full(int(there.sum()), CODE_ID[code])
    return plain(subject[there], minute[there], rank, ids)


def _visit(subject: Ints, minute: Ints) -> list[Rows]:
    """The start and the end of a visit wherever the minute is one."""
    there = (minute >= 0) & (minute < NEVER)
    subject, minute = subject[there], minute[there]
    return [
        _of(subject, minute, common.VISIT_START, OPEN),
        _of(subject, minute + VISIT, common.VISIT_END, CLOSE),
    ]


def _notes(rng: np.random.Generator, course: Course, when: Mapping[str, Ints]) -> list[Rows]:
    """Stays, and the visits between them, with outcomes but death."""
    subject = course.subject
    parts = [
        _of(subject, course.start, common.EMERGENCY, OPEN),
        _of(subject, course.end, common.HOME, CLOSE),
        _of(subject, course.finding, codes.FINDING),
        _of(subject, course.treatment, codes.TREATMENT),
        *(_of(subject, m, code) for code, m in zip(codes.ORDERED, course.ordered.T, strict=True)),
        *(_of(subject, m, codes.DOSE) for m in course.doses.T),
        *_visit(subject, course.flare),
        _of(subject, np.where(course.flare >= 0, course.flare + NOTED, -1), codes.FLARE),
    ]
    for minute, value in zip(course.levels.T, course.values.T, strict=True):
        parts.append(_measured(subject, minute, codes.LEVEL, value))
    for task, minute in when.items():
        if TASKS[task].outcome != common.DEATH:
            parts += _visit(subject, minute)
            parts.append(_of(subject, minute + NOTED, TASKS[task].outcome))
    return parts + _chatter(rng, course)


def _chatter(rng: np.random.Generator, course: Course) -> list[Rows]:
    """What tells nothing: complaints, a drug and blood pressure."""
    n = len(course.end)
    there = course.other >= 0
    seen = plain(
        course.subject[there],
        course.other[there] + NOTED,
        INSIDE,
        _any_of(rng, codes.COMPLAINTS, int(there.sum())),
    )
    inside = course.end - course.start - 2 * MARGIN
    minute = course.start + MARGIN + (rng.random(n) * inside).astype(np.int64)
    given = plain(course.subject, minute, INSIDE, _any_of(rng, codes.WARD_DRUGS, n))
    pressure = np.round(125 + 15 * rng.standard_normal(n))
    measured = _measured(course.subject, course.start + MARGIN, codes.PRESSURE, pressure)
    return [*_visit(course.subject, course.other), seen, given, measured]


def _measured(subject: Ints, minute: Ints, code: str, value: Floats) -> Rows:
    there = minute >= 0
    ids = np.full(int(there.sum()), CODE_ID[code])
    rank = np.full(len(ids), INSIDE)
    return Rows(subject[there], minute[there], rank, ids, value[there])


def _closing(rng: np.random.Generator, course: Course) -> list[Rows]:
    """The visit with which a record ends: every window before it is whole."""
    last = np.flatnonzero(np.append(np.diff(course.subject) > 0, True))
    subject, minute = course.subject[last], (course.end + course.following)[last]
    complaint = _any_of(rng, codes.COMPLAINTS, len(last))
    return [*_visit(subject, minute), plain(subject, minute + NOTED, INSIDE, complaint)]
