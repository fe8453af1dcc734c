from datetime import datetime, timedelta
from types import SimpleNamespace

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ehr_tracking.arrow.features import write_features
from ehr_tracking.contracts import FEATURES, TOKENS
from ehr_tracking.manifest import new_artifact, seal

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[BOS]", "[EOS]"]
VOCAB = 40
FIRST = datetime(2020, 1, 1)  # noqa: DTZ001 -- MEDS times have no zone


@pytest.fixture(scope="session")
def toys():
    """Makers of tiny inputs; a module of helpers could not be imported from a test."""
    return SimpleNamespace(
        vocab=VOCAB,
        Record=Record,
        day=day,
        records=random_records,
        tokens=write_tokens,
        labels=write_labels,
        features=write_feature_artifact,
        tasks=make_toy,
    )


def day(n):
    """Days after the first of all records."""
    return FIRST + timedelta(days=float(n))


class Record:
    """One subject: [BOS], one static token, then (day, token) events in order."""

    def __init__(self, subject, events, split="train"):
        self.subject, self.events, self.split = subject, list(events), split

    def columns(self):
        times = [None, None, *(day(d) for d, _ in self.events)]
        return {
            "subject_id": self.subject,
            "token": [5, 7, *(t for _, t in self.events)],
            "time": times,
            "age": [0.0 if t is None else float((t - FIRST).days + 8000) for t in times],
            "visit": [0, 0, *(1 + int(d) // 7 for d, _ in self.events)],
            "segment": [0] * len(times),
        }


TOKEN_SCHEMA = pa.schema(
    {
        "subject_id": pa.int64(),
        "token": pa.list_(pa.uint16()),
        "time": pa.list_(pa.timestamp("us")),
        "age": pa.list_(pa.float32()),
        "visit": pa.list_(pa.uint16()),
        "segment": pa.list_(pa.uint8()),
    }
)


WORDS = pa.schema(
    [
        *(
            ("id", pa.int32()),
            ("token", pa.string()),
            ("kind", pa.string()),
            ("code", pa.string()),
            ("bin", pa.int32()),
        ),
        *(
            ("lower", pa.float32()),
            ("upper", pa.float32()),
            ("count", pa.int64()),
            ("subjects", pa.int64()),
        ),
        *(("description", pa.string()), ("parents", pa.list_(pa.string()))),
    ]
)


def write_tokens(out, records, *, vocabulary="code", config=None):
    with new_artifact(out, TOKENS, overwrite=True) as partial:
        names = SPECIALS + [f"{vocabulary}{i}" for i in range(len(SPECIALS), VOCAB)]
        words = [
            {
                "id": i,
                "token": name,
                "kind": "code" if i >= len(SPECIALS) else "special",
                "count": 1,
                "subjects": 1,
            }
            | ({"code": name} if i >= len(SPECIALS) else {})
            for i, name in enumerate(names)
        ]
        pq.write_table(pa.Table.from_pylist(words, WORDS), partial / "vocab.parquet")
        (partial / "tokenizer.json").write_text("{}\n")
        for split in sorted({r.split for r in records}):
            rows = [r.columns() for r in records if r.split == split]
            (partial / split).mkdir()
            pq.write_table(pa.Table.from_pylist(rows, TOKEN_SCHEMA), partial / split / "0.parquet")
        seal(partial, TOKENS, producer="test 0", config=config or {}, seed=0)
    return out


def random_records(subjects=12, *, seed=0, longest=40):
    rng = np.random.default_rng(seed)
    records = []
    for i in range(subjects):
        n = int(rng.integers(3, longest))
        days = np.sort(rng.integers(0, 60, n))
        split = ("train", "train", "tuning", "held_out")[i % 4]
        events = zip(days.tolist(), rng.integers(8, VOCAB, n).tolist(), strict=True)
        records.append(Record(100 + i, events, split))
    return records


def write_labels(root, tasks):
    """Task -> rows of (subject, time, value), as a user's own label tree."""
    for task, rows in tasks.items():
        (root / task).mkdir(parents=True, exist_ok=True)
        table = pa.table(
            {
                "subject_id": pa.array([r[0] for r in rows], pa.int64()),
                "prediction_time": pa.array([r[1] for r in rows], pa.timestamp("us")),
                "boolean_value": pa.array([r[2] for r in rows], pa.bool_()),
            }
        )
        pq.write_table(table, root / task / "labels.parquet")
    return root


def write_feature_artifact(out, rows, matrix, *, config=None):
    """Rows of (subject, time, split) beside a dense matrix."""
    index = pl.DataFrame(
        {
            "subject_id": pl.Series([r[0] for r in rows], dtype=pl.Int64),
            "prediction_time": pl.Series([r[1] for r in rows], dtype=pl.Datetime("us")),
            "split": [r[2] for r in rows],
        }
    )
    with new_artifact(out, FEATURES, overwrite=True) as partial:
        written = write_features(partial, np.asarray(matrix, np.float32), index.to_arrow())
        seal(partial, FEATURES, producer="test 0", config=config or {}, seed=0, rows=written)
    return out


def make_toy(root, *, subjects=120, seed=0):
    """Two tasks; features that tell the first one, noise, and a weak baseline."""
    rng = np.random.default_rng(seed)
    ids = np.arange(1, subjects + 1)
    splits = np.array(["train", "tuning", "held_out"])[np.arange(subjects) % 3]
    rows = [(int(i), day(v), s) for i, s in zip(ids, splits, strict=True) for v in (0, 10)]
    value = rng.random(len(rows)) < 0.4
    other = rng.random(len(rows)) < 0.5
    labels = write_labels(
        root / "labels",
        {
            "told": [(r[0], r[1], bool(v)) for r, v in zip(rows, value, strict=True)],
            "untold": [(r[0], r[1], bool(v)) for r, v in zip(rows, other, strict=True)],
        },
    )
    noise = rng.normal(size=(len(rows), 4))
    told = noise.copy()
    told[:, 0] = np.where(value, 3.0, -3.0) + rng.uniform(-1, 1, len(rows))
    weak = noise.copy()
    weak[:, 1] += value
    features = {
        "model": write_feature_artifact(root / "features" / "model", rows, told),
        "noise": write_feature_artifact(root / "features" / "noise", rows, noise),
        "counts": write_feature_artifact(root / "features" / "counts", rows, weak),
    }
    return labels, features
