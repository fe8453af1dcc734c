import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from meds_evaluation.schema import PredictionSchema

from ehr_eval.predictions import Draw, predictions_source, read_predictions
from ehr_tracking.contracts import PREDICTIONS, ContractError
from ehr_tracking.manifest import new_artifact, seal, source

ROWS = [(1, 0, True), (1, 5, False), (4, 2, False), (9, 2, True)]
"""Subject, day, outcome of the held-out rows."""
ALL = Draw(-1, 0)
"""What is fitted on all rows."""


@pytest.fixture
def labels(toys):
    return frame(toys)


def frame(toys, rows=ROWS):
    return pl.DataFrame(
        [(s, toys.day(d), v) for s, d, v in rows],
        schema={
            "subject_id": pl.Int64,
            "prediction_time": pl.Datetime("us"),
            "boolean_value": pl.Boolean,
        },
        orient="row",
    )


def table(toys, rows=ROWS, probability=(0.9, 0.1, 0.25, 1.0), **columns):
    whole = {
        "subject_id": pa.array([r[0] for r in rows], pa.int64()),
        "prediction_time": pa.array([toys.day(r[1]) for r in rows], pa.timestamp("us")),
        "boolean_value": pa.array([r[2] for r in rows], pa.bool_()),
        "predicted_boolean_value": pa.nulls(len(rows), pa.bool_()),
        "predicted_boolean_probability": pa.array(probability, pa.float32()),
        **columns,
    }
    return pa.table({name: column for name, column in whole.items() if column is not None})


def write(path, predictions):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(predictions, path)
    return path


def test_probabilities_come_in_the_order_of_the_labels_from_any_files(toys, labels, tmp_path):
    whole = table(toys)
    PredictionSchema.validate(whole)
    write(tmp_path / "died" / "b.parquet", whole.take([3, 0]))
    write(tmp_path / "died" / "more" / "a.parquet", whole.take([2, 1]))
    found = read_predictions(tmp_path, {"died": labels, "not predicted": labels})
    assert found.keys() == {"died"}
    assert found["died"][ALL].probability.dtype == np.float64
    np.testing.assert_array_equal(found["died"][ALL].probability, np.float32([0.9, 0.1, 0.25, 1.0]))
    upside_down = read_predictions(tmp_path, {"died": labels.reverse()})["died"][ALL].probability
    np.testing.assert_array_equal(upside_down, found["died"][ALL].probability[::-1])


@given(st.permutations(range(4)), st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_any_order_and_any_probabilities_are_read_back(toys, tmp_path_factory, order, probability):
    root = tmp_path_factory.mktemp("any")
    whole = table(toys, predicted_boolean_probability=pa.array(probability, pa.float64()))
    write(root / "died" / "0.parquet", whole.take(order))
    assert (
        read_predictions(root, {"died": frame(toys)})["died"][ALL].probability.tolist()
        == probability
    )


def test_folders_name_the_shots_that_a_model_was_fitted_on(toys, labels, tmp_path):
    of = {
        Draw(k=4, replicate=1): 0.5,
        Draw(k=128, replicate=0): 0.25,
        Draw(k=-1, replicate=2): 0.125,
    }
    for (k, replicate), p in of.items():
        folder = tmp_path / "died" / f"k={k}" / f"replicate={replicate}"
        write(folder / "0.parquet", table(toys, probability=[p] * 4))
    write(tmp_path / "died" / "all" / "0.parquet", table(toys))
    found = read_predictions(tmp_path, {"died": labels})["died"]
    assert {draw: p.probability[0] for draw, p in found.items() if draw != ALL} == of
    np.testing.assert_array_equal(found[ALL].probability, np.float32([0.9, 0.1, 0.25, 1.0]))


@pytest.mark.parametrize(
    "folder", ["k=4", "k=0/replicate=0", "k=4/replicate=-1", "replicate=1/k=4"]
)
def test_folders_of_no_possible_shots_are_refused(folder, toys, labels, tmp_path):
    path = write(tmp_path / "died" / folder / "0.parquet", table(toys))
    with pytest.raises(ContractError, match=r"k=<k>/replicate=<r>/") as e:
        read_predictions(tmp_path, {"died": labels})
    assert str(path) in str(e.value)


def test_other_types_of_the_same_values_are_read(toys, labels, tmp_path):
    same = {
        "subject_id": pa.array([r[0] for r in ROWS], pa.int32()),
        "prediction_time": pa.array([toys.day(r[1]) for r in ROWS], pa.timestamp("ns")),
        "predicted_boolean_value": None,
    }
    write(tmp_path / "died" / "0.parquet", table(toys, **same))
    assert read_predictions(tmp_path, {"died": labels})["died"][ALL].probability.shape == (4,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predicted_boolean_probability": None}, "has no column predicted_boolean_probability"),
        ({"boolean_value": None}, "has no column boolean_value"),
        ({"probability": (0.9, 1.5, 0, 0)}, r"row 1: .* = 1\.5, which is no probability"),
        ({"probability": (0.9, 0, -0.1, 0)}, r"row 2: .* = -0\.1, which is no probability"),
        ({"probability": (0.9, 0, 0, float("nan"))}, "row 3: .* = nan"),
        ({"probability": (0.9, None, 0, None)}, r"row 1: predicted_boolean_probability is null"),
        ({"predicted_boolean_probability": pa.array(list("abcd"))}, r"is string \(expected float"),
        ({"boolean_value": pa.array([1, 0, 0, 1])}, r"boolean_value is int64 \(expected bool"),
        ({"subject_id": pa.array(list("abcd"))}, r"subject_id is string \(expected int64"),
        ({"rows": [*ROWS[:3], ROWS[0]]}, "subject 1 at 2020-01-01 00:00:00 is predicted twice"),
        ({"rows": [*ROWS[:3], (8, 2, True)]}, "subject 8 at 2020-01-03 00:00:00 is predicted, but"),
        ({"rows": [(1, 0, False), *ROWS[1:]]}, "subject 1 at .* has another boolean_value than"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_file_and_row(toys, labels, tmp_path, change, message):
    path = write(tmp_path / "died" / "0.parquet", table(toys, **change))
    with pytest.raises(ContractError, match=message) as error:
        read_predictions(tmp_path, {"died": labels})
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_rows_are_counted_and_the_first_is_named(toys, labels, tmp_path):
    write(tmp_path / "died" / "0.parquet", table(toys).slice(1, 2))
    with pytest.raises(ContractError, match=r"2 of 4 held-out .* task died, the first subject 1 "):
        read_predictions(tmp_path, {"died": labels})


def test_a_row_in_two_files_is_refused(toys, labels, tmp_path):
    write(tmp_path / "died" / "0.parquet", table(toys))
    write(tmp_path / "died" / "1.parquet", table(toys).slice(2, 1))
    with pytest.raises(ContractError, match=r"subject 4 at .* is predicted twice of task died"):
        read_predictions(tmp_path, {"died": labels})


def test_tasks_that_the_labels_lack_are_refused_and_those_not_evaluated_passed_over(
    toys, labels, tmp_path
):
    for task in ("died", "stayed"):
        write(tmp_path / task / "0.parquet", table(toys))
    with pytest.raises(ContractError, match="predicts task stayed; the labels have died, left"):
        read_predictions(tmp_path, {"died": labels, "left": labels})
    assert read_predictions(tmp_path, {"died": labels}, others=["stayed"]).keys() == {"died"}


def test_folders_without_predictions_are_refused(toys, labels, tmp_path):
    with pytest.raises(ContractError, match="no such directory"):
        read_predictions(tmp_path / "nowhere", {"died": labels})
    with pytest.raises(ContractError, match="holds no predictions"):
        read_predictions(tmp_path, {"died": labels})
    write(tmp_path / "0.parquet", table(toys))
    with pytest.raises(ContractError, match="lies in no task's folder"):
        read_predictions(tmp_path, {"died": labels})
    (tmp_path / "0.parquet").write_bytes(b"PAR1 torn")
    (tmp_path / "died").mkdir()
    (tmp_path / "0.parquet").rename(tmp_path / "died" / "0.parquet")
    with pytest.raises(ContractError, match=r"0\.parquet: not a readable Parquet file"):
        read_predictions(tmp_path, {"died": labels})


def test_sealed_predictions_are_checked_and_name_their_artifact(toys, labels, tmp_path):
    out = tmp_path / "theirs"
    with new_artifact(out, PREDICTIONS) as partial:
        write(partial / "died" / "0.parquet", table(toys))
        seal(partial, PREDICTIONS, producer="theirs 1", config={})
    assert read_predictions(out, {"died": labels})["died"][ALL].probability.shape == (4,)
    assert predictions_source(out) == source(out)
    path = write(out / "died" / "0.parquet", table(toys, probability=(0.1, 0.9, 0.2, 0.3)))
    with pytest.raises(ContractError, match=r"0\.parquet was changed"):
        read_predictions(out, {"died": labels})
    path.unlink()
    with pytest.raises(ContractError, match=r"0\.parquet is missing"):
        read_predictions(out, {"died": labels})
    assert predictions_source(write(tmp_path / "raw" / "p.parquet", table(toys)).parent).contract == "meds-predictions/0.4"  # fmt: skip


def test_what_rows_are_called_is_read_where_it_is_told_of_all(toys, labels, tmp_path):
    called = pa.array([True, False, True, True])
    path = write(tmp_path / "died" / "0.parquet", table(toys, predicted_boolean_value=called))
    assert read_predictions(tmp_path, {"died": labels})["died"][ALL].decided.tolist() == [
        1,
        0,
        1,
        1,
    ]
    write(path, table(toys))
    assert read_predictions(tmp_path, {"died": labels})["died"][ALL].decided is None
    write(path, table(toys, predicted_boolean_value=pa.array([True, None, True, True])))
    with pytest.raises(ContractError, match="row 1: predicted_boolean_value is null"):
        read_predictions(tmp_path, {"died": labels})
