"""Made-up records: the same tokens for every contender."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

CONTEXT, VOCABULARY = 1024, 4096
MEGA = 50
"""Batches that Trainer sorts by length at a time, on a data set of some size."""


class Scale(NamedTuple):
    """How much there is to do."""

    records: int
    batch: int
    """Records of one of Trainer's batches."""
    gathered: int
    """Batches whose gradients make up one of its steps."""


SCALES = {"cpu": Scale(2_000, 16, 1), "cuda": Scale(40_000, 64, 4)}
"""On a GPU batches as large as a model of 100M parameters has room for at 80 GB, however long its records."""
CPU = SCALES["cpu"]


def records(scale: Scale = CPU) -> list[npt.NDArray[np.int64]]:
    """The token ids of each record, [BOS] first; lengths are log-normal, median 120."""
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.normal(np.log(120), 1.0, scale.records)).astype(int).clip(8, CONTEXT)
    chance = 1 / np.arange(1, VOCABULARY - 6)
    ids = rng.choice(np.arange(7, VOCABULARY), int(lengths.sum()), p=chance / chance.sum())
    ids[np.concatenate([[0], np.cumsum(lengths)[:-1]])] = 5
    return np.split(ids, np.cumsum(lengths)[:-1])


def batches(
    number: int, *, grouped: bool, seed: int, scale: Scale = CPU
) -> list[npt.NDArray[np.int64]]:
    """The records of Trainer's batches, one batch after the other.

    Grouped by length they come from one sorted group of `MEGA` batches, at even distances from the
    longest to the shortest: a whole group would take a minute.
    """
    rng, size = np.random.default_rng([abs(seed), seed < 0]), scale.batch
    drawn = rng.permutation(scale.records)[: max(MEGA, number) * size]
    rows = records(scale)
    if grouped:
        drawn = np.array(sorted(drawn[: MEGA * size], key=lambda i: -len(rows[i])))
        places = [(2 * i + 1) * MEGA // (2 * number) for i in range(number)]
    else:
        places = [*range(number)]
    chosen = [drawn[size * n : size * (n + 1)] for n in places]
    return [rows[i] for batch in chosen for i in batch]


def mean_tokens(scale: Scale = CPU) -> int:
    """Real tokens of a step of Trainer, on average."""
    return int(scale.batch * scale.gathered * np.mean([len(r) for r in records(scale)]))


def write_tokens(directory: Path, scale: Scale = CPU) -> Path:
    """The records as a token data set."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ehr_tracking.contracts import SPECIALS, TOKENS
    from ehr_tracking.manifest import seal

    (directory / "train").mkdir(parents=True)
    names = [*SPECIALS, *(f"C{i}" for i in range(len(SPECIALS), VOCABULARY))]
    vocabulary = pa.table({"id": pa.array(range(VOCABULARY), pa.int32()), "token": names})
    pq.write_table(vocabulary, directory / "vocab.parquet")
    (directory / "tokenizer.json").write_text("{}")
    rows = records(scale)
    times = [[None, *range(len(r) - 1)] for r in rows]
    columns = {
        "subject_id": pa.array(range(len(rows)), pa.int64()),
        "token": pa.array(rows, pa.list_(pa.uint16())),
        "time": pa.array(times, pa.list_(pa.timestamp("us"))),
        "age": pa.array([np.zeros(len(r)) for r in rows], pa.list_(pa.float32())),
        "visit": pa.array([np.zeros(len(r)) for r in rows], pa.list_(pa.uint16())),
    }
    pq.write_table(pa.table(columns), directory / "train" / "0.parquet")
    seal(directory, TOKENS, producer="benchmark", config={})
    return directory
