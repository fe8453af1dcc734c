"""Which rows are the k shots: EHRSHOT's draws, nested over k, the same for every model.

And `shots/1`: these rows for whoever trains a model elsewhere.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ehr_eval.frames import PRODUCER
from ehr_eval.protocol.config import EhrshotConfig
from ehr_eval.protocol.tables import arrow_schema
from ehr_eval.protocol.taskrows import Draw, Shots, SplitRows, TaskRows
from ehr_tracking.config import to_dict
from ehr_tracking.contracts import HELD_OUT, SHOTS, TRAIN, TUNING
from ehr_tracking.manifest import (
    MANIFEST,
    Source,
    load_manifest,
    new_artifact,
    refuse_existing,
    seal,
)

Rows = npt.NDArray[np.int64]


def sample(label: npt.NDArray[np.bool_], k: int, *, replicate: int, max_k: int = 128) -> Rows:
    """Draw k rows of each class.

    For each class NumPy's legacy generator is seeded with the replicate; `max_k` rows are drawn
    without replacement (what a class lacks is drawn again with replacement), and the first k of
    them are taken. So the shots of a smaller k are among those of a larger one.

    Args:
        label: [n] of one split; must hold both classes.
        k: Shots per class; -1 takes every row once, in order.
        replicate: Seed.
        max_k: Rows drawn per class; k may not exceed it.

    Returns:
        [2k] positions, negatives first; [n] for k = -1.

    Examples:
        >>> sample(np.array([True, False, False, True]), 2, replicate=0).tolist()
        [2, 1, 3, 0]
        >>> sample(np.array([True, False, False, True]), -1, replicate=0).tolist()
        [0, 1, 2, 3]
    """
    if k == -1:
        return np.arange(len(label))
    if not 1 <= k <= max_k:
        raise ValueError(f"k = {k}: must be -1 or in 1..{max_k}")
    drawn = []
    for value in (False, True):
        rows = np.flatnonzero(label == value)
        legacy = np.random.RandomState(replicate)
        first = legacy.choice(rows, size=min(len(rows), max_k), replace=False)
        again = legacy.choice(rows, size=max_k - len(first), replace=True)
        drawn.append(np.concatenate([first, again])[:k])
    return np.concatenate(drawn)


def shots(
    train: npt.NDArray[np.bool_],
    tuning: npt.NDArray[np.bool_],
    k: int,
    *,
    replicate: int,
    max_k: int = 128,
) -> Shots:
    """The shots of both splits; those for training shuffled with the replicate as seed."""
    rows = sample(train, k, replicate=replicate, max_k=max_k)
    order = np.random.RandomState(replicate).permutation(len(rows))
    return Shots(rows[order], sample(tuning, k, replicate=replicate, max_k=max_k))


def draws_of(task: TaskRows, config: EhrshotConfig) -> list[Draw]:
    """Which draws of a task are evaluated: of those that a file names, those that the config asks for."""
    asked = [Draw(k, replicate) for k in config.ks for replicate in range(config.draws(k))]
    return [draw for draw in asked if draw in task.drawn] if task.drawn else asked


def shots_of(task: TaskRows, draw: Draw, config: EhrshotConfig) -> Shots:
    """The rows of a draw: as a file names them, else drawn."""
    if task.drawn:
        return task.drawn[draw]
    train, tuning = (task.splits[split].label for split in (TRAIN, TUNING))
    return shots(train, tuning, draw.k, replicate=draw.replicate, max_k=config.max_k)


def all_rows_alike(tasks: Iterable[TaskRows]) -> bool:
    """Whether every draw of k = -1 has the same rows; a file could name others."""
    for task in tasks:
        named = [drawn for draw, drawn in sorted(task.drawn.items()) if draw.k == -1]
        if named and Draw(-1, 0) not in task.drawn:
            return False
        for drawn in named:
            for ours, theirs in zip(drawn, named[0], strict=True):
                if not np.array_equal(np.sort(ours), np.sort(theirs)):
                    return False
    return True


def write_shots(
    out: Path,
    tasks: Sequence[TaskRows],
    config: EhrshotConfig,
    inputs: Mapping[str, Source],
    *,
    overwrite: bool = False,
) -> Path:
    """Write `shots/1`: for each task what is learnt from, chosen by and judged on.

    Tasks that cannot be evaluated are left out. The very same shots, which a run that was killed
    has written, stay.

    Args:
        out: Where the artifact shall be.
        tasks: With their splits.
        config: The protocol: k, replicates.
        inputs: What splits and labels come from.
        overwrite: Replace shots that are there.

    Returns:
        `out`.
    """
    about = {name: to_dict(config)[name] for name in _DRAWING}
    if _are_these(out, about, inputs):
        return out
    refuse_existing(out, SHOTS, overwrite=overwrite)
    schema, rows = arrow_schema(SHOTS.columns), 0
    with new_artifact(out, SHOTS, overwrite=overwrite) as unfinished:
        with pq.ParquetWriter(unfinished / "shots.parquet", schema) as writer:
            for task in tasks:
                if task.problem is None:
                    table = pa.concat_tables(
                        pa.table(part).cast(schema) for part in _draws(task, config)
                    )
                    writer.write_table(table)
                    rows += len(table)
        seal(
            unfinished,
            SHOTS,
            producer=PRODUCER,
            config=about,
            seed=0,
            inputs=inputs,
            rows={"shots.parquet": rows},
        )
    return out


_DRAWING = ("ks", "max_k", "replicates", "replicates_all")
"""What of the config decides the draws."""


def _are_these(out: Path, config: Mapping[str, object], inputs: Mapping[str, Source]) -> bool:
    if not (out / MANIFEST).is_file():
        return False
    found = load_manifest(out)
    ours = (SHOTS.tag, PRODUCER, config, inputs)
    return (found.contract, found.producer, found.config, found.inputs) == ours


def _draws(task: TaskRows, config: EhrshotConfig) -> Iterator[dict[str, object]]:
    train, tuning, held_out = (task.splits[s] for s in (TRAIN, TUNING, HELD_OUT))
    for draw in draws_of(task, config):
        drawn = shots_of(task, draw, config)
        for split, rows, at in ((TRAIN, train, drawn.train), (TUNING, tuning, drawn.tuning)):
            yield _columns(task.name, split, rows, at, k=draw.k, replicate=draw.replicate)
    every = np.arange(len(held_out))
    yield _columns(task.name, HELD_OUT, held_out, every, k=None, replicate=None)


def _columns(
    task: str, split: str, rows: SplitRows, at: Rows, *, k: int | None, replicate: int | None
) -> dict[str, object]:
    n = len(at)
    return {
        "task": pa.repeat(task, n),
        "k": pa.repeat(pa.scalar(k, pa.int64()), n),
        "replicate": pa.repeat(pa.scalar(replicate, pa.int64()), n),
        "split": pa.repeat(split, n),
        "subject_id": rows.subject_id[at],
        "prediction_time": pa.array(rows.time[at], pa.timestamp("us")),
        "boolean_value": rows.label[at],
        "order": np.arange(n),
    }
