"""What the outcome of a task is: by its file, the labels' manifest, or the table of built-in tasks."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from ehr_eval.audit.inputs import Inputs
from ehr_eval.tasks.config import LabelsConfig
from ehr_eval.tasks.files import TaskFile
from ehr_eval.tasks.patterns import NEVER, EventPattern

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Definition:
    """What the audit needs to know of a task."""

    outcome: tuple[EventPattern, ...]
    """What answers it; none where a length of time does."""
    once: bool
    """It cannot have happened before: a death, or a first diagnosis."""
    in_stay: LabelsConfig | None = None
    """How stays are told, where it is asked within one."""
    horizon_days: float | None = None
    absent: bool = False
    """Yes where no outcome comes."""


_BUILT_IN = {
    "in_hospital_mortality": (("death", "died"), True, True),
    "long_stay": ((), False, True),
    "mortality_1y": (("death",), True, False),
    "readmission_30d": (("admission",), False, False),
    "new_diagnosis_1y": (("diagnosis",), True, False),
    "abnormal_lab_next_visit": (("lab",), False, False),
    "time_to_death": (("death",), True, False),
    "time_to_readmission": (("admission",), False, False),
    "time_to_diagnosis": (("diagnosis",), True, False),
}
"""Task -> fields of `LabelsConfig` that are its outcome, whether that comes once, whether it is asked in a stay."""


def definitions(inputs: Inputs) -> dict[str, Definition]:
    """Task -> what it is, of the tasks of the labels that are known."""
    config = validated(LabelsConfig, inputs.label_config) or LabelsConfig()
    told = inputs.label_config.get("task_files")
    files: dict[str, TaskFile] = {}
    for name, about in told.items() if isinstance(told, dict) else ():
        file = validated(TaskFile, about)
        if file is not None:
            files[name] = file
    files |= inputs.task_files
    found = {}
    for task in inputs.raw_labels:
        if task in files:
            found[task] = _by_file(files[task], config)
        elif task in _BUILT_IN:
            found[task] = _built_in(task, config)
    return found


def validated(kind: type[T], config: Mapping[str, Any]) -> T | None:
    """A config from what a manifest keeps of it and of more; None where it is of another version."""
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    text = json.dumps({name: value for name, value in config.items() if name in known})
    try:
        return TypeAdapter(kind).validate_json(text)
    except ValidationError:
        return None


def _built_in(task: str, config: LabelsConfig) -> Definition:
    names, once, in_stay = _BUILT_IN[task]
    above = config.lab_above if names == ("lab",) else None
    return Definition(
        outcome=tuple(EventPattern(code=getattr(config, name), above=above) for name in names),
        once=once,
        in_stay=config if in_stay else None,
    )


def _by_file(task: TaskFile, config: LabelsConfig) -> Definition:
    excluded = {pattern.said() for pattern in task.exclude}
    outcome = task.outcome or ()
    if any({"units", "text", "min_age", "during"} & p.for_labels_alone() for p in outcome):
        outcome = ()  # told by more than codes and values
    stays = None
    if task.start.until is not None and task.start.at == "begin":
        stays = replace(config, admission=task.start.code or NEVER, discharge=task.start.until)
    return Definition(
        outcome=outcome,
        once=task.onset == "new"
        or all(p.said() in excluded or "MEDS_DEATH" in p.said() for p in outcome),
        in_stay=stays,
        horizon_days=task.horizon_days if task.window == "after" else None,
        absent=task.absent,
    )
