"""`ehr-eval curve`: the risk of tasks along one stretch of one subject's record, with its interval."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from ehr_eval.features.reader import subjects_of
from ehr_eval.frames import PRODUCER
from ehr_eval.generate.asking import ask, questions
from ehr_eval.generate.config import microseconds
from ehr_eval.generate.curve_page import Mark, write_page
from ehr_eval.generate.rules import matches
from ehr_eval.generate.run import Opened, open_setting
from ehr_eval.generate.zeroshot import check_tasks, setting_of
from ehr_eval.generate.zeroshot_config import ZeroshotConfig
from ehr_eval.tasks.files import TaskFile, read_task_files
from ehr_eval.tasks.patterns import EventPattern
from ehr_models.data.tokens import STATIC
from ehr_tracking.config import ConfigError, to_dict
from ehr_tracking.contracts import CURVE, ContractError
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import new_artifact, refuse_existing, seal, source

_MOST = 2000
"""Points of a curve that anybody looks at."""


class Stretch(NamedTuple):
    """Of one subject's record."""

    subject: int
    start: datetime | None = None
    """None: the first event after birth."""
    end: datetime | None = None
    """Included; None: the last one."""
    every: str = "6h"
    """A number with m, h, d, w or y."""


def curve(
    checkpoint: PathLike,
    tokens: PathLike,
    task_files: Sequence[PathLike],
    stretch: Stretch,
    out: PathLike,
    config: ZeroshotConfig | None = None,
    *,
    device: str = "cpu",
    overwrite: bool = False,
) -> pl.DataFrame:
    """Write `curve/1`: the risk of some tasks at times along a record, a plot a task and a page.

    At each time a model sees what was known then, that time included. The plots mark what came: outcomes,
    and where stays of the task begin and end.

    Args:
        checkpoint: A run or checkpoint of a causal kind.
        tokens: `tokens/1` with its vocabulary.
        task_files: Tasks as YAML; when they are asked otherwise does not matter.
        stretch: Of whose record, from when to when.
        out: Where the artifact shall be.
        config: Estimator, and how futures are drawn.
        device: As torch names it.
        overwrite: Replace a curve that is there.

    Returns:
        task, subject_id, prediction_time, risk, lower, upper, tokens.

    Raises:
        ConfigError: If a task file or the stretch is none, or the model cannot generate.
        ContractError: If an input is not what it should be, or lacks the subject.
        UserError: If no token can tell an outcome, or `out` exists.
    """
    checkpoint, tokens, out = Path(checkpoint), Path(tokens), Path(out)
    config, tasks = config or ZeroshotConfig(), read_task_files(task_files)
    if not tasks:
        raise UserError("name at least one task file")
    read = [checkpoint, tokens, *map(Path, task_files)]
    refuse_existing(out, CURVE, overwrite=overwrite, inputs=read)
    setting = setting_of(checkpoint, tokens, tasks, config, device)
    opened = open_setting(setting)
    check_tasks(list(tasks.values()), opened, config)
    rows = _times(stretch, opened, tokens)
    work = questions(dict.fromkeys(tasks, rows), tasks, list(opened.splits), config)
    for question in work:
        opened.prompts(question.part)
    found = pl.concat([ask(question, setting, config) for question in work]).drop("drawn")
    found = found.sort("task", "prediction_time")
    until = None if stretch.end is None else _micro(stretch.end)
    marks = {name: _marks(task, rows, until, opened) for name, task in tasks.items()}
    with new_artifact(out, CURVE, overwrite=overwrite, inputs=read) as partial:
        found.write_parquet(partial / "curve.parquet")
        write_page(partial, found, tasks, marks, config)
        seal(
            partial,
            CURVE,
            producer=PRODUCER,
            config={
                **to_dict(config),
                "tasks": {name: to_dict(task) for name, task in tasks.items()},
                "every": stretch.every,
            },
            seed=config.draw.seed,
            inputs={"checkpoint": opened.loaded.source, "tokens": source(tokens)},
            rows={"curve.parquet": found.height},
        )
    return found


def parse_time(text: str, option: str) -> datetime:
    """A time as an option gives it.

    Raises:
        ConfigError: If it is none.

    Examples:
        >>> parse_time("2150-03-01 08:00", "--from").isoformat()
        '2150-03-01T08:00:00'
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is not None:
        raise ConfigError(f"{option} {text!r} is no time like 2150-03-01T08:00, without a zone")
    return found


def _times(stretch: Stretch, opened: Opened, tokens: Path) -> pl.DataFrame:
    """subject_id, prediction_time, split, subject_row of each point."""
    subjects = subjects_of(opened.splits).filter(subject_id=stretch.subject)
    if not subjects.height:
        raise ContractError(f"{tokens} has no subject {stretch.subject}")
    _, dated = _record(subjects, opened)
    first, last = stretch.start, stretch.end
    if (first is None or last is None) and not len(dated):
        raise ContractError(f"{tokens}: subject {stretch.subject} has no event with a time")
    start = int(dated[0]) if first is None else _micro(first)
    end = int(dated[-1]) if last is None else _micro(last)
    try:
        step = microseconds(stretch.every)
    except ValueError as e:
        raise ConfigError(f"--every {stretch.every!r}: {e}") from None
    if end < start:
        raise ConfigError(f"the curve ends ({_shown(end)}) before it begins ({_shown(start)})")
    count = (end - start) // step + 1
    if count > _MOST:
        raise ConfigError(
            f"--every {stretch.every} from {_shown(start)} to {_shown(end)} makes {count:,} points, more than "
            f"{_MOST:,}; ask more seldom, or for less"
        )
    times = pl.Series("prediction_time", start + step * np.arange(count)).cast(pl.Datetime("us"))
    return (
        pl.DataFrame(times)
        .join(subjects, how="cross")
        .select("subject_id", times.name, "split", "subject_row")
    )


def _record(
    subjects: pl.DataFrame, opened: Opened
) -> tuple[np.typing.NDArray[np.int64], np.typing.NDArray[np.int64]]:
    """The dated tokens of a subject, and their times; decades may lie between birth and all others."""
    _, split, row = subjects.row(0)
    data = opened.splits[split]
    mine = slice(int(data.offsets[row]), int(data.offsets[row + 1]))
    token, time = data.token[mine].astype(np.int64), data.time[mine].astype(np.int64)
    dated = time != STATIC
    later = dated & (data.age[mine] > 0)
    kept = later if later.any() else dated
    return token[kept], time[kept]


def _marks(task: TaskFile, rows: pl.DataFrame, until: int | None, opened: Opened) -> list[Mark]:
    """What came within the stretch (until its end, where that was said), and what it is to the task."""
    token, time = _record(rows.select("subject_id", "split", "subject_row"), opened)
    spelling = opened.built.engine.spelling
    events = spelling.events(token)
    told = [spelling.told(state) for state in events.state.tolist()]
    first, last = rows["prediction_time"].dt.epoch("us").sort()[[0, -1]].to_list()
    last = last if until is None else until
    kinds: dict[str, Sequence[EventPattern]] = {
        "outcome": task.outcome or (),
        "begin": () if task.start.whole_record else (EventPattern(code=task.start.regex),),
        "end": (EventPattern(code=task.start.until),) if task.start.until else (),
    }
    found: dict[tuple[int, str], Mark] = {}
    for kind, patterns in kinds.items():
        for at in np.flatnonzero(matches(patterns, told)).tolist():
            when, event = int(time[events.last[at]]), told[at]
            if event is not None and first <= when <= last:
                found.setdefault((when, event.code), Mark(when, kind, event.code))
    return sorted(found.values())


def _micro(time: datetime) -> int:
    return int(np.datetime64(time, "us").astype(np.int64))


def _shown(micro: int) -> str:
    return str(np.datetime64(micro, "us").astype("datetime64[m]"))
