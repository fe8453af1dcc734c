"""Events, codes, splits, delays and features as every package reads them."""

from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save

from ehr_tracking.arrow.delays import Delays, delays_of
from ehr_tracking.arrow.features import INDEX, read_index, write_features, write_tensors
from ehr_tracking.arrow.meds import data_files, read_codes, read_events
from ehr_tracking.arrow.splits import read_splits, splits_by_hash
from ehr_tracking.contracts import TOKENS, ContractError
from ehr_tracking.manifest import load_manifest

DAY = 86_400_000_000
EVENTS = {
    "subject_id": pa.array([7, 7, 9]),
    "time": pa.array([None, 3 * DAY, DAY], pa.timestamp("us")),
    "code": pa.array(["SEX//F", "LAB", "LAB"]),
    "numeric_value": pa.array([None, 1.5, float("nan")], pa.float32()),
}


def write(path: Path, **columns) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({k: v for k, v in (EVENTS | columns).items() if v is not None}), path)
    return path


# events


@pytest.mark.parametrize(
    "code",
    [
        EVENTS["code"],
        EVENTS["code"].cast(pa.large_string()),
        EVENTS["code"].cast(pa.string_view()),
        EVENTS["code"].dictionary_encode(),
        EVENTS["code"].cast(pa.large_string()).dictionary_encode(),
    ],
)
def test_codes_of_any_string_type_are_read_as_strings(tmp_path, code) -> None:
    table = read_events(write(tmp_path / "0.parquet", code=code))
    assert table.schema.types == [pa.int64(), pa.timestamp("us"), pa.string(), pa.float32()]
    assert table["code"].to_pylist() == ["SEX//F", "LAB", "LAB"]
    assert table["time"].cast(pa.int64()).to_pylist() == [None, 3 * DAY, DAY]


def test_an_enum_of_polars_is_read(tmp_path) -> None:
    codes = pl.Series(["B", "A"], dtype=pl.Enum(["A", "B"]))
    frame = pl.DataFrame({"subject_id": [1, 2], "code": codes}).with_columns(
        time=pl.lit(None, pl.Datetime("us"))
    )
    frame.write_parquet(tmp_path / "0.parquet")
    assert read_events(tmp_path / "0.parquet")["code"].to_pylist() == ["B", "A"]


def test_columns_that_a_file_lacks_are_null(tmp_path) -> None:
    path = write(tmp_path / "0.parquet", numeric_value=None)
    assert read_events(path)["numeric_value"].to_pylist() == [None] * 3
    assert read_events(path, ["text_value", "code"]).column_names == ["text_value", "code"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"code": None}, r"0\.parquet: not MEDS, column code is missing"),
        ({"subject_id": pa.array([7, 7, 9], pa.int32())}, "subject_id is int32, MEDS has int64"),
        ({"time": EVENTS["time"].cast(pa.timestamp("ns"))}, r"time is timestamp\[ns\], MEDS has"),
        ({"code": pa.array([1, 2, 3])}, "column code is int64, MEDS has string"),
        ({"numeric_value": pa.array([1.0, 2, 3])}, "numeric_value is double, MEDS has float"),
        ({"subject_id": pa.array([7, 7, None])}, r"0\.parquet row 2: subject_id is null"),
        ({"code": pa.array(["A", None, None])}, r"row 1: code is null \(2 such rows\)"),
        ({"code": pa.array(["A", "", "B"])}, "row 1: code is empty"),
        ({"code": pa.array([b"A", b"B", b"\xff"]).view(pa.string())}, "row 2: code is not UTF-8"),
        ({"time": pa.array([None, 2**62, 0], pa.timestamp("us"))}, "row 1: time is not in the years"),
        ({"time": pa.array([5, 4, 0], pa.timestamp("us"))}, "row 1: time is before .* in subject 7"),
        ({"time": pa.array([5, None, 0], pa.timestamp("us"))}, "row 1: a row without time comes after"),
    ],
)  # fmt: skip
def test_what_is_not_meds_is_refused_by_row(tmp_path, columns, message) -> None:
    with pytest.raises(ContractError, match=message) as error:
        read_events(write(tmp_path / "0.parquet", **columns))
    assert "\n" not in str(error.value)


def test_damaged_and_absent_data_are_named(tmp_path) -> None:
    path = write(tmp_path / "data" / "train" / "0.parquet")
    assert data_files(tmp_path) == [path]
    path.write_bytes(b"PAR1 torn")
    with pytest.raises(ContractError, match="not a readable Parquet file, perhaps truncated"):
        read_events(path)
    with pytest.raises(ContractError, match=r"is no MEDS data set: there is no data/\*\*"):
        data_files(path.parent)
    with pytest.raises(ContractError, match="no such directory"):
        data_files(tmp_path / "nowhere")


def test_codes_are_described_by_their_first_row(tmp_path) -> None:
    assert len(read_codes(tmp_path)) == 0
    table = pa.table(
        {
            "code": pa.array(["A", None, "A", "B"]).dictionary_encode(),
            "parent_codes": [["P"], None, ["Q"], None],
        }
    )
    (tmp_path / "metadata").mkdir()
    pq.write_table(table, tmp_path / "metadata" / "codes.parquet")
    assert read_codes(tmp_path).to_pylist() == [
        {"code": "A", "description": None, "parent_codes": ["P"]},
        {"code": "B", "description": None, "parent_codes": None},
    ]


# splits


def splits(tmp_path: Path, subjects: list[int | None], names: list[str | None]) -> Path:
    path = tmp_path / "metadata" / "subject_splits.parquet"
    path.parent.mkdir(exist_ok=True)
    table = {"subject_id": pa.array(subjects, pa.int64()), "split": pa.array(names, pa.string())}
    pq.write_table(pa.table(table), path)
    return tmp_path


def test_the_split_by_hash_is_splitmix64() -> None:
    # the first output of the reference generator with state 0 is 0xE220A8397B1DCDAF: 88% of 2**64
    assert splits_by_hash(np.array([0]), seed=0).tolist() == [1]
    share = np.bincount(splits_by_hash(np.arange(100_000), seed=5)) / 100_000
    assert share == pytest.approx([0.8, 0.1, 0.1], abs=0.005)


def test_splits_are_the_data_sets_own_or_by_hash(tmp_path) -> None:
    ids = np.arange(50)
    assert np.array_equal(read_splits(tmp_path, seed=3).of(ids), splits_by_hash(ids, 3))
    named = read_splits(splits(tmp_path, [9, 4, 5, 4], ["held_out", "train", "tuning", "train"]))
    assert named.of(np.array([4, 5, 9, 5])).tolist() == [0, 1, 2, 1]
    with pytest.raises(ContractError, match=r"subject 10 has no split in .* \(2 such subjects\)"):
        named.of(np.array([4, 10, 3]))
    with pytest.raises(ContractError, match="subject 4 has no split"):
        read_splits(splits(tmp_path, [], [])).of(np.array([4]))


@pytest.mark.parametrize(
    ("subjects", "names", "message"),
    [
        ([1, 1], ["train", "tuning"], "row 1: subject 1 is in two splits"),
        ([1, None], ["train", "train"], "row 1: subject_id is null"),
        ([1, 2], ["train", "test"], "row 1: split is 'test', MEDS has train, tuning, held_out"),
        ([1, 2], ["train", None], "row 1: split is None"),
    ],
)
def test_splits_that_contradict_or_are_unknown_are_refused(
    tmp_path, subjects, names, message
) -> None:
    with pytest.raises(ContractError, match=message):
        read_splits(splits(tmp_path, subjects, names))


# delays


def test_the_first_expression_that_fits_delays_a_code_and_order_is_that_of_knowing() -> None:
    events = pa.table(
        {
            "subject_id": [2, 2, 2, 2, 1, 1],
            "time": pa.array([None, 0, 0, DAY, 0, DAY], pa.timestamp("us")),
            "code": ["DX//S", "DX//A", "LAB", "LAB", "DX//B", "DX//A"],
            "row": list(range(6)),
        }
    )
    known = Delays({"^DX//A": 1, "DX": 0.5}).shift(events)
    # by hand: static stays static; A of day 0 is known with the lab of day 1, whose row comes after
    assert known["row"].to_pylist() == [0, 2, 1, 3, 4, 5]
    half = DAY // 2
    assert known["time"].cast(pa.int64()).to_pylist() == [None, 0, DAY, DAY, half, 2 * DAY]
    assert Delays({"DX": 0}).shift(events) is events


def test_delays_are_taken_from_a_manifest_unless_its_codes_are_others(make) -> None:
    manifest = load_manifest(make("tokens"))
    assert not delays_of(manifest)
    from dataclasses import replace

    delayed = replace(manifest, config={"delay": {"^DX": 30.0}, "maps": []})
    assert delays_of(delayed) == Delays({"^DX": 30.0})
    mapped = replace(manifest, config={"delay": {"^DX": 30.0}, "maps": [{"kind": "roll_up"}]})
    with pytest.raises(ContractError, match=rf"{TOKENS.tag} .* delays codes that its maps made"):
        delays_of(mapped)


# features


def index_of(subjects: list[int], days: list[int]) -> pa.Table:
    return pa.table(
        {
            "subject_id": pa.array(subjects),
            "prediction_time": pa.array([d * DAY for d in days], pa.timestamp("us")),
            "split": pa.array(["train"] * len(days)).dictionary_encode(),
        }
    )


def test_tensors_are_the_bytes_that_safetensors_writes(tmp_path) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        "indices": rng.integers(0, 9, 5).astype(np.int32),
        "data": rng.random(5, np.float32),
        "shape": np.array([3, 4]),
        "indptr": np.array([0, 1, 3, 5]),
        "x": rng.random((2, 3)).T,
        "none": np.zeros((0, 4), np.float32),
    }
    write_tensors(tmp_path / "a", tensors)
    expected = save({k: np.ascontiguousarray(v) for k, v in tensors.items()})
    assert (tmp_path / "a").read_bytes() == expected


def test_an_index_is_read_back_in_its_order(tmp_path) -> None:
    rows = write_features(tmp_path, np.zeros((3, 2)), index_of([5, 5, 1], [1, 2, 1]))
    table = read_index(tmp_path / "index.parquet", rows=3)
    assert rows == {"index.parquet": 3}
    assert table["subject_id"].to_pylist() == [5, 5, 1]
    assert table["row"].to_pylist() == [0, 1, 2]
    with pytest.raises(ContractError, match=r"names 3 rows, which are not rows 0\.\.3 of"):
        read_index(tmp_path / "index.parquet", rows=4)


def test_an_index_with_a_key_twice_is_refused_in_one_line(tmp_path) -> None:
    twice = index_of([5, 1, 5, 5], [1, 1, 2, 1])
    with pytest.raises(
        ContractError, match=r"row 3: subject 5 at 1970-01-02 00:00:00 is there twice"
    ):
        write_features(tmp_path, np.zeros((4, 1)), twice)
    pq.write_table(twice.append_column("row", pa.array([0, 1, 2, 3])), tmp_path / "index.parquet")
    with pytest.raises(ContractError, match=r"index\.parquet row 3: subject 5 .*twice") as error:
        read_index(tmp_path / "index.parquet", rows=4)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"prediction_time": pa.array([DAY], pa.timestamp("us", "Asia/Tokyo"))},
            r"tz=Asia/Tokyo\]; MEDS has no zones: convert to the data set's own times",
        ),
        (
            {"subject_id": pa.array([2**63], pa.uint64())},
            "row 0: subject_id = 9223372036854775808 is",
        ),
        ({"split": ["test"]}, "row 0: split is 'test'. MEDS has train, tuning, held_out"),
        ({"split": pa.array([None], pa.string())}, "row 0: split is null"),
    ],
)
def test_what_an_index_cannot_hold_is_refused_by_row(tmp_path, columns, message) -> None:
    table = index_of([1], [1]).append_column("row", pa.array([0]))
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(column))
    pq.write_table(table, tmp_path / "index.parquet")
    with pytest.raises(ContractError, match=message) as error:
        read_index(tmp_path / "index.parquet", rows=1)
    assert "\n" not in str(error.value)


def test_an_index_in_other_widths_and_units_is_read_as_the_contracts(tmp_path) -> None:
    own = index_of([7], [3]).append_column("row", pa.array([0]))
    kinds = {
        "subject_id": pa.uint64(),
        "prediction_time": pa.timestamp("ms", "UTC"),
        "row": pa.int32(),
    }
    other = pa.table({n: own[n].cast(kinds.get(n, own[n].type)) for n in own.column_names})
    pq.write_table(other, tmp_path / "index.parquet")
    assert read_index(tmp_path / "index.parquet", rows=1).equals(
        own.select(INDEX.names).cast(INDEX)
    )


def test_an_index_of_anyone_is_checked(tmp_path) -> None:
    path = tmp_path / "index.parquet"
    pq.write_table(index_of([1], [1]), path)
    with pytest.raises(ContractError, match="column row is missing"):
        read_index(path, rows=1)
    pq.write_table(index_of([1], [1]).append_column("row", pa.nulls(1, pa.int64())), path)
    with pytest.raises(ContractError, match="row 0: row is null"):
        read_index(path, rows=1)
    frame = pl.DataFrame({"subject_id": [1], "row": [0], "split": ["train"]})
    frame.with_columns(prediction_time=pl.lit(datetime(2020, 1, 1))).write_parquet(path)  # noqa: DTZ001
    assert read_index(path, rows=1)["split"].to_pylist() == ["train"]
