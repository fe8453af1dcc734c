import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ehr_models.data.store import open_split
from ehr_models.data.tokens import open_tokens
from ehr_tracking.contracts import LABELS, ContractError
from ehr_tracking.manifest import seal
from ehr_train.data.examples import label_examples
from ehr_train.data.labels import read_rows, refuse_unknown

from .conftest import write_tokens

DAY = 86_400_000_000


def write_labels(path, subjects, days, values, **extra):
    path.parent.mkdir(parents=True, exist_ok=True)
    times = pa.array([None if d is None else int(d * DAY) for d in days], pa.timestamp("us"))
    table = pa.table(
        {
            "subject_id": pa.array(subjects, pa.int64()),
            "prediction_time": times,
            "boolean_value": pa.array([bool(v) for v in values]),
            **extra,
        }
    )
    pq.write_table(table, path)
    return path.parent


@pytest.fixture
def two(tmp_path):
    subjects = [
        {"subject_id": 5, "token": [5, 7, 8, 9, 10], "time": [None, None, 1, 2, 2]},
        {"subject_id": 3, "token": [5, 8, 8], "time": [None, 1, 4]},
    ]
    return write_tokens(tmp_path / "t", {"train": subjects[:1], "tuning": subjects[1:]})


def test_a_prediction_time_is_itself_visible_and_nothing_after_it(two, tmp_path):
    labels = write_labels(
        tmp_path / "l" / "0.parquet", [5, 5, 3, 5, 5], [2, 1.5, 9, 0, 1.99], [1, 0, 1, 0, 1]
    )
    train = label_examples(read_rows(labels, "binary"), open_split(open_tokens(two), "train"))
    assert train.visible.tolist() == [2, 3, 3, 5]
    assert train.label.tolist() == [0, 0, 1, 1]
    tuning = label_examples(read_rows(labels, "binary"), open_split(open_tokens(two), "tuning"))
    assert tuning.visible.tolist() == [3]
    assert tuning.tokens.subject_id[tuning.subject].tolist() == [3]


def test_all_null_value_columns_of_any_type_are_left_out(tmp_path):
    labels = write_labels(
        tmp_path / "l" / "a" / "0.parquet",
        [1, 2],
        [1, 2],
        [True, False],
        integer_value=pa.nulls(2, pa.null()),
        float_value=pa.nulls(2, pa.string()),
    )
    rows = read_rows(labels, "binary")
    assert rows.label.tolist() == [1, 0]
    assert rows.time.tolist() == [DAY, 2 * DAY]


def test_labels_of_unknown_subjects_are_refused_by_number_and_first(two, tmp_path):
    labels = write_labels(tmp_path / "l" / "0.parquet", [5, 77, 3, 78, 77], [9] * 5, [1] * 5)
    with pytest.raises(ContractError, match=r"name 2 subjects that .* does not have, the first 77"):
        refuse_unknown(read_rows(labels, "binary"), open_tokens(two), where=labels)


def test_what_is_wrong_with_a_label_file_is_said(tmp_path):
    with pytest.raises(ContractError, match="holds no labels"):
        read_rows(tmp_path, "binary")
    labels = write_labels(tmp_path / "l" / "0.parquet", [1, 2], [1, None], [True, True])
    with pytest.raises(ContractError, match=r"0\.parquet row 1: prediction_time is null"):
        read_rows(labels, "binary")
    pq.write_table(pa.table({"subject_id": np.array([1])}), tmp_path / "l" / "0.parquet")
    with pytest.raises(ContractError, match="has no column prediction_time"):
        read_rows(labels, "binary")
    (tmp_path / "l" / "0.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(ContractError, match=r"0\.parquet: not a readable Parquet file"):
        read_rows(labels, "binary")


def test_several_tasks_below_a_path_are_refused_by_name(tmp_path):
    for name, value in (("died", True), ("readmitted", False)):
        write_labels(tmp_path / "l" / name / "0.parquet", [1, 2], [1, 2], [value, value])
    with pytest.raises(ContractError, match=r"2 tasks \(died, readmitted\), but one is needed"):
        read_rows(tmp_path / "l", "binary")
    assert read_rows(tmp_path / "l" / "died", "binary").label.tolist() == [1, 1]


def test_a_task_may_hold_other_types_that_say_yes_or_no(tmp_path):
    labels = write_labels(
        tmp_path / "l" / "0.parquet",
        [1, 2],
        [1, 2],
        [True, False],
        boolean_value=pa.nulls(2, pa.bool_()),
        integer_value=pa.array([0, 1], pa.int8()),
    )
    assert read_rows(labels, "binary").label.tolist() == [0, 1]


def test_sealed_labels_that_were_changed_are_refused(tmp_path):
    task = write_labels(tmp_path / "l" / "task" / "labels.parquet", [1, 2], [1, 2], [True, False])
    seal(tmp_path / "l", LABELS, producer="test 0", config={})
    assert read_rows(task, "binary").label.tolist() == [1, 0]
    write_labels(task / "labels.parquet", [1, 2], [1, 2], [True, True])
    with pytest.raises(
        ContractError, match=r"task/labels\.parquet was changed: its SHA-256"
    ) as error:
        read_rows(task, "binary")
    assert "\n" not in str(error.value)
