"""EHRSHOT's few-shot protocol on any labelled data set: `results/1` with a report.

The protocol is that of Wornow et al., "EHRSHOT: An EHR Benchmark for Few-Shot Evaluation of
Foundation Models" (NeurIPS 2023).
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ehr_eval.frames import PRODUCER, tell_tasks
from ehr_eval.heads import HEADS
from ehr_eval.parts import parts_of
from ehr_eval.protocol.cell import Plan, cells_of
from ehr_eval.protocol.cells import run_cells
from ehr_eval.protocol.config import EhrshotConfig
from ehr_eval.protocol.evaluation import Evaluation, gather, no_rows, settings_of_task
from ehr_eval.protocol.groups import group_rows
from ehr_eval.protocol.inputs import open_inputs
from ehr_eval.protocol.kept import names_of
from ehr_eval.protocol.markdown import write_markdown
from ehr_eval.protocol.pairs import compare, pairs_of
from ehr_eval.protocol.published import read_published
from ehr_eval.protocol.report import write_report
from ehr_eval.protocol.results import write_results
from ehr_eval.protocol.shots import all_rows_alike, write_shots
from ehr_eval.protocol.taskrows import write_task
from ehr_eval.workers import run_key
from ehr_tracking.config import to_dict
from ehr_tracking.contracts import RESULTS
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import new_artifact, refuse_existing, seal
from ehr_tracking.outputs import refuse_inputs
from ehr_tracking.tree import note


def run_ehrshot(  # noqa: PLR0913 -- inputs and outputs of a run, each by name
    labels: PathLike,
    features: Mapping[str, PathLike],
    out: PathLike,
    config: EhrshotConfig | None = None,
    *,
    predictions: Mapping[str, PathLike] | None = None,
    risks: PathLike | None = None,
    shots: PathLike | None = None,
    splits: PathLike | None = None,
    shots_from: PathLike | None = None,
    store: PathLike | None = None,
    workers: int = 1,
    overwrite: bool = False,
) -> Path:
    """Evaluate every model on every task and write `results/1`.

    A run that is killed goes on where it was: the same call finds the cells that are done beside
    `out`, in a hidden folder that ends in `.partial`.

    Args:
        labels: `labels/1` or a tree of MEDS labels.
        features: Name -> `features/1`, each covering all labels; the count baseline is one of them.
        out: Where the results shall be.
        config: The protocol.
        predictions: Name -> held-out predictions of a model that was trained elsewhere.
        risks: `<task>.parquet` with the best possible risk of every held-out row, as `synth --risks`
            writes them: the report then says how far towards it each model gets.
        shots: Where the rows of each draw shall be written, before anything is fitted.
        splits: CSV file that names the split of each subject, as EHRSHOT's `person_id_map.csv`.
        shots_from: `shots/1`, or EHRSHOT's `all_shots_data.json` (one, or a folder with one a task): these rows
            are used as they stand, and none are drawn.
        store: Folder that keeps what comes of every cell, by all that it depends on: nothing that another run has
            fitted is fitted again. Several runs may use one at once.
        workers: Processes; cells are shared among them. The results do not depend on it.
        overwrite: Replace results and shots that are there.

    Returns:
        `out`, holding the tables of `results/1`, predictions/, plots/, report.html and report.md.

    Raises:
        ContractError: If an input is not what it should be, or features or predictions lack a label.
        ConfigError: If the config names an unknown task.
        UserError: If `out` exists, a name cannot be a file name, delays of features differ, or a head
            needs what is not installed.
        UnfinishedError: If a cell fails; the others that are done are kept.
    """
    labels, out = Path(labels), Path(out)
    shots = None if shots is None else Path(shots)
    config = config or EhrshotConfig()
    for head in config.heads.values():
        HEADS[head.kind].require(head)
    named, given = _paths(features), _paths(predictions or {})
    known = None if risks is None else Path(risks)
    split_file, named_shots = (None if p is None else Path(p) for p in (splits, shots_from))
    more = [path for path in (known, split_file, named_shots) if path]
    read = [labels, *named.values(), *given.values(), *more]
    refuse_existing(out, RESULTS, overwrite=overwrite, inputs=read)
    if shots:
        refuse_inputs(shots, [*read, out])
    inputs = open_inputs(labels, named, given, config, known, split_file, named_shots)
    published = None if config.reference is None else read_published(config.reference)
    pairs_of([s for task in inputs.tasks for s in settings_of_task(task, config)], config)
    tell_tasks(labels, config.labels)
    if shots:
        write_shots(shots, inputs.tasks, config, inputs.sources, overwrite=overwrite)
    with new_artifact(
        out, RESULTS, overwrite=overwrite, inputs=read, key=run_key(to_dict(config), inputs.sources)
    ) as unfinished:
        plan = Plan(parts_of(unfinished), inputs.features, config, all_rows_alike(inputs.tasks))
        if store is not None:
            named_cells = names_of(inputs.tasks, inputs.sources, config)
            plan = replace(plan, store=Path(store).absolute(), names=named_cells)
        for task in inputs.tasks:
            write_task(plan.task(task.name), task)
        cells = [cell for task in inputs.tasks for cell in cells_of(task, config)]
        run_cells(cells, plan, workers=workers)
        evaluations = [gather(task, plan, inputs.best.get(task.name)) for task in inputs.tasks]
        evaluations += [Evaluation(task, no_rows(), why) for task, why in inputs.left_out.items()]
        _tell_unconverged(evaluations)
        groups, compared = group_rows(evaluations, config), compare(evaluations, config)
        rows = write_results(unfinished, evaluations, groups, compared)
        told = groups, compared, published
        write_report(unfinished, evaluations, config, inputs.sources, *told)
        write_markdown(unfinished, evaluations, config, *told)
        shutil.rmtree(plan.directory)
        seal(
            unfinished,
            RESULTS,
            producer=PRODUCER,
            config=to_dict(config),
            seed=0,
            inputs=inputs.sources,
            rows=rows,
        )
    return out


def _paths(named: Mapping[str, PathLike]) -> dict[str, Path]:
    return {name: Path(path) for name, path in named.items()}


def _tell_unconverged(evaluations: Sequence[Evaluation]) -> None:
    found = [each for evaluation in evaluations for each in evaluation.unconverged]
    if found:
        cell, point = found[0]
        note(
            f"{len(found):,} fits did not converge within the head's max_iter, the first of {cell}, "
            f"at {point}; raise max_iter (the report lists them)"
        )
