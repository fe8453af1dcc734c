"""What can be told before anything runs: whether models, schemes, tasks, data and disk go together."""

import shutil
from pathlib import Path

import numpy as np

from ehr_models.kinds import KINDS, kind_for
from ehr_tracking.arrow.splits import read_splits
from ehr_tracking.config import ConfigError
from ehr_tracking.contracts import SPLITS
from ehr_tracking.errors import UserError
from workflow.loaded import Loaded

_PRETRAINING = {kind.pretraining for kind in KINDS.values()}
_OF_CODES = ("events", "query")
"""Objectives that speak of codes."""


def check_models(loaded: Loaded) -> None:
    """Raise unless each model can be trained on its scheme, and those asked for futures can tell them.

    Raises:
        ConfigError: Naming the first that cannot.
    """
    for name, model in loaded.models.items():
        scheme = loaded.config.models[name].scheme
        parts = loaded.schemes[scheme].scheme
        kind, objective = kind_for(model.model), model.objective.kind
        where = f"models.{name}: scheme {scheme}"
        if parts.codes == "description":
            if kind.lookups is not None:
                raise ConfigError(
                    f"{where} spells codes as subwords, but kind {kind.name} looks codes up"
                )
            if objective in _OF_CODES:
                raise ConfigError(
                    f"{where} spells codes as subwords, but objective {objective} is of codes"
                )
        if objective in _PRETRAINING and kind.pretraining != objective:
            raise ConfigError(
                f"models.{name}: kind {kind.name} is pretrained by {kind.pretraining}, not {objective}"
            )
    for name, asked in loaded.config.zeroshot.items():
        kind = kind_for(loaded.models[asked.model].model)
        scheme = loaded.config.models[asked.model].scheme
        if not (kind.sees == "past" and kind.incremental and kind.isolates == "spans"):
            raise ConfigError(f"zeroshot.{name}: kind {kind.name} of {asked.model} cannot generate")
        if loaded.schemes[scheme].scheme.codes == "description":
            raise ConfigError(
                f"zeroshot.{name}: scheme {scheme} spells codes as subwords, which tell no event"
            )


def check_splits(loaded: Loaded) -> None:
    """Raise unless every data set that is given has subjects in each split.

    Raises:
        UserError: Naming the data set and the split.
    """
    for name, one in loaded.config.data.items():
        if one.meds is None:
            continue
        if not one.meds.is_dir():
            raise UserError(f"data.{name}: {one.meds}: no such directory")
        named = read_splits(one.meds).named
        there = set(SPLITS if named is None else np.array(SPLITS)[np.unique(named[1])].tolist())
        for split in SPLITS:
            if split not in there:
                raise UserError(
                    f"data.{name}: {one.meds} has no {split} split; name one in metadata/subject_splits.parquet"
                )


def check_tasks(loaded: Loaded, unlabelled: set[str]) -> None:
    """Raise unless every task is known, and the data sets have the codes that it needs.

    Of a data set that is drawn the codes are not known yet: its names are checked alone.

    Args:
        loaded: The comparison.
        unlabelled: Data sets whose labels are still to be made.

    Raises:
        UserError: Naming the task, the data set and what it lacks.
    """
    from ehr_eval.tasks.choice import Asked, choose_all
    from ehr_eval.tasks.library import library_files
    from ehr_eval.tasks.make import read_codebook
    from ehr_eval.tasks.registry import TASKS
    from ehr_tracking.arrow.meds import data_files

    known = {*TASKS, *library_files()}
    for task in loaded.labels.tasks or ():
        if task not in known:
            raise ConfigError(
                f"labels: unknown task {task}; `ehr-eval tasks` lists those there are"
            )
    for task in loaded.evaluate.tasks or ():
        if loaded.labels.tasks and task not in loaded.labels.tasks:
            raise ConfigError(f"evaluate: task {task} is none of those that are labelled")
    for name in unlabelled:
        one = loaded.config.data[name]
        if one.meds is None:
            continue
        asked = Asked(task_files=loaded.config.labels.task_files)
        try:
            choose_all(loaded.labels, asked, read_codebook(one.meds, data_files(one.meds)))
        except UserError as e:
            raise UserError(f"data.{name}: {e}") from None


def check_data(name: str, meds: Path) -> list[str]:
    """What `ehr-tokenize check` says of a data set.

    Raises:
        UserError: If it would be refused.
    """
    from ehr_tokenize.meds.check import check

    report = check(meds)
    if report.refused:
        first = next(found for found in report.findings if found.refused)
        raise UserError(f"data.{name}: {first}; `ehr-tokenize check {meds}` lists all")
    return report.lines()


def check_disk(out: Path, megabytes: float) -> None:
    """Raise where less is free than what is to be made takes, by a rough guess.

    Raises:
        UserError: With both numbers.
    """
    place = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free / 1e6
    if free < megabytes:
        raise UserError(
            f"{out}: the disk has {free:,.0f} MB free, but what is to be made takes about {megabytes:,.0f} MB; "
            "free some space or choose another --out"
        )
