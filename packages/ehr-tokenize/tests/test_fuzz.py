"""A thousand damaged or odd data sets: each is refused in one line, or tokenised as plain Python does it.

A case begins as a small valid data set, and up to three faults are put into it. Plain rules over its
rows say what must be refused; where nothing must, an independent tokeniser in plain Python, subject
by subject and event by event, says what must come out.
"""

import json
import math
import random
import re
import shutil
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ehr_tokenize.check import check
from ehr_tokenize.config import NumericConfig, ShardConfig, TokenizeConfig, VocabularyConfig
from ehr_tokenize.driver import tokenize
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import verify

BLOCKS, BLOCK = 20, 50
DAY = 86_400_000_000
FIRST, LAST = -719_162 * DAY, 2_932_897 * DAY - 1  # the years 1 to 9999
INT64 = np.iinfo(np.int64)
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[BOS]", "[EOS]"]
SPLITS = ("train", "tuning", "held_out")
ADMISSION = "HOSPITAL_ADMISSION//EMERGENCY"
BIRTH = re.compile(r"MEDS_BIRTH(//|$)", re.ASCII)


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


# --- a valid data set


def single(x: float) -> float:
    return struct.unpack("f", struct.pack("f", x))[0]


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


# --- faults; what must be refused for a reason that rows do not show is named by the fault itself

FAULTS: list[Callable[[random.Random, Case], None]] = []


def fault(f):
    FAULTS.append(f)
    return f


def some(rng: random.Random, case: Case) -> list[Row]:
    """A few rows of a file, copied since rows may be shared; none where there is none."""
    file = rng.choice(case.files)
    chosen = rng.sample(range(len(file.rows)), min(len(file.rows), rng.choice([1, 1, 2, 9])))
    for i in chosen:
        file.rows[i] = replace(file.rows[i])
    return [file.rows[i] for i in chosen]


@fault
def rows_are_swapped(rng, case):
    rows = rng.choice(case.files).rows
    for _ in range(rng.choice([1, 1, 5]) if rows else 0):
        i, j = rng.randrange(len(rows)), rng.randrange(len(rows))
        rows[i], rows[j] = rows[j], rows[i]


@fault
def subjects_are_mixed(rng, case):
    rng.choice(case.files).rows.sort(key=lambda r: r.time if r.time is not None else INT64.min)


@fault
def a_subject_is_in_two_files(rng, case):
    rows = rng.choice(case.files).rows
    if rows:
        case.files.append(File("data/9.parquet", [replace(rows[-1])]))


@fault
def values_are_odd(rng, case):
    for row in some(rng, case):
        row.code = "LAB//A"
        row.value = rng.choice(
            [
                *map(single, (1e38, -1e38, 3.4028234e38, -3.4028234e38, 1e-45, 0.1)),
                *(math.inf, -math.inf, math.nan, -math.nan, 0.0, -0.0, None),
            ]
        )


@fault
def codes_are_odd(rng, case):
    for row in some(rng, case):
        row.code = rng.choice(
            [
                *(
                    "a b",
                    " ",
                    "//",
                    "/",
                    "A//",
                    "//A",
                    "\0",
                    "a\0b",
                    "a\nb",
                    "\r\n",
                    "\t",
                    "\x1b[2J",
                ),
                *(
                    "\x7f",
                    "\x1e",
                    "\u2028",
                    "\u202e",
                    "\ufeff",
                    "😀",
                    "e\u0301",
                    "'",
                    '"',
                    "\\",
                    "{}",
                ),
                *("%s", "NaN", "null", "None", "x" * 50_000, "ADMIN//" + "é" * 999, "medS_BIRTH"),
                *("MEDS_BIRTH//1", "MEDS_BIRTH/", "MEDS_BIRTH\n", "Q1", "TIME//D0", "-1", "0"),
            ]
        )


@fault
def codes_look_like_tokens(rng, case):
    for row in some(rng, case):
        row.code = rng.choice([*SPECIALS, "LAB//A//Q1", "LAB//A//Q2", "LAB//B//Q2"])


@fault
def codes_are_no_codes(rng, case):
    for row in some(rng, case):
        row.code = rng.choice(
            [
                "",
                None,
                "\x1f",
                "LAB//A\x1f",
                "LAB//A\x1f\x1fx",
                b"\xff",
                b"LAB//\xc3",
                b"\xed\xa0\x80",
            ]
        )


@fault
def subjects_are_null(rng, case):
    for row in some(rng, case):
        row.subject = None


@fault
def times_are_null(rng, case):
    for row in some(rng, case):
        row.time = None


@fault
def values_are_null(rng, case):
    for row in rng.choice(case.files).rows:
        row.value = None


@fault
def times_are_far_away(rng, case):
    """The first of a subject to the past or the last to the future, so that order holds."""
    rows = rng.choice(case.files).rows
    timed = [r for r in rows if r.time is not None]
    if timed:
        subject = rng.choice(timed).subject
        own = [r for r in timed if r.subject == subject]
        if rng.random() < 0.5:
            own[0].time = rng.choice([FIRST, FIRST - 1, INT64.min, INT64.min + 1, -100_000 * DAY])
        else:
            own[-1].time = rng.choice([LAST, LAST + 1, INT64.max, 100_000 * DAY])


@fault
def events_come_before_birth(rng, case):
    for row in some(rng, case):
        row.code = "MEDS_BIRTH"


@fault
def subjects_have_odd_ids(rng, case):
    for old in {r.subject for r in case.rows if r.subject is not None}:
        new = rng.choice([INT64.min, INT64.max, 0, -1, -old, old << 50, old])
        if case.splits is None or new in case.splits:
            continue
        for row in case.rows:
            row.subject = new if row.subject == old else row.subject
        case.splits[new] = case.splits.pop(old, "train")


@fault
def subjects_have_excluded_events_only(rng, case):
    exclude = VocabularyConfig(exclude=("^ADMIN//",))
    case.config = replace(case.config, vocabulary=exclude)
    subject = rng.choice([r.subject for r in case.rows] or [0])
    every = rng.random() < 0.2
    for file in case.files:
        file.rows = [
            replace(r, code="ADMIN//X") if every or r.subject == subject else r for r in file.rows
        ]


@fault
def a_file_has_no_rows(rng, case):
    case.files.insert(rng.randint(0, 1), File("data/empty/8.parquet", []))


@fault
def no_file_has_rows(rng, case):
    for file in case.files:
        file.rows = []


TYPES = {
    "subject_id": [pa.int32(), pa.uint64(), pa.string(), pa.float64()],
    "time": [
        *(pa.string(), pa.int64(), pa.date32(), pa.timestamp("ns"), pa.timestamp("ms")),
        *(pa.timestamp("us", tz="UTC"), pa.null(), pa.time64("us")),
    ],
    "code": [
        *(pa.int64(), pa.binary(), pa.large_binary(), pa.list_(pa.string()), pa.null()),
        *(pa.struct([("code", pa.string())]), pa.dictionary(pa.int32(), pa.int64())),
    ],
    "numeric_value": [
        *(pa.float64(), pa.float16(), pa.int64(), pa.string(), pa.bool_(), pa.null()),
        *(pa.decimal128(9, 2), pa.list_(pa.float32())),
    ],
}


@fault
def a_column_has_a_wrong_type(rng, case):
    file, name = rng.choice(case.files), rng.choice(list(TYPES))
    kind = rng.choice(TYPES[name])
    file.reshape.append(lambda t: put(t, name, pa.nulls(len(t), kind)))
    case.refused.append(rf"/{file.name}: column {name} is .*, MEDS has ")


@fault
def a_column_is_missing(rng, case):
    file, name = rng.choice(case.files), rng.choice(list(TYPES))
    file.reshape.append(lambda t: t.drop_columns([n for n in t.column_names if n == name]))
    if name == "numeric_value":
        for row in file.rows:
            row.value = None
    else:
        case.refused.append(rf"/{file.name}: not MEDS, column {name} is missing")


@fault
def a_column_is_there_twice(rng, case):
    file, name = rng.choice(case.files), rng.choice([*TYPES, "text_value", "unit"])
    file.reshape.append(
        lambda t: t.append_column(name, t[name]) if t.column_names.count(name) == 1 else t
    )
    if name in TYPES:
        case.refused.append(rf"/{file.name}: (column {name} is there twice|.*{name} is missing)")


@fault
def there_are_more_columns(rng, case):
    file = rng.choice(case.files)
    more = {
        "extra": pa.decimal256(50, 2), "code.x": pa.string(), "text_value": pa.int64(),
        "": pa.string(), "unit": pa.binary(), "Code": pa.string(), "nested": pa.list_(pa.int8()),
        "deep": pa.struct([("code", pa.int8())]), "é ☃": pa.null(), "pairs": pa.map_(pa.int8(), pa.int8()),
    }  # fmt: skip
    for name in rng.sample(list(more), 4):
        kind = more[name]
        file.reshape.append(
            lambda t, name=name, kind=kind: put(t, name, pa.nulls(len(t), kind)) if len(t) else t
        )


@fault
def texts_are_no_texts(rng, case):
    file = rng.choice(case.files)
    file.reshape.append(
        lambda t: put(t, "text_value", as_text([b"\xff\xfe"] * len(t), pa.string()))
    )


@fault
def columns_are_in_another_order(rng, case):
    file = rng.choice(case.files)
    file.reshape.append(lambda t: t.select(rng.sample(range(t.num_columns), t.num_columns)))


@fault
def codes_are_typed_otherwise(rng, case):
    file = rng.choice(case.files)
    file.code_type = rng.choice(
        [
            *(pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())),
            *(pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.uint32(), pa.large_string())),
        ]
    )


@fault
def the_file_is_written_otherwise(rng, case):
    file = rng.choice(case.files)
    file.options = rng.choice(
        [
            {"row_group_size": rng.choice([1, 3])},
            {"data_page_size": 1, "write_batch_size": 1},
            {"compression": rng.choice(["none", "gzip", "zstd", "lz4", "brotli"])},
            {"data_page_version": "2.0", "use_dictionary": False},
            {"store_schema": False},
            {"use_dictionary": False, "column_encoding": {"code": "DELTA_BYTE_ARRAY"}},
            {"use_dictionary": False, "column_encoding": {"code": "DELTA_LENGTH_BYTE_ARRAY"}},
            {"use_dictionary": False, "column_encoding": {"time": "DELTA_BINARY_PACKED"}},
            {"write_statistics": False, "use_compliant_nested_type": False},
            {"use_byte_stream_split": ["numeric_value"], "use_dictionary": False},
        ]
    )


@fault
def a_file_is_truncated(rng, case):
    file = rng.choice(case.files)
    share = rng.choice([0.0, rng.random(), rng.random(), 0.999])
    file.damage = lambda data: data[: int(len(data) * share)]
    case.refused.append(rf"/{file.name}: not a readable Parquet file")


@fault
def a_file_is_something_else(rng, case):
    file = rng.choice(case.files)
    data = rng.choice([b"", b"PAR1", b"PAR1PAR1", b"subject_id,time\n1,2\n", b"\0" * 999])
    file.damage = lambda _: data
    case.refused.append(rf"/{file.name}: not a readable Parquet file")


@fault
def bytes_are_changed(rng, case):
    start, size, to = rng.random(), rng.choice([1, 1, 8, 100]), rng.choice([0, 255, None])

    def damage(data: bytes) -> bytes:
        at = int(start * len(data))
        changed = bytes(b ^ 1 if to is None else to for b in data[at : at + size])
        return data[:at] + changed + data[at + size :]

    rng.choice(case.files).damage = damage
    case.unsure = True


SPLIT_FILE, CODE_FILE = "metadata/subject_splits.parquet", "metadata/codes.parquet"


def named(case: Case, more: list[tuple]) -> pa.Table:
    """The table of splits, with more rows behind."""
    splits = case.splits
    if splits is None:
        splits = dict.fromkeys((r.subject for r in case.rows), "train")
    pairs = [p for p in splits.items() if p[0] is not None] + more
    ids = pa.array([s for s, _ in pairs], pa.int64())
    return pa.table({"subject_id": ids, "split": as_text([n for _, n in pairs], case.split_type)})


@fault
def no_splits_are_named(rng, case):
    case.splits = None


@fault
def splits_are_damaged(rng, case):
    table, first = named(case, []), next(iter(case.splits or [1]))
    made = {
        "not a readable Parquet file": b"PAR1" * rng.randrange(4),
        "row .*: split is 'test', MEDS has train": named(case, [(77, "test")]),
        "row .*: split is 'Train', MEDS has train": named(case, [(77, "Train")]),
        "row .*: split is None, MEDS has train": named(case, [(77, None)]),
        "row .*: split is '', MEDS has train": named(case, [(77, "")]),
        "row .*: split is not UTF-8": named(case, [(77, b"\xff")]),
        "row .*: subject_id is null": named(case, [(None, "train"), (77, "train")]),
        rf"row .*: subject {first} is in two splits": named(
            case, [(first, "train"), (first, "tuning")]
        ),
        "column subject_id is missing": table.drop_columns("subject_id"),
        "column split is missing": table.drop_columns("split"),
        "column split is there twice": table.append_column("split", table["split"]),
        "column split is int64": put(table, "split", pa.nulls(len(table), pa.int64())),
        "column subject_id is string": put(table, "subject_id", table["subject_id"].cast("string")),
    }
    reason = rng.choice(list(made))
    case.metadata[SPLIT_FILE] = made[reason]
    case.refused.append(f"/{SPLIT_FILE}:? {reason}")


@fault
def splits_name_others(rng, case):
    case.idle = [(-(2**62), "tuning"), (78, "held_out"), (78, "held_out")]
    case.split_type = rng.choice([pa.string(), pa.large_string(), pa.string_view()])


@fault
def a_subject_has_no_split(rng, case):
    if case.splits:
        del case.splits[rng.choice(list(case.splits))]


@fault
def none_is_in_train(rng, case):
    if case.splits:
        case.splits = dict.fromkeys(case.splits, "tuning")


@fault
def codes_are_damaged(rng, case):
    codes = pa.array(["LAB//A", "DX"])
    made = {
        "not a readable Parquet file": b"PAR1" * rng.randrange(4),
        "column code is missing": pa.table({"x": codes}),
        "column code is int64": pa.table({"code": [1, 2]}),
        "column code is there twice": pa.Table.from_arrays([codes, codes], ["code", "code"]),
        "row 1: code is not UTF-8": pa.table({"code": as_text([b"A", b"\xff"], pa.string())}),
        "row 0: description is not UTF-8": pa.table(
            {"code": codes, "description": as_text([b"\xff", b""], pa.string())}
        ),
        "row 1: parent_codes is not UTF-8": pa.table(
            {
                "code": codes,
                "parent_codes": pa.ListArray.from_arrays(
                    [0, 1, 2], as_text([b"A", b"\xff"], pa.string())
                ),
            }
        ),
        **{
            f"column description is {kind}": pa.table({"code": codes, "description": column})
            for kind, column in {
                "int64": pa.array([1, 2]),
                "binary": pa.array([b"a", b"b"]),
                "list": pa.array([["a"], None]),
            }.items()
        },
        **{
            f"column parent_codes is {kind}": pa.table({"code": codes, "parent_codes": column})
            for kind, column in {
                "int64": pa.array([1, 2]),
                "string": pa.array(["a", "b"]),
                "list<.*int64": pa.array([[1], None]),
            }.items()
        },
    }
    reason = rng.choice(list(made))
    case.metadata[CODE_FILE] = made[reason]
    case.refused.append(f"/{CODE_FILE}:? {reason}")


@fault
def codes_are_described_oddly(rng, case):
    codes = pa.array(["LAB//A", None, "", "LAB//A", "x\ny"])
    texts, lists = (
        pa.array(["é", None, "", " ", "\0"]),
        pa.array([[], None, ["LAB//A"], [None], [""]]),
    )
    case.metadata.setdefault(
        CODE_FILE,
        rng.choice(
            [
                pa.table({"code": codes.slice(0, 0)}),
                pa.table({"code": codes, "description": texts, "parent_codes": lists, "x": lists}),
                pa.table(
                    {"code": codes.cast("large_string"), "description": texts.cast("string_view")}
                ),
                pa.table({"code": codes, "description": pa.nulls(5), "parent_codes": pa.nulls(5)}),
                pa.table({"code": codes, "parent_codes": lists.cast(pa.large_list(pa.string()))}),
                pa.table({"code": codes, "description": texts.dictionary_encode()}),
            ]
        ),
    )


# --- writing


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


# --- the reference: what must be refused


def refusals(case: Case) -> list[str]:
    """Patterns of the lines of which one must come; none where the case must be tokenised."""
    found = list(case.refused)
    owner: dict[int, str] = {}
    for file in case.files:
        above = None
        for i, row in enumerate(file.rows):
            found += [rf"/{re.escape(file.name)} row {i}: {w}" for w in wrong(row, above)]
            if above is None or above.subject != row.subject:
                if row.subject in owner:
                    found += again(row.subject, owner[row.subject], file.name, i)
                owner[row.subject] = file.name
            above = row
    subjects = owner.keys() - {None}
    splits = split_of(case)
    lost = [s for s in subjects if s not in splits]
    found += [rf"subject {s} has events but no split in .*subject_splits" for s in lost]
    if not any(splits.get(s) == "train" for s in subjects):
        found.append(f"none of the {len(subjects)} subjects is in the train split")
    if not found:
        found += ["cannot be told from another token"] * bool(twins(case))
    return found


def wrong(row: Row, above: Row | None) -> list[str]:
    """Of one row below another."""
    found = []
    if row.subject is None:
        found.append("subject_id is null")
    if row.code is None:
        found.append("code is null")
    if row.code == "":
        found.append("code is empty")
    if isinstance(row.code, bytes):
        found.append("code is not UTF-8")
    if isinstance(row.code, str) and "\x1f" in row.code:
        found.append(r"code holds the character U\+001F")
    if row.time is not None and not FIRST <= row.time <= LAST:
        found.append("time is not in the years 1 to 9999")
    if above is not None and above.subject == row.subject and above.time is not None:
        if row.time is None:
            found.append(f"a row without time comes after a row with one, in subject {row.subject}")
        elif row.time < above.time:
            found.append(f"time is before that of the row above, in subject {row.subject}")
    return found


def again(subject: int | None, first: str, second: str, row: int) -> list[str]:
    if first == second:
        return [rf"/{second} row {row}: subject {subject} begins again after other subjects"]
    pair = rf"({first} and .*{second}|{second} and .*{first})"
    return [rf"subject {subject} is in two files: .*{pair}"]


# --- the reference: what must come out


def split_of(case: Case) -> dict[int, str]:
    if case.splits is not None:
        return case.splits
    found = {}
    for subject in {r.subject for r in case.rows if r.subject is not None}:
        x = (subject + 0x9E3779B97F4A7C15) % 2**64
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        share = ((x ^ x >> 31) >> 11) / 2**53
        found[subject] = "train" if share < 0.8 else "tuning" if share < 0.9 else "held_out"
    return found


def records(case: Case) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = {}
    for row in case.rows:
        found.setdefault(row.subject, []).append(row)
    return dict(sorted(found.items()))


def excluded(case: Case, row: Row) -> bool:
    return any(re.search(p, row.code) for p in case.config.vocabulary.exclude)


def bin_edges(case: Case) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {}
    splits = split_of(case)
    for row in case.rows:
        known = row.value is not None and math.isfinite(row.value)
        if known and splits[row.subject] == "train" and not excluded(case, row):
            values.setdefault(row.code, []).append(row.value)
    n = case.config.numeric.n_bins
    found = {}
    for code, own in values.items():
        own.sort()
        if len(own) >= case.config.numeric.min_values:
            ranked = {own[k * len(own) // n] for k in range(1, n)}
            found[code] = sorted(ranked - {own[0]})
    return {code: edges for code, edges in found.items() if edges}


def spell(row: Row, edges: dict[str, list[float]]) -> tuple[str, str, int | None]:
    """Text, code and bin."""
    if row.code not in edges or row.value is None or math.isnan(row.value):
        return row.code, row.code, None
    number = 1 + sum(edge <= row.value for edge in edges[row.code])
    return f"{row.code}//Q{number}", row.code, number


def vocabulary(case: Case) -> list[dict]:
    """Rows behind the specials."""
    edges, splits = bin_edges(case), split_of(case)
    events, people = Counter(), {}
    for row in case.rows:
        if splits[row.subject] == "train" and not excluded(case, row):
            word = spell(row, edges)
            events[word] += 1
            people.setdefault(word, set()).add(row.subject)
    rows = []
    for word, count in sorted(events.items(), key=lambda x: (-x[1], x[0][0])):
        text, code, number = word
        bounds = [-math.inf, *edges.get(code, []), math.inf]
        rows.append(
            {
                "token": text, "code": code, "bin": number,
                "lower": bounds[number - 1] if number else None,
                "upper": bounds[number] if number else None,
                "count": count, "subjects": len(people[word]),
            }
        )  # fmt: skip
    return rows


def twins(case: Case) -> bool:
    texts = [*SPECIALS, *(v["token"] for v in vocabulary(case))]
    return len(set(texts)) < len(texts)


def tell(case: Case, rows: list[Row], edges: dict, known: set) -> list[tuple]:
    """(token, time, age, visit) of one subject, event by event."""
    told = [("[BOS]", None, 0.0, 0)]
    born = first = last = began = None
    visit = 0
    for row in rows:
        if excluded(case, row):
            continue
        word, t = spell(row, edges), row.time
        text = word[0] if word in known else "[UNK]"
        if t is None:
            told.append((text, None, 0.0, 0))
            continue
        is_birth = bool(BIRTH.match(row.code))
        first = t if first is None else first
        born = t if is_birth and born is None else born
        if not is_birth:
            admitted = re.match(r"(HOSPITAL_ADMISSION|ADMISSION|ED_REGISTRATION)(//|$)", row.code)
            if last is None or t - last > DAY or (admitted and began != t):
                visit, began = visit + 1, t
            last = t
        told.append((text, t, (t - (first if born is None else born)) / DAY, visit))
    return told


def family(code: str) -> str:
    head = code.split("/")[0]
    return head if "/" in code and head else "(no prefix)"


# --- reading what came out


def read(out: Path) -> dict[int, dict]:
    """Subject -> its columns, times as microseconds."""
    found = {}
    for path in sorted(out.glob("*/*.parquet")):
        table = pq.ParquetFile(path).read()
        times = table["time"].cast(pa.list_(pa.int64()))
        columns = {n: table[n].to_pylist() for n in ("token", "age", "visit")}
        ids = table["subject_id"].to_pylist()
        assert ids == sorted(ids)
        for i, subject in enumerate(ids):
            assert subject not in found
            found[subject] = {n: column[i] for n, column in columns.items()}
            found[subject] |= {"time": times[i].as_py(), "split": path.parent.name}
    return found


def compare(case: Case, out: Path, done) -> None:
    edges, splits, whole = bin_edges(case), split_of(case), records(case)
    vocab = pq.ParquetFile(out / "vocab.parquet").read().to_pylist()
    texts = [v["token"] for v in vocab]
    expected = vocabulary(case)
    assert texts[:7] == SPECIALS
    assert [{k: v[k] for k in expected[0]} for v in vocab[7:]] == expected if expected else True
    known = {(v["token"], v["code"], v["bin"]) for v in expected}
    made = read(out)
    assert made.keys() == whole.keys()
    for subject, rows in whole.items():
        row, told = made[subject], tell(case, rows, edges, known)
        assert row["split"] == splits[subject]
        assert [texts[i] for i in row["token"]] == [x[0] for x in told]
        assert row["time"] == [x[1] for x in told]
        assert row["visit"] == [x[3] for x in told]
        assert row["age"] == pytest.approx([x[2] for x in told], rel=2e-7, abs=0)
    counted: dict[str, dict[str, list[int]]] = {}
    for split in SPLITS:
        own = [r for s, rows in whole.items() if splits[s] == split for r in rows]
        found = counted.setdefault(split, {})
        for r in own:
            three = found.setdefault(family(r.code), [0, 0, 0])
            gone = excluded(case, r)
            three[0] += not gone
            three[1] += not gone and spell(r, edges) not in known
            three[2] += gone
    counted = {split: found for split, found in counted.items() if found}
    assert json.loads((out / "coverage.json").read_text()) == counted
    assert [s.split for s in done.splits] == list(counted)
    for s in done.splits:
        own = [r for subject, rows in whole.items() if splits[subject] == s.split for r in rows]
        gone, people = sum(excluded(case, r) for r in own), {r.subject for r in own}
        assert (s.subjects, s.events, s.excluded) == (len(people), len(own), gone)
        assert s.tokens == len(own) - gone + len(people)
        assert s.unknown == sum(three[1] for three in counted[s.split].values())
    assert verify(out) == []


def truncated(rng: random.Random, case: Case) -> tuple[Case, dict[int, int]] | None:
    """Each subject's rows up to a time of its own."""
    cut = {}
    for subject, rows in records(case).items():
        times = [r.time for r in rows if r.time is not None] or [0]
        cut[subject] = rng.choice(times) - rng.choice([0, 0, 1])
    kept = [r for r in case.rows if r.time is None or r.time <= cut[r.subject]]
    if not kept:
        return None
    return Case([File("data/0.parquet", kept)], split_of(case), case.config, 1), cut


def compare_truncated(whole: dict[int, dict], part: dict[int, dict], cut: dict[int, int]) -> None:
    assert part.keys() <= whole.keys()
    for subject, row in part.items():
        times = whole[subject]["time"]
        seen = sum(t is None or t <= cut[subject] for t in times)
        for name in ("token", "time", "age", "visit"):
            assert row[name] == whole[subject][name][:seen]


# --- the test


def build(number: int) -> tuple[random.Random, Case]:
    rng = random.Random(number)
    case = make(rng)
    for one in rng.sample(FAULTS, rng.choice([0, 1, 1, 1, 2, 3])):
        case.faults.append(one.__name__)
        one(rng, case)
    return rng, case


@contextmanager
def naming(number: int, case: Case):
    try:
        yield
    except BaseException as e:
        e.add_note(f"case {number}: {', '.join(case.faults)}")
        raise


def one_line(message: str) -> bool:
    return len(message.splitlines()) == 1 and message.isprintable()


def run(number: int, root: Path) -> str:
    """Try one case; say what came of it."""
    rng, case = build(number)
    with naming(number, case):
        meds, out = root / "meds", root / "out"
        write(case, meds)
        before = sorted(root.rglob("*"))
        report = check(meds)
        assert all(map(one_line, report.lines()))
        expected = refusals(case) if not case.unsure else []
        try:
            done = tokenize(meds, out, case.config, workers=case.workers)
        except UserError as e:
            message = str(e)
            assert one_line(message), message
            assert sorted(root.rglob("*")) == before, "something is left"
            assert case.unsure or any(re.search(p, message) for p in expected), (message, expected)
            by_rows = "cannot be told from another token" not in message
            assert case.unsure or report.refused == by_rows, report.lines()
            return "refused"
        assert not expected, expected
        assert sorted(p for p in root.rglob("*") if not p.is_relative_to(out)) == before
        if case.unsure:
            return "unsure"
        assert not report.refused, report.lines()
        counts = (report.files, report.subjects, report.events, report.static, report.numeric)
        rows = case.rows
        assert counts == (
            len(case.files), len(records(case)), len(rows),
            sum(r.time is None for r in rows), sum(r.value is not None for r in rows),
        )  # fmt: skip
        assert report.codes == len({r.code for r in rows})
        compare(case, out, done)
        found = truncated(rng, case) if rng.random() < 0.3 else None
        if found:
            part, cut = found
            write(part, root / "part")
            tokenize(root / "part", root / "part-out", part.config, tokenizer=out)
            compare_truncated(read(out), read(root / "part-out"), cut)
        return "tokenised"


@pytest.mark.parametrize("block", range(BLOCKS))
def test_a_fuzzed_data_set_is_refused_in_one_line_or_tokenised_rightly(tmp_path, block):
    came = Counter()
    for number in range(block * BLOCK, (block + 1) * BLOCK):
        root = tmp_path / str(number)
        root.mkdir()
        came[run(number, root)] += 1
        shutil.rmtree(root)
    assert sum(came.values()) == BLOCK
    assert came["refused"] >= 5
    assert came["tokenised"] >= 5


def test_a_million_events_of_one_subject(tmp_path):
    """One an hour, every eleventh an admission, the others a value from 0 to 9 in turn."""
    n, hour = 1_100_000, DAY // 24  # more than are read at once
    i = np.arange(n)
    admitted = i % 11 == 0
    lead = [Row(7, None, "GENDER//F"), Row(7, -30 * DAY, "MEDS_BIRTH")]
    events = pa.table(
        {
            "subject_id": np.full(n, 7),
            "time": pa.array(i * hour).cast(pa.timestamp("us")),
            "code": np.where(admitted, ADMISSION, "LAB"),
            "numeric_value": pa.array((i % 10).astype(np.float32), mask=admitted),
        }
    )
    other = File("", [Row(9, 0, "DX")])
    parts = [to_table(f).select(events.column_names) for f in (File("", lead), other)]
    for folder in ("data", "metadata"):
        (tmp_path / "meds" / folder).mkdir(parents=True)
    splits = pa.table({"subject_id": [7, 9], "split": ["train", "train"]})
    pq.write_table(splits, tmp_path / "meds" / SPLIT_FILE)
    pq.write_table(pa.concat_tables([parts[0], events, parts[1]]), tmp_path / "meds/data/0.parquet")
    done = tokenize(tmp_path / "meds", tmp_path / "out")
    assert [(s.subjects, s.events, s.tokens, s.unknown) for s in done.splits] == [
        (2, n + 3, n + 5, 0)
    ]
    texts = np.array(pq.read_table(tmp_path / "out/vocab.parquet")["token"].to_pylist())
    table = pq.read_table(tmp_path / "out/train/00000.parquet")
    token, time, age, visit = (
        table[c][0].values.to_numpy(zero_copy_only=False) for c in ("token", "time", "age", "visit")
    )
    assert texts[token[:3]].tolist() == ["[BOS]", "GENDER//F", "MEDS_BIRTH"]
    assert texts[token[3:25]].tolist() == [
        ADMISSION if k % 11 == 0 else f"LAB//Q{k % 10 + 1}" for k in range(22)
    ]
    assert len(token) == n + 3
    values = np.array([f"LAB//Q{v + 1}" for v in range(10)])
    assert (texts[token[3:]] == np.where(admitted, ADMISSION, values[i % 10])).all()
    assert np.isnat(time[:2]).all()
    assert (time[2:].astype(np.int64) == np.concatenate([[-30 * DAY], i * hour])).all()
    np.testing.assert_array_equal(age[:3], [0, 0, 0])
    np.testing.assert_allclose(age[3:], 30 + i / 24, rtol=1e-7)
    assert visit[:3].tolist() == [0, 0, 0]
    assert (visit[3:] == np.minimum(i // 11 + 1, 65_535)).all()
