"""The one label reader: each kind of input with what becomes of it."""

from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ehr_tracking.arrow.labels import (
    KEY,
    binary,
    classes,
    numbers,
    read_labels,
    read_task,
    require_known,
    task_table,
    time_to_event,
)
from ehr_tracking.contracts import LABELS, ContractError
from ehr_tracking.manifest import seal

JAN5, JAN6 = datetime(2020, 1, 5), datetime(2020, 1, 6)  # noqa: DTZ001 -- MEDS times have no zone
YES_NO = pa.array([True, False])


def write(path: Path, **columns) -> Path:
    """Two rows, subject 1 on the 5th and subject 2 on the 6th, with some columns replaced."""
    table = {"subject_id": [1, 2], "prediction_time": [JAN5, JAN6], **columns}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({k: v for k, v in table.items() if v is not None}), path)
    return path


def read(path: Path) -> dict[str, pa.Table]:
    return read_labels(path, reader="test 0")


def refuse(path: Path, message: str) -> None:
    with pytest.raises(ContractError, match=message) as error:
        read(path)
    assert "\n" not in str(error.value)


def times(unit: str, zone: str | None = None) -> pa.Array:
    return pa.array([JAN5, JAN6]).cast(pa.timestamp(unit)).cast(pa.timestamp(unit, zone))


EXPECTED = {"subject_id": [1, 2], "prediction_time": [JAN5, JAN6], "boolean_value": [True, False]}


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"prediction_time": times("s")},
        {"prediction_time": times("ms")},
        {"prediction_time": times("ns")},
        {"prediction_time": times("us", "UTC")},
        {"prediction_time": times("ns", "Etc/UTC")},
        {"prediction_time": pa.array([date(2020, 1, 5), date(2020, 1, 6)], pa.date32())},
        {"prediction_time": pa.array([date(2020, 1, 5), date(2020, 1, 6)], pa.date64())},
        {"subject_id": pa.array([1, 2], pa.int32())},
        {"subject_id": pa.array([1, 2], pa.uint32())},
        {"subject_id": pa.array([1, 2], pa.uint64())},
        {"subject_id": pa.array([2, 1]), "prediction_time": pa.array([JAN6, JAN5]),
         "boolean_value": pa.array([False, True])},
        {"integer_value": pa.nulls(2, pa.int64()), "float_value": pa.nulls(2, pa.float64()),
         "categorical_value": pa.nulls(2, pa.string())},  # as ACES writes
        {"integer_value": pa.nulls(2, pa.null()), "float_value": pa.nulls(2, pa.string())},
        {"note": pa.array(["of", "anyone"])},
    ],
)  # fmt: skip
def test_types_and_order_of_what_says_the_same_do_not_matter(tmp_path, columns) -> None:
    write(tmp_path / "died.parquet", **{"boolean_value": YES_NO} | columns)
    table = read(tmp_path / "died.parquet")["died"]
    assert table.to_pydict() == EXPECTED
    assert table.schema.types == [pa.int64(), pa.timestamp("us"), pa.bool_()]


@pytest.mark.parametrize(
    ("name", "values", "expected", "kind"),
    [
        ("integer_value", pa.array([3, None], pa.int16()), [3, None], pa.int64()),
        ("float_value", pa.array([0.1, 2.0], pa.float64()), [np.float32(0.1), 2.0], pa.float32()),
        ("float_value", pa.array([3, 4], pa.int64()), [3.0, 4.0], pa.float32()),
        ("categorical_value", pa.array(["a", "b"]).dictionary_encode(), ["a", "b"], pa.string()),
        ("categorical_value", pa.array(["a", "b"], pa.string_view()), ["a", "b"], pa.string()),
        ("categorical_value", pa.array(["a", None], pa.large_string()), ["a", None], pa.string()),
    ],
)
def test_values_have_one_type_each(tmp_path, name, values, expected, kind) -> None:
    table = read(write(tmp_path / "t.parquet", **{name: values}))["t"]
    assert table[name].to_pylist() == expected
    assert table.schema.field(name).type == kind


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"subject_id": None}, r"t\.parquet has no column subject_id: not MEDS labels"),
        ({"prediction_time": None}, r"t\.parquet has no column prediction_time"),
        ({"subject_id": ["1", "2"]}, r"column subject_id is string \(expected int64\)"),
        ({"subject_id": [1.0, 2.0]}, "column subject_id is double"),
        ({"subject_id": [1, None]}, r"t\.parquet row 1: subject_id is null$"),
        ({"subject_id": pa.array([1, 2**63], pa.uint64())}, f"row 1: subject_id = {2**63} is beyond"),
        ({"prediction_time": ["x", "y"]}, r"prediction_time is string \(expected timestamp\[us\]\)"),
        ({"prediction_time": pa.nulls(2, pa.timestamp("us"))},
         r"row 0: prediction_time is null \(2 such rows\)"),
        ({"prediction_time": times("us", "Europe/Berlin")}, r"tz=Europe/Berlin\]; MEDS has no zones"),
        ({"prediction_time": times("us", "+01:00")}, "MEDS has no zones"),
        ({"prediction_time": pa.array([0, 2**60], pa.timestamp("ms"))}, "row 1: prediction_time is beyond"),
        ({"boolean_value": [1, 0]}, r"column boolean_value is int64 \(expected bool\)"),
        ({"integer_value": [1.0, 0.5]}, r"column integer_value is double \(expected int64\)"),
        ({"float_value": ["1", "2"]}, r"column float_value is string \(expected float\)"),
        ({"categorical_value": [1, 2]}, r"column categorical_value is int64 \(expected string\)"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_by_file_column_and_row(tmp_path, columns, message) -> None:
    refuse(write(tmp_path / "t.parquet", **{"boolean_value": None} | columns), message)


def test_text_that_is_not_utf8_is_refused_by_row(tmp_path) -> None:
    torn = pa.array([b"a", b"\xff"]).cast(pa.binary()).view(pa.string())
    refuse(
        write(tmp_path / "t.parquet", categorical_value=torn), "row 1: categorical_value is not UTF"
    )


def test_a_nanosecond_within_a_microsecond_is_cut_off_towards_the_past(tmp_path) -> None:
    given = pa.array([1_999, -1], pa.timestamp("ns"))
    table = read(write(tmp_path / "t.parquet", prediction_time=given))["t"]
    assert table["prediction_time"].cast(pa.int64()).to_pylist() == [1, -1]


def test_times_in_utc_are_those_of_the_clock_there(tmp_path) -> None:
    moment = datetime(2020, 1, 5, 3, tzinfo=timezone(timedelta(hours=3))).astimezone(UTC)
    given = pa.array([moment, moment], pa.timestamp("us", "UTC"))
    table = read(write(tmp_path / "t.parquet", prediction_time=given))["t"]
    assert table["prediction_time"].to_pylist() == [JAN5, JAN5]


def test_the_same_row_twice_counts_once_and_another_value_is_refused(tmp_path) -> None:
    write(tmp_path / "t" / "0.parquet", boolean_value=YES_NO)
    write(
        tmp_path / "t" / "1.parquet", boolean_value=YES_NO, subject_id=pa.array([1, 2], pa.int32())
    )
    assert read(tmp_path)["t"].to_pydict() == EXPECTED
    write(tmp_path / "t" / "1.parquet", boolean_value=[True, True])
    refuse(tmp_path, "task t has contradicting labels of subject 2 at 2020-01-06 00:00:00")
    write(tmp_path / "t" / "1.parquet", integer_value=[1, 0])
    refuse(tmp_path, "task t has contradicting labels of subject 1 at")


@pytest.mark.parametrize("value", [[float("nan")] * 2, [None] * 2, ["a"] * 2])
def test_equal_rows_are_equal_in_every_column(tmp_path, value) -> None:
    name = "categorical_value" if value[0] == "a" else "float_value"
    same = {"subject_id": [1, 1], "prediction_time": [JAN5, JAN5], "boolean_value": [True, True]}
    table = read(write(tmp_path / "t.parquet", **same, **{name: pa.array(value)}))["t"]
    assert len(table) == 1


def test_a_path_says_which_tasks_there_are(tmp_path, monkeypatch) -> None:
    write(tmp_path / "all" / "a" / "train" / "0.parquet", boolean_value=YES_NO)
    write(tmp_path / "all" / "b" / "subject_id=9" / "0.parquet", boolean_value=YES_NO)
    assert read(tmp_path / "all").keys() == {"a", "b"}
    assert read(tmp_path / "all")["b"].to_pydict() == EXPECTED  # a folder's name is no column
    assert read(tmp_path / "all" / "b" / "subject_id=9").keys() == {"b"}
    assert read(tmp_path / "all" / "a" / "train" / "0.parquet").keys() == {"a"}
    monkeypatch.chdir(tmp_path / "all" / "a" / "train")
    assert read(Path()).keys() == {"a"}
    assert read(Path("..")).keys() == {"a"}


@pytest.mark.parametrize(
    ("files", "tasks"),
    [
        (["train/0", "train/1", "tuning/0", "held_out/0"], ["root"]),  # ACES, of one task
        (["train", "tuning", "held_out"], ["root"]),
        (["0", "1", "labels"], ["root"]),
        (["icu/died/d1/train/0", "icu/died/d30/train/0", "icu/died/d30/tuning/0", "los/0"],
         ["icu/died/d1", "icu/died/d30", "los"]),  # MEDS-DEV
        (["died/in_icu/0/0", "died/in_icu/1/0", "died/out/0"], ["died/in_icu", "died/out"]),
        (["died", "icu/long_stay", "icu/los"], ["died", "icu/long_stay", "icu/los"]),
        (["30d_readmission", "1y_mortality"], ["1y_mortality", "30d_readmission"]),
        (["died/died"], ["died"]),
        (["died/part-00000-8e2a4b0c-1d2e-4f00-9a9b-0123456789ab-c000.snappy"], ["died"]),
        (["died/data-00000-of-00002", "died/data-00001-of-00002"], ["died"]),
        (["died/k=4/replicate=0/0", "lived/train_0"], ["died", "lived"]),
        (["died/0", "died/.ipynb_checkpoints/0", ".ipynb_checkpoints/x", "_temporary/0"], ["died"]),
    ],
)  # fmt: skip
def test_a_task_is_named_by_its_whole_path_and_pieces_are_none(tmp_path, files, tasks) -> None:
    for n, name in enumerate(files):
        path = tmp_path / "root" / f"{name}.parquet"
        write(path, boolean_value=YES_NO, subject_id=pa.array([2 * n, 2 * n + 1]))
    found = read(tmp_path / "root")
    assert list(found) == tasks
    assert {
        (row["task"], row["rows"]) for row in task_table(tmp_path / "root", reader="test 0")
    } == {(task, len(table)) for task, table in found.items()}
    seen = 2 * sum(not any(p.startswith((".", "_")) for p in f.split("/")) for f in files)
    assert sum(map(len, found.values())) == seen


@pytest.mark.parametrize(
    ("files", "one", "other"),
    [
        (["0", "died/0"], "a piece of task root, as is .*root/0.parquet", "of task died"),
        (["died/0", "died/in_icu/0"], "a piece of task died", "of task died/in_icu"),
        (["died/0", "died/late"], "a piece of task died, as is", "of task died/late"),
        (["died", "died/0"], "a piece of the same task as .*died/0", "of another task of that name"),
        (["died/train/a"], "a piece of task died", "of task died/a"),
        (["died/train/0", "died/val/0"], "a piece of task died, val being a split", "of task died/val"),
        (["train/0", "test/0"], "a piece of task root, test being a split", "of task test"),
        (["train/died/0", "tuning/died/0"], "of task died, of which train is", "that train is a split"),
    ],
)  # fmt: skip
def test_a_layout_with_two_readings_is_refused_with_both(tmp_path, files, one, other) -> None:
    for name in files:
        write(tmp_path / "root" / f"{name}.parquet", boolean_value=YES_NO)
    refuse(tmp_path / "root", f"is either .*{one}.*, or .*{other}")


def test_one_task_is_read_by_its_name_and_several_are_refused(tmp_path) -> None:
    write(tmp_path / "a" / "0.parquet", boolean_value=YES_NO)
    task, table = read_task(tmp_path, reader="test 0")
    assert (task, table.to_pydict()) == ("a", EXPECTED)
    write(tmp_path / "b" / "0.parquet", boolean_value=YES_NO)
    match = (
        r"holds labels of 2 tasks \(a, b\), but one is needed; give the directory of one, e.g. .*/a"
    )
    with pytest.raises(ContractError, match=match):
        read_task(tmp_path, reader="test 0")
    assert read_task(tmp_path / "b", reader="test 0")[0] == "b"
    write(tmp_path / "flat" / "died.parquet", boolean_value=YES_NO)
    write(tmp_path / "flat" / "lived.parquet", boolean_value=YES_NO)
    with pytest.raises(
        ContractError, match=r"give the directory of one, e.g. .*flat/died\.parquet"
    ):
        read_task(tmp_path / "flat", reader="test 0")


def test_damage_and_absence_are_named(tmp_path) -> None:
    refuse(tmp_path, "holds no labels: expected <task>")
    refuse(tmp_path / "nowhere", "nowhere: no such directory")
    with pytest.raises(ContractError, match="no such directory"):
        read_task(tmp_path / "nowhere", reader="test 0")
    path = write(tmp_path / "t" / "0.parquet", boolean_value=YES_NO)
    path.write_bytes(path.read_bytes()[:-40])
    refuse(tmp_path, r"0\.parquet: not a readable Parquet file")
    schema = pa.schema([*((n, pa.int64()) for n in KEY), ("subject_id", pa.int64())])
    pq.write_table(pa.Table.from_arrays([pa.array([1])] * 3, schema=schema), path)
    refuse(tmp_path, r"0\.parquet: column subject_id is there twice")


def test_sealed_labels_are_read_only_as_they_were_sealed(tmp_path) -> None:
    path = write(tmp_path / "l" / "t" / "labels.parquet", boolean_value=YES_NO)
    seal(tmp_path / "l", LABELS, producer="ehr-eval 0", config={})
    assert read(tmp_path / "l")["t"].to_pydict() == EXPECTED
    write(path, boolean_value=[True, True])
    for labels in (tmp_path / "l", path.parent, path):
        refuse(labels, r"t/labels\.parquet was changed: its SHA-256 differs")


def test_no_rows_are_a_task_without_rows(tmp_path) -> None:
    none = {
        "subject_id": pa.array([], pa.int64()),
        "prediction_time": pa.array([], pa.timestamp("s")),
    }
    table = read(write(tmp_path / "t.parquet", **none, boolean_value=pa.array([], pa.bool_())))["t"]
    assert binary(table, task="t").schema.types == [pa.int64(), pa.timestamp("us"), pa.bool_()]
    for reader in (classes, numbers, time_to_event):
        assert len(reader(table, task="t")) == 0


@pytest.mark.parametrize(
    "values",
    [
        {"boolean_value": [True, False]},
        {"integer_value": pa.array([1, 0], pa.uint8())},
        {"float_value": [1.0, 0.0]},
    ],
)
def test_binary_labels_come_from_whichever_column_holds_them(tmp_path, values) -> None:
    table = read(write(tmp_path / "t.parquet", **values))["t"]
    assert binary(table, task="t").to_pydict() == EXPECTED


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"float_value": [0.0, 0.5]}, "t has float_value = 0.5 for subject 2 at 2020-01-06 .* 0 or 1"),
        ({"float_value": [float("nan"), 0]}, "t has float_value = nan for subject 1"),
        ({"integer_value": [3, 1]}, "t has integer_value = 3 for subject 1"),
        ({"categorical_value": ["a", "b"]}, "categorical_value; only binary labels"),
        ({"boolean_value": [True, None]}, "task t has no boolean_value for subject 2 at 2020-01-06"),
        ({"boolean_value": YES_NO, "integer_value": [1, 1]}, "has boolean_value and integer_value;"),
        ({}, "task t has no value; expected exactly one"),
    ],
)  # fmt: skip
def test_what_is_not_binary_is_refused_by_subject_and_time(tmp_path, values, message) -> None:
    table = read(write(tmp_path / "t.parquet", **values))["t"]
    with pytest.raises(ContractError, match=message):
        binary(table, task="t")


@pytest.mark.parametrize(
    ("values", "names", "of_each"),
    [
        ({"integer_value": [10, 2]}, ["2", "10"], [1, 0]),
        ({"categorical_value": ["b", "a"]}, ["a", "b"], [1, 0]),
        ({"boolean_value": YES_NO}, ["0", "1"], [1, 0]),
    ],
)
def test_classes_are_in_order_whatever_they_are(tmp_path, values, names, of_each) -> None:
    table = read(write(tmp_path / "t.parquet", **values))["t"]
    found = classes(table, task="t")["categorical_value"].combine_chunks()
    assert (found.dictionary.to_pylist(), found.indices.to_pylist()) == (names, of_each)


def test_days_until_an_event_are_read_beside_whether_it_happened(tmp_path) -> None:
    values = {"boolean_value": YES_NO, "duration_days": [0.0, 30.5]}
    table = read(write(tmp_path / "t.parquet", **values))["t"]
    assert time_to_event(table, task="t").to_pydict() == {**EXPECTED, "duration_days": [0.0, 30.5]}
    assert binary(table, task="t").to_pydict() == EXPECTED
    again = {"subject_id": [1, 1], "prediction_time": [JAN5, JAN5], "boolean_value": [True, True]}
    refuse(
        write(tmp_path / "t.parquet", **again, duration_days=[1.0, 2.0]), "contradicting labels of"
    )


@pytest.mark.parametrize(
    ("reader", "values", "message"),
    [
        (classes, {"float_value": [1.0, 2.0]}, "t has float_value; classes are integers or"),
        (classes, {"categorical_value": ["a", None]}, "no categorical_value for subject 2 at 2020"),
        (classes, {"boolean_value": YES_NO, "integer_value": [1, 2]}, "expected exactly one of"),
        (numbers, {"categorical_value": ["1", "2"]}, "has categorical_value; numbers are in float"),
        (numbers, {"float_value": [1.0, float("inf")]}, "float_value = inf for subject 2 .* finite"),
        (numbers, {"float_value": [float("nan"), 1.0]}, "float_value = nan for subject 1 at"),
        (time_to_event, {"boolean_value": YES_NO}, "t has no duration_days: days from the predict"),
        (time_to_event, {"boolean_value": YES_NO, "duration_days": [1.0, -2.0]},
         "duration_days = -2.0 for subject 2 at .*; expected a finite number of days, at least 0"),
        (time_to_event, {"boolean_value": YES_NO, "duration_days": [float("inf"), 2.0]}, "= inf for"),
        (time_to_event, {"boolean_value": YES_NO, "duration_days": [None, 2.0]}, "no duration_days for"),
        (time_to_event, {"duration_days": [1.0, 2.0]}, "task t has no value; expected exactly one"),
    ],
)  # fmt: skip
def test_labels_of_another_sort_are_refused_by_subject_and_time(
    tmp_path, reader, values, message
) -> None:
    table = read(write(tmp_path / "t.parquet", **values))["t"]
    with pytest.raises(ContractError, match=message) as error:
        reader(table, task="t")
    assert "\n" not in str(error.value)


def test_unknown_subjects_are_told_by_number_and_the_first(tmp_path) -> None:
    tables = read(write(tmp_path / "t.parquet", boolean_value=YES_NO))
    require_known(tables, np.array([3, 2, 1]), where="here")
    match = "labels of task t name 1 subjects that here does not have, the first 2;"
    with pytest.raises(ContractError, match=match):
        require_known(tables, np.array([1, 3]), where="here")


def test_the_times_of_polars_are_read(tmp_path) -> None:
    frame = pl.DataFrame(EXPECTED).with_columns(pl.col("prediction_time").dt.cast_time_unit("ns"))
    frame.write_parquet(tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet")["t"].to_pydict() == EXPECTED
