"""Data sets that begin valid, and how they are written."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ehr_tokenize.config import NumericConfig, ShardConfig, TokenizeConfig, VocabularyConfig

DAY = 86_400_000_000
INT64 = np.iinfo(np.int64)
ADMISSION = "HOSPITAL_ADMISSION//EMERGENCY"
SPLIT_FILE, CODE_FILE = "metadata/subject_splits.parquet", "metadata/codes.parquet"


@dataclass
class Row:
    subject: int | None
    time: int | None
    code: str | bytes | None
    value: float | None = None


@dataclass
class File:
    name: str
    rows: list[Row]
    code_type: pa.DataType = pa.string()  # noqa: RUF009 -- immutable
    reshape: list[Callable[[pa.Table], pa.Table]] = field(default_factory=list)
    options: dict = field(default_factory=dict)
    damage: Callable[[bytes], bytes] | None = None
    valueless: bool = False


@dataclass
class Case:
    files: list[File]
    splits: dict[int, str] | None
    config: TokenizeConfig
    workers: int
    faults: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    """Patterns of which a message must match one, beside those that the rows give."""
    idle: list[tuple[int, str]] = field(default_factory=list)
    """Splits of subjects without events."""
    split_type: pa.DataType = pa.string()  # noqa: RUF009 -- immutable
    unsure: bool = False
    """Damage that no reader need see."""
    metadata: dict[str, pa.Table | bytes] = field(default_factory=dict)
    """File -> in place of what the case has."""

    @property
    def rows(self) -> list[Row]:
        return [r for f in self.files for r in f.rows]


def make(rng: random.Random) -> Case:
    ids = rng.sample(range(1, 40), rng.randint(1, 6))
    files = [File(f"data/{i}.parquet", []) for i in range(rng.randint(1, 3))]
    for subject in ids:
        rng.choice(files).rows += record(rng, subject)
    files = [f for f in files if f.rows]
    config = TokenizeConfig(
        numeric=NumericConfig(n_bins=rng.choice([2, 4, 10]), min_values=rng.choice([2, 5, 5, 20])),
        vocabulary=VocabularyConfig(exclude=("^ADMIN//",) if rng.random() < 0.3 else ()),
        shard=ShardConfig(subjects=rng.choice([1, 2, 8192])),
        max_unknown=1.0,
    )
    splits = {s: rng.choice(["train", "train", "tuning", "held_out"]) for s in ids}
    splits[ids[0]] = "train"
    return Case(files, splits, config, rng.choice([1, 1, 3]))


def record(rng: random.Random, subject: int) -> list[Row]:
    rows = [Row(subject, None, f"GENDER//{'FM'[subject % 2]}")] * rng.randint(0, 2)
    at = rng.randrange(-14_000, 7_000) * DAY + rng.randrange(DAY)
    rows += [Row(subject, at, "PRENATAL")] * (rng.random() < 0.2)
    if rng.random() < 0.8:
        at += DAY
        rows.append(Row(subject, at, "MEDS_BIRTH"))
    at += rng.randrange(20_000 * DAY)
    for _ in range(rng.randrange(30)):
        at += rng.choice([0, 0, 1, 60_000_000, rng.randrange(DAY), DAY, rng.randrange(99 * DAY)])
        code = rng.choice(["LAB//A", "LAB//A", "LAB//B", ADMISSION, "é//☃", "ADMIN//X", "DX"])
        value = rng.randrange(5) / 4 * rng.choice([1, 1, -1])  # -0.0 as well
        value = value if code[:3] == "LAB" and rng.random() < 0.9 else None
        rows.append(Row(subject, at, code, value))
    return rows or [Row(subject, at, "DX")]


def named(case: Case, more: list[tuple]) -> pa.Table:
    """The table of splits, with more rows behind."""
    splits = case.splits
    if splits is None:
        splits = dict.fromkeys((r.subject for r in case.rows), "train")
    pairs = [p for p in splits.items() if p[0] is not None] + more
    ids = pa.array([s for s, _ in pairs], pa.int64())
    return pa.table({"subject_id": ids, "split": as_text([n for _, n in pairs], case.split_type)})


def as_text(items: list[str | bytes | None], kind: pa.DataType) -> pa.Array:
    """A column of strings that need not be UTF-8."""
    data = [s.encode() if isinstance(s, str) else s for s in items]
    raw = pa.array(data, pa.binary())
    if kind == pa.large_string():
        return raw.cast(pa.large_binary()).view(kind)
    if kind == pa.string_view():
        return raw.cast(pa.binary_view()).view(kind)
    if pa.types.is_dictionary(kind):
        encoded = as_text(items, kind.value_type).dictionary_encode()
        return pa.DictionaryArray.from_arrays(
            encoded.indices.cast(kind.index_type), encoded.dictionary
        )
    return raw.view(pa.string())


def put(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    """With a column in place of the one of that name, or behind the others."""
    names = table.column_names
    if names.count(name) == 1:
        return table.set_column(names.index(name), name, column)
    return table if name in names else table.append_column(name, column)


def to_table(file: File) -> pa.Table:
    rows = file.rows
    table = pa.table(
        {
            "subject_id": pa.array([r.subject for r in rows], pa.int64()),
            "time": pa.array([r.time for r in rows], pa.int64()).cast(pa.timestamp("us")),
            "code": as_text([r.code for r in rows], file.code_type),
            "numeric_value": pa.array([r.value for r in rows], pa.float32()),
            "text_value": pa.array(["text" if r.value is None else None for r in rows]),
            "unit": pa.nulls(len(rows), pa.string()),
        }
    )
    for change in file.reshape:
        table = change(table)
    return table


def write(case: Case, root: Path) -> None:
    for file in case.files:
        path = root / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        options = file.options
        if pa.types.is_dictionary(file.code_type):
            options = {k: v for k, v in options.items() if k != "column_encoding"}
        pq.write_table(to_table(file), path, **options)
        if file.damage:
            path.write_bytes(file.damage(path.read_bytes()))
    (root / "metadata").mkdir()
    tables: dict[str, pa.Table | bytes] = dict(case.metadata)
    if case.splits is not None:
        tables.setdefault(SPLIT_FILE, named(case, case.idle))
    for name, content in tables.items():
        if isinstance(content, bytes):
            (root / name).write_bytes(content)
        else:
            pq.write_table(content, root / name)
