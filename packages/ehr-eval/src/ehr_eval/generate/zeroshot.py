"""`ehr-eval zeroshot`: risks of tasks from simulated futures, without a label to learn from, as `predictions/1`."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa
import torch
from tqdm import tqdm

from ehr_eval.answers import Answer, write_parts
from ehr_eval.features.reader import subjects_of
from ehr_eval.frames import KEY, PRODUCER, in_order_of, labelled_rows
from ehr_eval.generate.asking import Question, ask, questions
from ehr_eval.generate.estimators import ESTIMATORS
from ehr_eval.generate.run import Opened, Setting, default_workers, open_setting
from ehr_eval.generate.zeroshot_config import ZeroshotConfig
from ehr_eval.tasks.files import TaskFile, read_task_files
from ehr_eval.workers import each_once, run_key
from ehr_tracking.arrow import labels as label_reader
from ehr_tracking.arrow.label_files import label_source
from ehr_tracking.checkpoints import resolve
from ehr_tracking.config import to_dict
from ehr_tracking.contracts import HELD_OUT, PREDICTIONS, TUNING, ContractError
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike, sync
from ehr_tracking.manifest import Source, new_artifact, refuse_existing, seal, source

SCHEMA = pa.schema(
    {
        "subject_id": pa.int64(),
        "prediction_time": pa.timestamp("us"),
        "boolean_value": pa.bool_(),
        "predicted_boolean_value": pa.bool_(),
        "predicted_boolean_probability": pa.float32(),
        "lower": pa.float32(),
        "upper": pa.float32(),
        "tokens": pa.int64(),
    }
)
"""`predictions/1` with the interval of each risk, and the tokens drawn for it."""
_PARTS = "parts"


class ZeroshotSummary(NamedTuple):
    """What was written."""

    path: Path
    told: list[dict[str, object]]
    """A row a task: how many rows, their mean risk, the mean width of their intervals, tokens a row."""
    drawn: int
    """Tokens, each once, however many tasks looked on."""


def zeroshot(  # noqa: PLR0913 -- the inputs of an artifact
    checkpoint: PathLike,
    tokens: PathLike,
    labels: PathLike,
    task_files: Sequence[PathLike],
    out: PathLike,
    config: ZeroshotConfig | None = None,
    *,
    device: str = "cpu",
    workers: int | None = None,
    overwrite: bool = False,
) -> ZeroshotSummary:
    """Write `predictions/1` of the held-out rows of some tasks, and where asked for of the tuning rows.

    A model sees what was known at the prediction time, that time included. Tasks that are asked at the same
    times look on at the same futures, unless the estimator needs futures of its own. A run that was killed
    goes on with the parts that are not there yet.

    Args:
        checkpoint: A run or checkpoint of a causal kind.
        tokens: `tokens/1` with its vocabulary.
        labels: Of tasks with the names of the files: who is asked for, when, and what came of it.
        task_files: Tasks as YAML.
        out: Where the artifact shall be.
        config: Estimator, and how futures are drawn.
        device: As torch names it; `cuda`: all GPUs, a worker each.
        workers: Processes; None: one a core, or one a GPU.
        overwrite: Replace predictions that are there.

    Raises:
        ConfigError: If a task file is none, or the model cannot generate.
        ContractError: If an input is not what it should be, the labels lack a task or name unknown
            subjects, or none is held out.
        UserError: If no token can tell an outcome, or `out` exists.
        UnfinishedError: If a part fails; those that are done are kept.
    """
    checkpoint, tokens, labels, out = Path(checkpoint), Path(tokens), Path(labels), Path(out)
    config, tasks = config or ZeroshotConfig(), read_task_files(task_files)
    if not tasks:
        raise UserError("name at least one task file")
    read = [checkpoint, tokens, labels, *map(Path, task_files)]
    refuse_existing(out, PREDICTIONS, overwrite=overwrite, inputs=read)
    setting = setting_of(checkpoint, tokens, tasks, config, device)
    opened = open_setting(setting)  # whatever is wrong is said before anything is drawn
    told = _labels(labels, tasks, config)
    splits = (HELD_OUT, TUNING) if config.tuning else (HELD_OUT,)
    asked = {
        name: _rows(table, splits, opened, tokens, labels, name) for name, table in told.items()
    }
    work = questions(asked, tasks, list(opened.splits), config)
    for question in work:
        opened.prompts(question.part)
        check_tasks(question.tasks, opened, config)
    inputs = {
        "checkpoint": opened.loaded.source,
        "tokens": source(tokens),
        "labels": label_source(labels),
    }
    resolved = _resolved(config, setting, opened, tasks)
    key = run_key({**resolved, "device": torch.device(device).type}, inputs)
    with new_artifact(out, PREDICTIONS, overwrite=overwrite, inputs=read, key=key) as unfinished:
        _ask_all(work, setting, config, unfinished / _PARTS, workers or default_workers(device))
        risks = pl.concat(
            pl.read_parquet(unfinished / _PARTS / _name(question)) for question in work
        )
        shutil.rmtree(unfinished / _PARTS)
        rows = write_predictions(unfinished, risks, asked, out)
        seal_predictions(unfinished, resolved, config.draw.seed, inputs, rows)
    return ZeroshotSummary(out, _told(risks, asked), int(risks["drawn"].sum()))


def setting_of(
    checkpoint: Path,
    tokens: Path,
    tasks: Mapping[str, TaskFile],
    config: ZeroshotConfig,
    device: str,
) -> Setting:
    """What a process needs to draw futures that are long enough for some tasks."""
    samples = None if ESTIMATORS[config.estimator].draws else 1
    drawing = config.drawing(list(tasks.values()), samples=samples)
    return Setting(resolve(checkpoint), tokens, drawing, device)


def check_tasks(tasks: Sequence[TaskFile], opened: Opened, config: ZeroshotConfig) -> None:
    """Raise for a task whose outcome no token can tell.

    Raises:
        UserError: Naming task and codes.
    """
    for task in tasks:
        observer = ESTIMATORS[config.estimator](task, opened.built.engine.spelling, config.limit)
        if not observer.draws and not len(observer.wait.outcome.tokens):
            raise UserError(
                f"task {task.name}: direct looks at the next token, but the outcome takes several to tell; "
                "choose another estimator"
            )


def _labels(
    labels: Path, tasks: Mapping[str, TaskFile], config: ZeroshotConfig
) -> dict[str, pa.Table]:
    tables = label_reader.read_labels(labels, reader=PRODUCER, columns=config.draw.labels)
    missing = [name for name in tasks if name not in tables]
    if missing:
        raise ContractError(
            f"{labels} has no labels of task {missing[0]}; it has {', '.join(tables)}. Make them of the "
            "same file: ehr-eval labels --task-file"
        )
    return {name: label_reader.binary(tables[name], task=name) for name in tasks}


def _rows(
    table: pa.Table,
    splits: Sequence[str],
    opened: Opened,
    tokens: Path,
    labels: Path,
    name: str,
) -> pl.DataFrame:
    """subject_id, prediction_time, split, subject_row and boolean_value of the rows of a task in some splits."""
    rows = labelled_rows({name: table}, subjects_of(opened.splits), where=tokens)
    rows = rows.filter(pl.col("split").is_in(splits))
    if not (rows["split"] == HELD_OUT).any():
        raise ContractError(
            f"{labels}: no label of task {name} is of a subject that {tokens} has in {HELD_OUT}"
        )
    told = pl.DataFrame(pl.from_arrow(table.select([*KEY, "boolean_value"])))
    return rows.join(told, on=KEY, how="left", maintain_order="left")


def _ask_all(
    work: Sequence[Question],
    setting: Setting,
    config: ZeroshotConfig,
    directory: Path,
    workers: int,
) -> None:
    """Ask what has not been answered yet."""
    directory.mkdir(exist_ok=True)
    for left_over in directory.glob(".*.partial"):
        left_over.unlink()
    left = [question for question in work if not (directory / _name(question)).is_file()]
    samples, alone = setting.config.samples, min(workers, len(left)) <= 1

    def futures(some: Sequence[Question]) -> int:
        return sum(len(question.part.row) for question in some) * samples

    with tqdm(
        total=futures(work),
        initial=futures(work) - futures(left),
        unit="future",
        desc="asking",
        disable=None,
    ) as bar:
        do = partial(_ask_part, setting=setting, config=config, directory=directory)
        do = partial(do, tell=bar.update) if alone else do
        for question in each_once(left, do, workers=workers, caller="zeroshot", named="parts"):
            if not alone:
                bar.update(futures([question]))


def _ask_part(
    question: Question,
    setting: Setting,
    config: ZeroshotConfig,
    directory: Path,
    tell: Callable[[int], object] = lambda _: None,
) -> None:
    path = directory / _name(question)
    partly = path.with_name(f".{path.name}.partial")
    ask(question, setting, config, tell).write_parquet(partly)
    sync(partly)
    partly.replace(path)


def write_predictions(
    directory: Path, risks: pl.DataFrame, asked: Mapping[str, pl.DataFrame], out: Path
) -> dict[str, int]:
    """A table a task and split; a row without an answer in any future gets the mean risk of its table.

    Args:
        directory: Of the unfinished artifact.
        risks: task, and the columns of `asking.SCHEMA`.
        asked: Task -> its labels, of `split` held_out and perhaps tuning.
        out: What is named where a row is missing.

    Returns:
        Path -> its rows.
    """
    rows: dict[str, int] = {}
    for name, mine in asked.items():
        found = in_order_of(
            mine.select(*KEY, "boolean_value", "split"),
            risks.filter(task=name).drop("task", "drawn"),
            where=out,
            what=f"rows of task {name}",
        )
        held_out, tuning = (_table(found.filter(split=split)) for split in (HELD_OUT, TUNING))
        rows |= write_parts(directory, name, Answer(held_out, tuning=tuning))
    return rows


def _table(found: pl.DataFrame) -> pa.Table:
    """The rows of one split, in the columns of `SCHEMA`."""
    mean = 0.5 if found["risk"].null_count() == found.height else found["risk"].mean()
    told = found.with_columns(
        pl.lit(None, pl.Boolean).alias("predicted_boolean_value"),
        pl.col("risk").fill_null(pl.lit(mean)).alias("predicted_boolean_probability"),
    )
    return told.select(SCHEMA.names).to_arrow().cast(SCHEMA)


def _told(risks: pl.DataFrame, asked: Mapping[str, pl.DataFrame]) -> list[dict[str, object]]:
    """What there is to say of the held-out rows of each task."""
    found = []
    for name, rows in asked.items():
        held_out = rows.filter(split=HELD_OUT)
        mine = risks.filter(task=name).join(held_out.select(KEY), on=KEY, how="semi")
        width = (mine["upper"] - mine["lower"]).mean()
        found.append(
            {
                "task": name,
                "rows": mine.height,
                "without an answer": mine["risk"].null_count(),
                "positive": held_out["boolean_value"].mean(),
                "mean risk": mine["risk"].mean(),
                "mean interval": width,
                "tokens a row": mine["tokens"].mean(),
            }
        )
    return found


def _resolved(
    config: ZeroshotConfig, setting: Setting, opened: Opened, tasks: Mapping[str, TaskFile]
) -> dict[str, Any]:
    engine = opened.built.engine
    return {
        **to_dict(config),
        "draw": {
            **to_dict(setting.config),
            "context": engine.drawing.context,
            "precision": engine.decoder.precision,
            "dates": opened.built.dates,
        },
        "limit": config.draw.horizon,
        "delay": dict(opened.delay),
        "tasks": {name: to_dict(task) for name, task in tasks.items()},
    }


def seal_predictions(
    directory: Path,
    resolved: Mapping[str, Any],
    seed: int | None,
    inputs: Mapping[str, Source],
    rows: Mapping[str, int],
) -> None:
    """Seal what `write_predictions` wrote."""
    seal(
        directory,
        PREDICTIONS,
        producer=PRODUCER,
        config=resolved,
        seed=seed,
        inputs=inputs,
        rows=rows,
    )


def _name(question: Question) -> str:
    return f"{question.number:05d}.parquet"
