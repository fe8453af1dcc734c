"""Faults in rows and in files. What rows do not show to be refused, a fault names itself."""

import math
import random
import struct
from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa

from ehr_tokenize.config import VocabularyConfig

from .cases import DAY, INT64, Case, File, Row, as_text, put

FIRST, LAST = -719_162 * DAY, 2_932_897 * DAY - 1  # the years 1 to 9999
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[BOS]", "[EOS]"]

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


def single(x: float) -> float:
    return struct.unpack("f", struct.pack("f", x))[0]


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
                    "a\nb/c",
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
    file.reshape.append(lambda t: t.select([i for i, n in enumerate(t.column_names) if n != name]))
    if name == "numeric_value":
        file.valueless = True
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
