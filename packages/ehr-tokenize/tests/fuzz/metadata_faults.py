"""Faults in metadata."""

import pyarrow as pa

from .cases import CODE_FILE, SPLIT_FILE, as_text, named, put
from .faults import FAULTS, fault


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


ALL = FAULTS  # those of rows and files as well
