"""Tasks by name: what they mean, which codes they need, who labels them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import polars as pl

from ehr_eval.tasks import labelers
from ehr_eval.tasks.config import LabelsConfig
from ehr_eval.tasks.course import Course
from ehr_eval.tasks.patterns import matching
from ehr_tracking.errors import UserError

Labeler = Callable[[Course, LabelsConfig], pl.DataFrame]


@dataclass(frozen=True, slots=True)
class Task:
    """One task."""

    labeler: Labeler
    needs: tuple[str, ...]
    """Fields of `LabelsConfig` whose patterns must match a code of the data set, each."""
    definition: str
    """A paragraph, with fields of the config in braces."""
    needs_one: tuple[str, ...] = ()
    """Such fields, of which one must match."""
    version: int = 1
    """Raised with each change that can change a label."""
    timed: bool = False
    """Its rows hold the time to an event; labelled only where it is named."""

    def define(self, config: LabelsConfig) -> str:
        """The paragraph with the numbers of a config."""
        return self.definition.format(config=config)


_CENSORING = (
    "Without the outcome a row is negative only if the subject has an event at or after the end of "
    "the window or is recorded dead; else it is censored and left out (`censored: negative` keeps "
    "it as negative). The end of a window belongs to it."
)

_UNTIL = (
    " `duration_days` counts to the event where `boolean_value` is true, else to the subject's last "
    "event or death, whichever is first: nothing is known from then on. Left out: stays that end in "
    "death, or while another one runs, and rows after which nothing is recorded."
)

TASKS: dict[str, Task] = {
    "in_hospital_mortality": Task(
        labelers.in_hospital_mortality,
        ("admission", "discharge"),
        "Does the subject die in this hospital stay? Predicted {config.hours_after_admission:g}"
        " hours after admission for every stay that is still running then. Positive: the "
        "discharge is a death, or a death is recorded no later than the discharge. Left out: "
        "stays without a recorded admission or discharge, and subjects whose death is already recorded at "
        "the prediction time (a date of death without a time of day lies before the event).",
        needs_one=("died", "death"),
    ),
    "readmission_30d": Task(
        labelers.readmission_30d,
        ("admission", "discharge"),
        "Is the subject admitted again, for any cause, within {config.readmission_days:g} days?"
        " Predicted at discharge. Positive: an admission in the window, strictly after the "
        "discharge (one within {config.transfer_hours:g} h is a transfer, and both stays are one)."
        " Left out: stays that end in death, or while another one runs. " + _CENSORING,
    ),
    "long_stay": Task(
        labelers.long_stay,
        ("admission", "discharge"),
        "Does the stay last longer than {config.long_stay_days:g} days? Predicted "
        "{config.hours_after_admission:g} hours after admission for every stay that is still "
        "running then; a stay of exactly that length is negative, one cut short by death counts"
        " by its length. Left out: stays without a recorded discharge, and subjects whose death"
        " is already recorded.",
    ),
    "mortality_1y": Task(
        labelers.mortality_1y,
        ("admission", "discharge", "death"),
        "Does the subject die within {config.horizon_days:g} days? Predicted at each discharge "
        "alive. " + _CENSORING,
    ),
    "new_diagnosis_1y": Task(
        labelers.new_diagnosis_1y,
        ("admission", "discharge", "diagnosis"),
        "Is a diagnosis matching {config.diagnosis} (by default hypertensive disease) coded for"
        " the first time within {config.horizon_days:g} days? Predicted at each discharge "
        "alive, in subjects with no such code up to and at that time. Death without the "
        "diagnosis is negative. " + _CENSORING,
    ),
    "abnormal_lab_next_visit": Task(
        labelers.abnormal_lab_next_visit,
        ("visit_start", "visit_end", "lab"),
        "Is the first value matching {config.lab} (by default potassium in mmol/L) in the next "
        "visit above {config.lab_above:g}? Of several at one time, the highest counts. Predicted at"
        " the end of each visit that another one follows, however late. Left out: rows whose next visit has no such measurement, and "
        "the last visit of a subject.",
    ),
    "time_to_death": Task(
        labelers.time_to_death,
        ("admission", "discharge", "death"),
        "Days until the subject dies. Predicted at each discharge alive." + _UNTIL,
        timed=True,
    ),
    "time_to_readmission": Task(
        labelers.time_to_readmission,
        ("admission", "discharge"),
        "Days until the subject is admitted again, for any cause. Predicted at each discharge alive; "
        "death without it censors." + _UNTIL,
        timed=True,
    ),
    "time_to_diagnosis": Task(
        labelers.time_to_diagnosis,
        ("admission", "discharge", "diagnosis"),
        "Days until a diagnosis matching {config.diagnosis} (by default hypertensive disease) is coded for "
        "the first time. Predicted at each discharge alive, in subjects with no such code up to and at "
        "that time; death without it censors." + _UNTIL,
        timed=True,
    ),
}
"""In the order in which they are reported."""


def choose(config: LabelsConfig, codes: pl.Series) -> tuple[list[str], dict[str, str]]:
    """Which tasks a data set can have.

    Args:
        config: Names tasks, or leaves it to the data.
        codes: The distinct codes of the data set.

    Returns:
        The names to label, and for each task left out the reason.

    Raises:
        UserError: If a task is unknown, a named one lacks its codes, or none is left.
    """
    unknown = [name for name in config.tasks or () if name not in TASKS]
    if unknown:
        raise UserError(f"unknown task {unknown[0]}; there are {', '.join(TASKS)}")
    wanted = [
        name
        for name, task in TASKS.items()
        if (not task.timed if config.tasks is None else name in config.tasks)
    ]
    skipped = {}

    @cache
    def there(name: str) -> bool:
        return bool(matching(codes, getattr(config, name)).any())

    for name in wanted:
        lacking = [n for n in TASKS[name].needs if not there(n)]
        one = TASKS[name].needs_one
        if one and not any(map(there, one)):
            lacking += one
        if lacking:
            skipped[name] = ", ".join(
                f"no code matches {n} = {getattr(config, n)}" for n in lacking
            )
    if config.tasks is not None and skipped:
        name, reason = next(iter(skipped.items()))
        raise UserError(f"task {name} does not fit this data set: {reason}")
    chosen = [name for name in wanted if name not in skipped]
    if not chosen:
        raise UserError(f"no task fits this data set: {_unmatched(config, codes)}")
    return chosen, skipped


def _unmatched(config: LabelsConfig, codes: pl.Series) -> str:
    """Which patterns match nothing, what codes look like, and what to do."""
    patterns = dict.fromkeys(
        name for task in TASKS.values() for name in (*task.needs, *task.needs_one)
    )
    lacking = [name for name in patterns if not matching(codes, getattr(config, name)).any()]
    some = ", ".join(f"{code[:40]}" for code in codes.drop_nulls().unique().sort()[:3])
    return (
        f"no code matches the patterns of {', '.join(lacking)} (codes look like {some}); "
        "give patterns that do, as -s admission=^ADMIT"
    )
