"""EHRSHOT's few-shot protocol on any labelled data set: `results/1` with a report.

The protocol is that of Wornow et al., "EHRSHOT: An EHR Benchmark for Few-Shot Evaluation of
Foundation Models" (NeurIPS 2023).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import polars as pl
from tqdm import tqdm

from ehr_eval import __version__
from ehr_eval.config import EhrshotConfig
from ehr_eval.evaluate import SPLITS, Evaluation, Split, Task, evaluate_task
from ehr_eval.features.read import FeatureSet, align, read_features
from ehr_eval.frames import KEY, read_labels
from ehr_eval.report import write_report
from ehr_eval.results import write_results
from ehr_tracking.arrow.labels import label_source
from ehr_tracking.config import ConfigError, to_dict
from ehr_tracking.contracts import RESULTS, ContractError
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import new_artifact, refuse_existing, seal, source


def run_ehrshot(
    labels: Path,
    features: Mapping[str, Path],
    out: Path,
    config: EhrshotConfig | None = None,
    *,
    workers: int = 1,
    overwrite: bool = False,
) -> Path:
    """Evaluate every model's features on every task and write `results/1`.

    Args:
        labels: `labels/1` or a tree of MEDS labels.
        features: Name -> `features/1`, each covering all labels; the count baseline is one of them.
        out: Where the results shall be.
        config: The protocol.
        workers: Processes; tasks are shared among them. The results do not depend on it.
        overwrite: Replace results that are there.

    Returns:
        `out`, holding results.parquet, comparisons.parquet, predictions/, plots/ and report.html.

    Raises:
        ContractError: If an input is not what it should be, or features lack a label.
        ConfigError: If the config names an unknown task.
        UserError: If `out` exists or a name cannot be a file name.
    """
    config = config or EhrshotConfig()
    refuse_existing(out, overwrite=overwrite)
    tasks = _tasks(labels, features, config)
    evaluations = list(_evaluate(tasks, config, workers))
    inputs = {"labels": label_source(labels)}
    inputs |= {f"features.{name}": source(path) for name, path in features.items()}
    with new_artifact(out, overwrite=overwrite) as unfinished:
        rows = write_results(unfinished, evaluations, config)
        write_report(unfinished, evaluations, config, inputs)
        seal(
            unfinished,
            RESULTS,
            producer=f"ehr-eval {__version__}",
            config=to_dict(config),
            seed=0,
            inputs=inputs,
            rows=rows,
        )
    return out


def _evaluate(tasks: Sequence[Task], config: EhrshotConfig, workers: int) -> Iterator[Evaluation]:
    run = partial(evaluate_task, config=config)
    with tqdm(total=len(tasks), unit="task", desc="ehrshot", disable=None) as bar:
        if min(workers, len(tasks)) <= 1:
            for task in tasks:
                yield run(task)
                bar.update()
            return
        # spawned, since torch or polars may have started threads that a fork would break
        with ProcessPoolExecutor(min(workers, len(tasks)), mp_context=get_context("spawn")) as pool:
            for evaluation in pool.map(run, tasks):
                yield evaluation
                bar.update()


def _tasks(labels: Path, features: Mapping[str, Path], config: EhrshotConfig) -> list[Task]:
    for name in features:
        if not re.fullmatch(r"[\w.-]+", name):
            raise UserError(f"features name {name!r}: use letters, digits, _, . and - only")
    if not features:
        raise UserError("no features were given; name some with NAME=PATH")
    tables = read_labels(labels)
    unknown = sorted(set(config.tasks or ()) - tables.keys())
    if unknown:
        raise ConfigError(f"tasks: {labels} has no task {unknown[0]}; it has {', '.join(tables)}")
    sets = {name: read_features(path) for name, path in features.items()}
    return [_task(name, tables[name], sets) for name in config.tasks or sorted(tables)]


def _task(name: str, labels: pl.DataFrame, sets: Mapping[str, FeatureSet]) -> Task:
    labels = labels.sort(*KEY)
    aligned = {model: align(found, labels, task=name) for model, found in sets.items()}
    (first, table), *others = aligned.items()
    for model, other in others:
        differs = table["split"] != other["split"]
        if differs.any():
            subject = table.filter(differs)["subject_id"][0]
            raise ContractError(
                f"{sets[model].directory} puts subject {subject} in another split than "
                f"{sets[first].directory}; make both from one data set"
            )
    splits = {}
    for split in SPLITS:
        chosen = (table["split"] == split).to_numpy()
        rows = {model: t["row"].to_numpy()[chosen] for model, t in aligned.items()}
        splits[split] = Split(
            labels=labels.filter(chosen),
            features={model: sets[model].matrix[rows[model]] for model in sets},
        )
    return Task(name=name, splits=splits)
