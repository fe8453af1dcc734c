"""The six tasks on a block of subjects: prediction times and outcomes, by the rules of `labels/1`.

The definitions are those that MEDS labels of this cohort have by default: a window of d days is
(prediction time, prediction time + d days]; a row without its outcome counts only if the subject
has an event at or after the end of the window or dies in it.
"""

from dataclasses import dataclass

import numpy as np

from ehr_tokenize.synthetic import codes
from ehr_tokenize.synthetic.block import Block
from ehr_tokenize.synthetic.conditions import CONDITIONS, LABS
from ehr_tokenize.synthetic.disease import NAMES, Bools, Floats, Ints
from ehr_tokenize.synthetic.records import CODE_ID
from ehr_tokenize.synthetic.rows import CLOSE, DAY, OPEN, Rows

READMISSION_DAYS, HORIZON_DAYS, LONG_DAYS, WARD_DAYS = 30, 365, 7, 1
"""Windows of readmission_30d and of the one-year tasks; a long stay; days after admission."""
CONDITION = NAMES.index("hypertension")
"""The condition of new_diagnosis_1y."""
LAB = next(i for i, x in enumerate(LABS) if x.loinc == "2823-3")
"""The measurement of abnormal_lab_next_visit, potassium."""
LAB_ABOVE = 5.0
NEVER = np.iinfo(np.int64).max // 2


@dataclass(frozen=True, slots=True)
class Visits:
    """Encounters as the record shows them, by subject and time."""

    subject: Ints
    """Row of the subject in its block; likewise [E] below."""
    start: Ints
    """Minute."""
    end: Ints
    """Minute."""
    stay: Bools
    died: Bools
    of_row: Ints
    """[rows], the encounter of each event; meaningless for events outside of any."""


def read_visits(rows: Rows) -> Visits:
    """Find the encounters in a block's events."""
    opens, closes = rows.rank == OPEN, rows.rank == CLOSE
    return Visits(
        rows.subject[opens],
        rows.minute[opens],
        rows.minute[closes],
        rows.code[opens] != CODE_ID[codes.VISIT_START],
        rows.code[closes] == CODE_ID[codes.DIED],
        np.cumsum(opens) - 1,
    )


@dataclass(frozen=True, slots=True)
class TaskRows:
    """Rows of one task, by subject and prediction time."""

    visit: Ints
    """The encounter that ends, or still runs, at the prediction time."""
    minute: Ints
    """The prediction time."""
    label: Bools


def label(block: Block, visits: Visits) -> dict[str, TaskRows]:
    """Label a block of subjects for every task."""
    rows = block.rows
    n = len(block.ids)
    death = np.full(n, NEVER)
    dying = rows.code == CODE_ID[codes.DEATH]
    death[rows.subject[dying]] = rows.minute[dying]
    last = np.zeros(n, np.int64)
    np.maximum.at(last, rows.subject, rows.minute)
    stays = np.flatnonzero(visits.stay)
    out = np.flatnonzero(visits.stay & ~visits.died)

    def within(outcome: Ints, days: int, kept: Ints) -> TaskRows:
        subject, now = visits.subject[kept], visits.end[kept]
        until = now + days * DAY
        positive = outcome <= until
        counts = positive | (last[subject] >= until) | (death[subject] < NEVER)
        return TaskRows(kept[counts], now[counts], positive[counts])

    first = _first_diagnosis(block)
    new = out[first[visits.subject[out]] > visits.end[out]]
    running = stays[visits.end[stays] - visits.start[stays] > WARD_DAYS * DAY]
    later = visits.start[running] + WARD_DAYS * DAY
    long = visits.end[running] - visits.start[running] > LONG_DAYS * DAY
    return {
        "in_hospital_mortality": TaskRows(running, later, visits.died[running]),
        "readmission_30d": within(_next_stay(visits, stays)[out], READMISSION_DAYS, out),
        "long_stay": TaskRows(running, later, long),
        "mortality_1y": within(death[visits.subject[out]], HORIZON_DAYS, out),
        "new_diagnosis_1y": within(first[visits.subject[new]], HORIZON_DAYS, new),
        "abnormal_lab_next_visit": _next_lab(rows, visits),
    }


def _next_stay(visits: Visits, stays: Ints) -> Ints:
    """[E], the minute at which the subject's next stay begins, for stays."""
    following = np.full(len(visits.subject), NEVER)
    same = visits.subject[stays[1:]] == visits.subject[stays[:-1]]
    following[stays[:-1][same]] = visits.start[stays[1:][same]]
    return following


def _first_diagnosis(block: Block) -> Ints:
    """[N], the minute at which the condition is first coded."""
    ids = [CODE_ID[codes.diagnosis(x)] for x in CONDITIONS[CONDITION].stages]
    rows = block.rows
    coded = np.isin(rows.code, ids)
    first = np.full(len(block.ids), NEVER)
    np.minimum.at(first, rows.subject[coded], rows.minute[coded])
    return first


def _next_lab(rows: Rows, visits: Visits) -> TaskRows:
    measured = np.flatnonzero(rows.code == CODE_ID[codes.measurements()[LAB]])[::-1]
    value: Floats = np.full(len(visits.subject), np.nan)
    value[visits.of_row[measured]] = rows.value[measured]  # the first one is written last
    following = np.append(value[1:], np.nan)
    following[np.append(visits.subject[1:] != visits.subject[:-1], True)] = np.nan
    kept = np.flatnonzero(~np.isnan(following))
    return TaskRows(kept, visits.end[kept], following[kept] > LAB_ABOVE)
