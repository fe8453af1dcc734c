"""Judge predictions: `judgement/1` with a report."""

import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from ehr_eval.frames import PRODUCER
from ehr_eval.judge.recalibrate import NONE
from ehr_eval.judgement.config import JudgeConfig
from ehr_eval.judgement.inputs import TaskInput, open_tasks
from ehr_eval.judgement.judge import TaskJudged, judge
from ehr_eval.judgement.kept import read_judged, write_judged
from ehr_eval.judgement.page import write_page
from ehr_eval.judgement.tables import difference_rows, write_tables
from ehr_eval.parts import parts_of
from ehr_eval.predictions import predictions_source
from ehr_eval.workers import run_key
from ehr_tracking.arrow.label_files import label_source
from ehr_tracking.config import to_dict
from ehr_tracking.contracts import JUDGEMENT, MEDS
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import new_artifact, raw_source, refuse_existing, seal
from ehr_tracking.tree import note


def run_judge(
    labels: PathLike,
    predictions: Mapping[str, PathLike],
    meds: PathLike,
    out: PathLike,
    config: JudgeConfig | None = None,
    *,
    workers: int = 1,
    overwrite: bool = False,
) -> list[TaskJudged]:
    """Judge what models say of labels, and write `judgement/1`.

    What is wrong with the predictions of one task is said in one line, and the other tasks go on. A run that
    was killed goes on with the tasks that are left.

    Args:
        labels: `labels/1` or a tree of MEDS labels.
        predictions: Name -> `predictions/1`, a folder like it, or `results/1`.
        meds: The data set that was labelled: who is held out, and groups.
        out: Where the artifact shall be.
        config: Bootstraps, groups, recalibration, conformal sets.
        workers: Threads, of which each judges a task; the artifact does not depend on it.
        overwrite: Replace an artifact that is there.

    Returns:
        What came out of each task.

    Raises:
        ContractError: If an input cannot be read.
        ConfigError: If the config names a task, a model or codes that are not there.
        UserError: If `out` exists, or nothing at all could be judged.
    """
    labels, meds, out = Path(labels), Path(meds), Path(out)
    config = config or JudgeConfig()
    named = {name: Path(path) for name, path in predictions.items()}
    read = [labels, meds, *named.values()]
    refuse_existing(out, JUDGEMENT, overwrite=overwrite, inputs=read)
    opened = open_tasks(labels, named, meds, config)
    inputs = {"labels": label_source(labels), "meds": raw_source(meds, contract=MEDS)}
    inputs |= {f"predictions.{name}": predictions_source(path) for name, path in named.items()}
    key = run_key(to_dict(config), inputs)
    with new_artifact(out, JUDGEMENT, overwrite=overwrite, inputs=read, key=key) as partial:
        parts = parts_of(partial)
        # NumPy lets other threads go on; products of matrices on several would be other last digits
        with threadpool_limits(1), ThreadPoolExecutor(workers) as pool:
            tasks = list(pool.map(_judged, opened, repeat(config), repeat(parts)))
        _tell(tasks, config)
        if not any(task.models for task in tasks):
            raise UserError("nothing could be judged; the lines above say why")
        shutil.rmtree(parts)
        moved = difference_rows(tasks, config)
        rows = write_tables(partial, tasks, config, moved)
        write_page(partial, tasks, config, inputs, moved)
        seal(
            partial,
            JUDGEMENT,
            producer=PRODUCER,
            config=to_dict(config),
            seed=config.seed,
            inputs=inputs,
            rows=rows,
        )
    return tasks


def _judged(task: TaskInput, config: JudgeConfig, parts: Path) -> TaskJudged:
    """As it was judged, where that is done already."""
    path = parts / f"{task.name}.safetensors"
    found = read_judged(path)
    if found is None:
        found = judge(task, config)
        write_judged(path, found)
    return found


def _tell(tasks: Sequence[TaskJudged], config: JudgeConfig) -> None:
    for task in tasks:
        for model, problem in task.problems.items():
            note(f"{task.name}: {model} was not judged: {problem}")
        for model, judged in task.models.items():
            if judged.untuned is not None and (config.recalibrate or config.misses):
                note(f"{task.name}: {model} was not recalibrated: {judged.untuned}")


def summary(tasks: list[TaskJudged]) -> list[dict[str, object]]:
    """One row a task and model, for a terminal."""
    rows: list[dict[str, object]] = []
    for task in tasks:
        for model, judged in task.models.items():
            found = judged.ways[NONE].scores
            shown = {m: found[m].value if m in found else None for m in _SUMMARY}
            rows.append(
                {
                    "task": task.name,
                    "model": model,
                    "n": task.n,
                    "positive": task.positives,
                    **shown,
                }
            )
        rows += [{"task": task.name, "model": f"{m} (not judged)"} for m in task.problems]
    return rows


_SUMMARY = ("auroc", "auprc", "brier", "ece", "calibration_slope")
