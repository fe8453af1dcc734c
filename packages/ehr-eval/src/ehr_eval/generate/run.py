"""`ehr-eval generate`: futures of all labelled prediction times, part by part, into one artifact."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm import tqdm

from ehr_eval.frames import PRODUCER, tell_tasks
from ehr_eval.generate.build import Built, build_engine
from ehr_eval.generate.config import GenerateConfig
from ehr_eval.generate.prompts import Part, Prompts, cut_parts, make_prompts
from ehr_eval.generate.trajectories import (
    EVENTS,
    FUTURES,
    SAMPLES,
    event_table,
    future_table,
    write_samples,
)
from ehr_eval.workers import each_once, rank, run_key
from ehr_models.checkpoint import LoadedCheckpoint, load_checkpoint, require_same_vocabulary
from ehr_models.data.store import open_split
from ehr_models.data.tokens import Tokens, open_tokens
from ehr_tracking.arrow.label_files import label_source
from ehr_tracking.checkpoints import resolve
from ehr_tracking.config import to_dict
from ehr_tracking.contracts import TRAJECTORIES
from ehr_tracking.files import PathLike, sync
from ehr_tracking.manifest import new_artifact, refuse_existing, seal, source


class GenerateSummary(NamedTuple):
    """What was written."""

    path: Path
    prediction_times: int
    futures: int
    events: int
    tokens: int
    """Drawn."""
    reasons: Mapping[str, int]
    """Why futures end -> how many."""


def generate(
    checkpoint: PathLike,
    tokens: PathLike,
    labels: PathLike,
    out: PathLike,
    config: GenerateConfig | None = None,
    *,
    device: str = "cpu",
    workers: int | None = None,
    overwrite: bool = False,
) -> GenerateSummary:
    """Write `trajectories/1`: futures from each labelled (subject, prediction time).

    A model sees what was known at the prediction time, that time included, and of that the newest tokens.
    The same input, config and seed give the same bytes on one kind of device, however many workers there
    are and however often the run was killed and given again.

    Args:
        checkpoint: A run or checkpoint of a causal kind.
        tokens: `tokens/1` with its vocabulary.
        labels: Anyone's MEDS labels: who is asked for, and from when on.
        out: Where the artifact shall be.
        config: How futures are drawn.
        device: As torch names it; `cuda`: all GPUs, a worker each.
        workers: Processes; None: one a core, or one a GPU, but no more than there are parts.
        overwrite: Replace trajectories that are there.

    Raises:
        ContractError: If an input is not what it should be, the vocabularies differ, labels name unknown
            subjects, or a prediction time sees nothing.
        ConfigError: If the model cannot generate, or the config does not fit it.
        UserError: If `out` exists.
        UnfinishedError: If a part fails; those that are done are kept.
    """
    checkpoint, tokens, labels, out = Path(checkpoint), Path(tokens), Path(labels), Path(out)
    config = config or GenerateConfig()
    read = [checkpoint, tokens, labels]
    refuse_existing(out, TRAJECTORIES, overwrite=overwrite, inputs=read)
    setting = Setting(resolve(checkpoint), tokens, config, device)
    opened = open_setting(setting)  # whatever is wrong is said before anything is drawn
    parts = cut_parts(labels, opened.splits, config.part, where=tokens, columns=config.labels)
    for part in parts:
        opened.prompts(part)
    tell_tasks(labels, config.labels)
    inputs = {
        "checkpoint": opened.loaded.source,
        "tokens": source(tokens),
        "labels": label_source(labels),
    }
    resolved = {
        **to_dict(config),
        "context": opened.built.engine.drawing.context,
        "precision": opened.built.engine.decoder.precision,
        "dates": opened.built.dates,
        "delay": opened.delay,
    }
    key = run_key({**resolved, "device": torch.device(device).type}, inputs)
    with new_artifact(out, TRAJECTORIES, overwrite=overwrite, inputs=read, key=key) as unfinished:
        _clear(unfinished)
        _draw_all(setting, parts, unfinished, workers or default_workers(device))
        written = _rows(unfinished)
        futures = pa.concat_tables(pq.read_table(unfinished / p) for p in written if FUTURES in p)
        if config.per_sample:
            written |= write_samples(unfinished, config.samples)
        seal(
            unfinished,
            TRAJECTORIES,
            producer=PRODUCER,
            config=resolved,
            seed=config.seed,
            inputs=inputs,
            rows=written,
        )
    events = sum(rows for path, rows in written.items() if path.startswith(EVENTS))
    return GenerateSummary(
        path=out,
        prediction_times=sum(len(part.row) for part in parts),
        futures=len(futures),
        events=events,
        tokens=sum(futures["tokens"].to_pylist()),
        reasons=dict(Counter(futures["reason"].to_pylist()).most_common()),
    )


@dataclass(frozen=True, slots=True)
class Setting:
    """All that a process needs to draw parts."""

    checkpoint: Path
    tokens: Path
    config: GenerateConfig
    device: str


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """A setting in a process."""

    loaded: LoadedCheckpoint
    splits: Mapping[str, Tokens]
    built: Built
    where: Path
    """The tokens."""
    delay: Mapping[str, Any]
    """That they were made with."""

    def prompts(self, part: Part) -> Prompts:
        """What the futures of a part begin with.

        Raises:
            ContractError: If at a prediction time no token is visible.
        """
        tokens = self.splits[part.split]
        return make_prompts(
            tokens, part.row, part.time, context=self.built.prompt, where=self.where
        )


@lru_cache(maxsize=1)
def open_setting(setting: Setting) -> Opened:
    """Load a model and map tokens, once a process.

    Raises:
        ContractError: If an input is not what it should be, or the vocabularies differ.
        ConfigError: If the model cannot generate, or the config does not fit it.
        UserError: If its vocabulary spells no events, or no token may be drawn.
    """
    device = setting.device
    if device == "cuda" and torch.cuda.device_count() > 1:
        device = f"cuda:{rank() % torch.cuda.device_count()}"
    if torch.device(device).type == "cpu":
        torch.set_num_threads(1)  # more would change the last bits; processes share the parts out
    loaded = load_checkpoint(setting.checkpoint)
    token_set = open_tokens(setting.tokens)
    require_same_vocabulary(loaded, token_set)
    splits = {split: open_split(token_set, split) for split in token_set.splits}
    built = build_engine(loaded, splits, setting.config, device=device)
    delay = token_set.manifest.config.get("delay") or {}
    return Opened(loaded, splits, built, setting.tokens, delay)


def draw_part(
    part: Part, setting: Setting, directory: Path, tell: Callable[[int], object] = lambda _: None
) -> None:
    """Draw the futures of a part and write its two tables, the second when all is done.

    Args:
        part: Which.
        setting: Of the run.
        directory: Of the unfinished artifact.
        tell: Called with the number of futures that have ended.
    """
    opened = open_setting(setting)
    engine, prompts = opened.built.engine, opened.prompts(part)
    samples = engine.drawing.samples
    futures = engine.run(prompts, tell=tell)
    tables = {
        EVENTS: event_table(futures, prompts, engine.spelling, samples=samples),
        FUTURES: future_table(futures, prompts, samples=samples),
    }
    for folder, table in tables.items():
        path = directory / folder / _name(part)
        partial = path.with_name(f".{path.name}.partial")
        pq.write_table(table, partial, compression="zstd")
        sync(partial)
        partial.replace(path)


def _draw_all(setting: Setting, parts: Sequence[Part], directory: Path, workers: int) -> None:
    """Draw the parts that are not there yet."""
    left = [part for part in parts if not (directory / FUTURES / _name(part)).is_file()]
    samples, alone = setting.config.samples, min(workers, len(left)) <= 1
    total = sum(len(part.row) for part in parts) * samples
    missing = sum(len(part.row) for part in left) * samples
    with tqdm(
        total=total, initial=total - missing, unit="future", desc="generating", disable=None
    ) as bar:
        draw = partial(draw_part, setting=setting, directory=directory)
        draw = partial(draw, tell=bar.update) if alone else draw
        done = each_once(left, draw, workers=workers, caller="generate", named="parts")
        for part in done:
            if not alone:
                bar.update(len(part.row) * samples)


def _clear(directory: Path) -> None:
    """Make the folders; remove what a killed run wrote in part."""
    shutil.rmtree(directory / SAMPLES, ignore_errors=True)
    for folder in (EVENTS, FUTURES):
        (directory / folder).mkdir(exist_ok=True)
        for left in (directory / folder).glob(".*.partial"):
            left.unlink()


def _rows(directory: Path) -> dict[str, int]:
    """Path of each table -> its rows."""
    paths = [p for f in (EVENTS, FUTURES) for p in sorted((directory / f).glob("*.parquet"))]
    return {p.relative_to(directory).as_posix(): pq.read_metadata(p).num_rows for p in paths}


def _name(part: Part) -> str:
    return f"{part.number:05d}.parquet"


def default_workers(device: str) -> int:
    """One process a core, or one a GPU."""
    kind = torch.device(device).type
    if kind == "cpu":
        return (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
    return torch.cuda.device_count() if device == "cuda" else 1
